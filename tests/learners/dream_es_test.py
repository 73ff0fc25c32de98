import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from tests.worlds import (
  AdditiveWorld,
  assert_near_optimum,
  assert_same,
  rows_of,
  small_mdn_rnn,
  state_at,
)
from wm_tf import rng
from wm_tf.imagination import imagine_returns, policy_action_fn
from wm_tf.learners import dream_es
from wm_tf.learners.dream_es import DreamES, DreamESConfig
from wm_tf.policies.linear import LinearController
from wm_tf.search.cma_es import CMAES

_SEED = rng.make_seed(3)
_CONFIG = DreamESConfig(num_rollouts=3, horizon=4, temperature=1.0, l2_penalty=0.0)


class Fixed:
  """A strategy that asks for given candidates `[N, D]`; its state is the fitness it was told."""

  def __init__(self, parameters):
    self.parameters = tf.constant(parameters, tf.float32)

  def init(self, mean):
    return tf.zeros([1, len(self.parameters)])

  def ask(self, state, seed):
    return self.parameters[tf.newaxis]

  def tell(self, state, x, fitness):
    return fitness


def _constant_actions(*actions):
  """Parameters of controllers that always do the same: a bias alone, `[N, D]`."""
  parameters = np.zeros((len(actions), 4, 2))
  parameters[:, 3] = np.arctanh(actions)
  return parameters.reshape(len(actions), 8).astype(np.float32)


def _random_parameters(controller, num, seed=0):
  generator = np.random.default_rng(seed)
  return tf.constant(generator.normal(size=(num, controller.num_parameters)), tf.float32)


def _score(world, parameters, starts, config=_CONFIG, seed=_SEED, jit_compile=False):
  controller = LinearController(world)
  es = DreamES(world, controller, Fixed(parameters), config, jit_compile=jit_compile)
  return es.score(tf.constant(parameters), starts, seed)


def test_scores_by_hand():
  """Two candidates, two starts, three steps; half of the dreams end at each step."""
  world = AdditiveWorld(goal=1.0, discount=0.5)
  parameters = _constant_actions([0.5, -0.5], [0.25, 0.0])
  config = dataclasses.replace(_CONFIG, horizon=3)
  starts = np.array([[0.0, 0.0], [2.0, -1.0]])
  returns, disagreement, alive = _score(world, parameters, state_at(starts), config)
  for n, action in enumerate(([0.5, -0.5], [0.25, 0.0])):
    steps = starts[:, None] + np.arange(1, 4)[:, None] * action
    expected = -(np.square(steps - 1.0).sum(-1) * [1, 0.5, 0.25]).sum(-1).mean()
    np.testing.assert_allclose(returns[n], expected, rtol=1e-5)
    np.testing.assert_allclose(disagreement[n], 1.75 * np.abs(action).sum(), rtol=1e-5)
  np.testing.assert_allclose(alive, [0.125, 0.125])


@pytest.mark.parametrize("kind", ["per_dimension", "joint"])
def test_scores_are_those_of_each_controller_alone(kind):
  """In dreams of an MDN-RNN, with the same noise for all."""
  model = small_mdn_rnn(mixture_kind=kind)
  controller = LinearController(model)
  parameters = _random_parameters(controller, 3)
  starts = model.imagine(model.initial_state(2), tf.constant([[0.1, 0.2], [-0.5, 1.0]]), _SEED)
  scores = _score(model, parameters, starts.state)
  for n in range(3):
    controller.parameters.assign(parameters[n])
    alone = imagine_returns(model, policy_action_fn(controller, _SEED), starts.state, 4, _SEED)
    expected = tuple(tf.reduce_mean(x) for x in alone[:1] + alone[1:3])
    assert_same(tuple(x[n] for x in scores), expected, rtol=1e-4)


@pytest.mark.parametrize("jit_compile", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_blocks_of_candidates_dream_as_all_together(jit_compile, monkeypatch):
  model = small_mdn_rnn()
  parameters = _random_parameters(LinearController(model), 6).numpy()

  def score():
    return _score(model, parameters, model.initial_state(2), jit_compile=jit_compile)

  together = score()
  # Of 12 rows: three blocks of two candidates; four would not be equal.
  monkeypatch.setattr(dream_es, "_BLOCK_ROWS", 3)
  assert dream_es._num_blocks(6, 2) == 3
  assert_same(score(), together)


@pytest.mark.parametrize("jit_compile", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_candidates_share_their_luck(jit_compile):
  world, starts = AdditiveWorld(noise_scale=1.0), state_at([[0.0, 0.0], [2.0, -1.0]])
  parameters = _random_parameters(LinearController(world), 4).numpy()
  parameters[3] = parameters[0]

  def score(rows, seed=_SEED):
    return _score(world, parameters[rows], starts, seed=seed, jit_compile=jit_compile)

  together = score([0, 1, 2, 3])
  assert_same(rows_of(together, [0]), rows_of(together, [3]), rtol=0, atol=0)
  assert_same(score([0, 1, 2, 3]), together, rtol=0, atol=0)
  assert_same(score([2, 1]), rows_of(together, [2, 1]))
  assert np.all(score([0, 1], rng.make_seed(4))[0] != together[0][:2])


def test_compiled_scores_are_the_same():
  """XLA draws other noise from a seed (see `rng`), so this is a world that makes nothing of it."""
  world, starts = AdditiveWorld(discount=0.9), state_at([[0.0, 0.0], [2.0, -1.0]])
  parameters = _random_parameters(LinearController(world), 5)
  plain, compiled = (_score(world, parameters, starts, jit_compile=jit) for jit in (False, True))
  assert_same(plain, compiled, rtol=1e-4)


def test_penalties():
  world = AdditiveWorld(goal=1.0, discount=0.5)
  parameters = _constant_actions([0.5, -0.5], [0.25, 0.0], [0.0, 0.0])
  config = dataclasses.replace(_CONFIG, l2_penalty=0.7, disagreement_penalty=0.3)
  starts = state_at([[0.0, 0.0]])
  es = DreamES(world, LinearController(world), Fixed(parameters), config, jit_compile=False)
  fitness, generation = es.generation(tf.zeros([1, 3]), starts, _SEED)
  returns, disagreement, alive = _score(world, parameters, starts)
  expected = returns - 0.7 * np.square(parameters).mean(1) - 0.3 * disagreement
  np.testing.assert_allclose(fitness[0], expected, rtol=1e-5)
  # What is reported is before penalties.
  np.testing.assert_allclose(generation.best, returns.numpy().max(), rtol=1e-5)
  np.testing.assert_allclose(generation.mean, returns.numpy().mean(), rtol=1e-5)
  np.testing.assert_allclose(generation.alive, alive.numpy().mean(), rtol=1e-5)
  assert generation.best.shape == generation.mean.shape == generation.alive.shape == ()


def test_starts_are_drawn_from_all_of_them():
  """One rollout: the fitness says which of three starts it was, the same for all candidates."""
  world = AdditiveWorld(goal=0.0)
  parameters = _constant_actions([0.0, 0.0], [0.0, 0.0])
  config = dataclasses.replace(_CONFIG, num_rollouts=1, horizon=1)
  es = DreamES(world, LinearController(world), Fixed(parameters), config, jit_compile=False)
  starts, drawn = state_at([[1.0, 0.0], [2.0, 0.0], [3.0, 0.0]]), []
  for seed in range(30):
    fitness, _ = es.generation(tf.zeros([1, 2]), starts, rng.make_seed(seed))
    assert fitness[0, 0] == fitness[0, 1]
    drawn.append(float(-fitness[0, 0]))
  counts = {value: drawn.count(value) for value in set(drawn)}
  assert set(counts) == {1.0, 4.0, 9.0} and min(counts.values()) >= 4


def test_evolves_to_near_the_optimum():
  world = AdditiveWorld(goal=1.0, noise_scale=0.02)
  controller = LinearController(world)
  config = DreamESConfig(num_rollouts=8, horizon=6, temperature=1.0, l2_penalty=0.001)
  search = CMAES(num_candidates=16, initial_scale=0.3)
  es = DreamES(world, controller, search, config)
  starts = np.random.default_rng(0).uniform(-0.5, 2.5, (64, 2))
  state, means = search.init(tf.zeros([1, controller.num_parameters])), []
  for generation in range(40):
    state, report = es.generation(state, state_at(starts), rng.make_seed(generation))
    means.append(float(report.mean))
    assert report.best >= report.mean
  assert np.mean(means[-5:]) > np.mean(means[:5])

  controller.parameters.assign(search.mean(state)[0])
  assert_near_optimum(world, controller, starts, horizon=6)


@pytest.mark.parametrize("ensemble_size", [1, 2])
def test_a_generation_in_the_dream_of_an_mdn_rnn(ensemble_size):
  """Compiled, from the controller's zero: the search moves, and the same seed gives the same."""
  model = small_mdn_rnn(ensemble_size=ensemble_size)
  controller = LinearController(model, basis_size=5)
  search = CMAES(num_candidates=6, initial_scale=0.5)
  es = DreamES(model, controller, search, dataclasses.replace(_CONFIG, num_rollouts=2))
  state = search.init(tf.zeros([1, controller.num_parameters]))
  starts = model.initial_state(3)
  first, report = es.generation(state, starts, _SEED)
  again, _ = es.generation(state, starts, _SEED)
  assert_same(first, again, rtol=0, atol=0)
  assert all(np.isfinite(x) for x in report) and 0 <= report.alive <= 1
  assert np.any(search.mean(first) != search.mean(state))
