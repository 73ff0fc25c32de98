import dataclasses
import functools

import numpy as np
import pytest
import tensorflow as tf

from tests import fakes
from tests.worlds import AdditiveState, AdditiveWorld, small_mdn_rnn
from wm_tf import rng
from wm_tf.learners import real_search as real_es
from wm_tf.policies.actor import Actor
from wm_tf.policies.linear import LinearController
from wm_tf.policies.networks import Network, controller_actions
from wm_tf.search.cma_es import CMAES

_CONFIG = real_es.FinishConfig(strategy="cma_es", population_size=8, num_seeds=2, initial_scale=0.4)


def _world_and_policy(kind):
  world = small_mdn_rnn()
  if kind == "linear":
    policy = LinearController(world, 5)
    generator = np.random.default_rng(1)
    for variable in (policy.loc, policy.matrix, policy.parameters):
      variable.assign(generator.normal(size=variable.shape))
    return world, policy
  policy = Actor(world, (6, 3), seed=1)
  for index, weight in enumerate(policy.network.weights):
    weight.assign(tf.random.stateless_normal(weight.shape, [index, 1]))
  return world, policy


# --- What is searched ----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["linear", "actor"])
@pytest.mark.parametrize("parameters", real_es.PARAMETERS)
def test_each_row_acts_as_its_candidate_alone(kind, parameters):
  world, policy = _world_and_policy(kind)
  space = real_es.SearchSpace(Network.of(policy), parameters)
  x = np.random.default_rng(2).normal(size=(3, space.size))
  x[0] = 0.0
  candidates = real_es.CandidatePolicy(world, space)
  candidate = tf.constant([2, 0, 1, 1, 0])
  state = world.initial_state(5)
  state = type(state)(*(tf.random.stateless_normal(s.shape, [i, 7]) for i, s in enumerate(state)))
  for rows in (3, 2):  # Another number of candidates.
    candidates.become(x[:rows])
    action, memory = candidates.act(state, tf.minimum(candidate, rows - 1))
  candidates.become(x)
  action, memory = candidates.act(state, candidate)
  np.testing.assert_array_equal(memory, candidate)
  own, _ = policy.act(state, ())
  np.testing.assert_allclose(action[1], own[1], atol=1e-5)  # Candidate 0 is the controller itself.
  features = world.features(state)
  for row, index in enumerate(candidate.numpy()):
    layers = [layer[np.newaxis] for layer in space.at(x[index]).fold()]
    alone = controller_actions(layers, features[tf.newaxis])[0, row]
    np.testing.assert_allclose(action[row], alone, atol=1e-4)
  assert np.abs(action.numpy() - own.numpy()).max() > 0.01


def test_sizes_and_units():
  _, policy = _world_and_policy("actor")
  network = Network.of(policy)
  sizes = {kind: real_es.SearchSpace(network, kind).size for kind in real_es.PARAMETERS}
  assert sizes["output"] == 6 and sizes["last"] == 8
  assert sizes["all"] == sum(layer.size for layer in network.layers)
  space = real_es.SearchSpace(network, "last")
  moved = space.at(np.ones(8)).layers[-1] - network.layers[-1]
  np.testing.assert_allclose(moved, np.sqrt(np.square(network.layers[-1]).mean()), rtol=1e-5)
  # Output: a gain of 1.5 on the first action, and a shift of the second.
  x = np.array([0.5, 0.0, 0.0, 0.0, 0.0, 0.25])
  last = real_es.SearchSpace(network, "output").at(x).layers[-1]
  expected = network.layers[-1] * [1.5, 1.0]
  expected[-1, 1] += 0.25
  np.testing.assert_allclose(last, expected, rtol=1e-5)


# --- Selection -----------------------------------------------------------------------------------


def test_a_race_compares_on_equal_seeds_alone():
  table = np.array([[5.0, 0, 0], [1, 9, 9], [4, 4, 4], [2, 99, 99], [3, 3, 3]])
  asked = []

  def play(candidates, seeds):
    asked.append((list(candidates), list(seeds)))
    return table[np.ix_(candidates, seeds)]

  returns = real_es.race(play, 5, [0, 1, 2], 1)
  assert asked == [([0, 1, 2, 3, 4], [0]), ([0, 2, 4], [1, 2])]
  np.testing.assert_array_equal(np.isnan(returns[:, 1]), [False, True, False, True, False])
  # By all seeds among those that went on; below them the others, by the first seed.
  np.testing.assert_array_equal(real_es.fitness(returns), [2, 0, 4, 1, 3])
  asked.clear()
  returns = real_es.race(play, 5, [0, 1, 2], 3)
  assert len(asked) == 1
  np.testing.assert_array_equal(returns, table)
  np.testing.assert_array_equal(real_es.fitness(returns), [0, 3, 2, 4, 1])


# --- For real ------------------------------------------------------------------------------------


def _real_es(strategy=None):
  world = AdditiveWorld()
  space = real_es.SearchSpace(Network.of(LinearController(world)), "last")
  strategy = strategy or _CONFIG.make_strategy()
  es = real_es.RealES(fakes.make_spec(), world, space, strategy, _CONFIG.num_first_seeds)
  return es, space, strategy


def test_all_candidates_play_the_same_seeds():
  es, space, _ = _real_es()
  action = np.array([0.1, -0.7, 0.4, 0.0])
  x = np.zeros([4, space.size])
  x[:, 6] = np.arctanh(action)  # The first action's bias: D = (3 features + 1) * 2.
  seeds, ended = [3, 8, 2], []
  with real_es.CandidatePool(fakes.CountingEnv, 3) as pool:
    returns = es.play(pool, x, seeds, ended.append)
    again = es.play(pool, x[1:2], seeds[::-1])
  num = np.array([fakes.num_decisions(seed) for seed in seeds])
  expected = 1000 + num * (100 * np.array(seeds) + action[:, None]) + num * (num + 1) / 2
  np.testing.assert_allclose(returns, expected, rtol=1e-6)
  np.testing.assert_array_equal(again[0], returns[1, ::-1])
  assert len(ended) == 12


@pytest.mark.parametrize("separable", [False, True])
def test_finds_the_optimum(separable):
  strategy = dataclasses.replace(_CONFIG.make_strategy(), separable=separable)
  es, space, strategy = _real_es(strategy)
  state = real_es.begin(strategy, space)

  def mean():
    return strategy.mean(state).numpy()

  with real_es.CandidatePool(fakes.TargetEnv, 4) as pool:
    first = es.play(pool, mean(), [7])[0, 0]
    for step in range(30):
      seeds = [100 + 2 * step, 101 + 2 * step]
      state, report = es.generation(pool, state, seeds, rng.make_seed(step))
      assert report.num_episodes == _CONFIG.num_episodes == 8 + 4
    last = es.play(pool, mean(), [7])[0, 0]
  # Skipped frames bring 1000, the seed nothing; the best that can be is 0 a decision.
  assert first == pytest.approx(1000 - 3 * np.square(fakes.TargetEnv.TARGET).sum())
  assert 1000 - 0.02 < last <= 1000


def test_goes_on_with_the_dreams_distribution():
  _, policy = _world_and_policy("linear")
  space = real_es.SearchSpace(Network.of(policy), "all")
  generator = np.random.default_rng(0)
  root = generator.normal(size=(space.size, space.size))
  covariance = root @ root.T
  for separable in (False, True):
    strategy = CMAES(num_candidates=4000, initial_scale=0.2, separable=separable)
    state = real_es.begin(strategy, space, covariance)
    assert not np.any(strategy.mean(state)) and state.mean.dtype == tf.float64
    x = strategy.ask(state, rng.make_seed(1))[0].numpy()
    shape = 0.04 * covariance * space.size / np.trace(covariance)
    expected = np.diag(np.diag(shape)) if separable else shape
    np.testing.assert_allclose(np.cov(x.T), expected, atol=0.01)
  diagonal = real_es.begin(CMAES(), space, np.arange(1.0, 1 + space.size))
  assert diagonal.covariance.shape == (1, space.size, space.size)
  other = real_es.begin(CMAES(), real_es.SearchSpace(Network.of(policy), "output"), covariance)
  np.testing.assert_array_equal(other.axes, np.ones([1, 6]))


@pytest.mark.parametrize(
  ("field", "value", "message"),
  [
    ("strategy", "cem", "known are: cma_es, sep_cma_es"),
    ("parameters", "first", "must be one of .*output"),
    ("population_size", 3, "at least 4"),
    ("first_share", 1.5, "is a share"),
    ("initial_scale", 0.0, "must be positive"),
  ],
)
def test_what_makes_no_sense_is_refused(field, value, message):
  with pytest.raises(ValueError, match=f"{field}.*{message}"):
    functools.partial(dataclasses.replace, _CONFIG)(**{field: value})


def test_a_state_of_a_world_is_carried():
  """What a row remembers of its episode is its own, whichever candidate drove there before."""
  es, space, _ = _real_es()
  x = np.zeros([2, space.size])
  x[:, 4] = [0.0, 0.3]  # The first action grows with the distance travelled in the episode,
  x[:, 6] = 0.1  # which a bias begins.
  with real_es.CandidatePool(fakes.CountingEnv, 2) as pool:
    returns = es.play(pool, x, [1, 5])
  for row, gain in enumerate((0.0, 0.3)):
    for column, seed in enumerate((1, 5)):
      distance, expected, num = 0.0, 1000.0, fakes.num_decisions(seed)
      for t in range(num):
        action = np.tanh(0.1 + gain * distance)
        distance += abs(action)
        expected += 100 * seed + t + 1 + action
      assert returns[row, column] == pytest.approx(expected, rel=1e-7)
  assert AdditiveState._fields == ("z", "distance")
