import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from tests.learners.small_actor_critic import drawn_noise
from tests.worlds import (
  AdditiveWorld,
  assert_near_optimum,
  assert_same,
  small_mdn_rnn,
  state_at,
)
from wm_tf import rng
from wm_tf.imagination import imagine, policy_action_fn
from wm_tf.learners.actor_critic import ActorCritic, ActorCriticConfig

_SEED = rng.make_seed(3)
_CONFIG = ActorCriticConfig(
  batch_size=3,
  horizon=4,
  discount=0.9,
  action_noise=0.0,
  final_action_noise=0.0,
  reward_scale=1.0,
  actor_hidden_sizes=(8,),
  critic_hidden_sizes=(8,),
)


def _learner(world, config=_CONFIG, jit_compile=False, seed=0):
  return ActorCritic(world, config, seed, jit_compile=jit_compile)


def _objective(world, learner, starts, config):
  """What the actor's gradient is of, with lambda 1: the mean over steps of the return from there.

  By another way: `imagine`, a loop, and the slow critic.
  """
  policy = policy_action_fn(learner.policy, _SEED)
  imagined, states = imagine(world, policy, starts, config.horizon, _SEED)
  last = tf.nest.map_structure(lambda x: x[:, -1], states)
  target, targets = learner._slow_critic(world.features(last))[..., 0].numpy(), []
  for t in reversed(range(config.horizon)):
    target = imagined.reward[:, t].numpy() + config.discount * target
    targets.append(target)
  return np.mean(targets)


def test_the_gradient_is_that_of_the_returns():
  """Against finite differences."""
  world = AdditiveWorld(goal=1.0)
  config = dataclasses.replace(_CONFIG, lambda_=1.0)
  learner, starts = _learner(world, config), state_at([[0.0, 0.3], [2.0, -1.0], [0.5, 0.5]])
  # With weights of some size, so that every layer matters; the slow critic's too.
  generator = np.random.default_rng(0)
  for network in (learner.policy.network, learner._slow_critic):
    for weight in network.weights:
      weight.assign(generator.normal(0.0, 0.4, weight.shape))
  gradients, _, _ = learner._dream(starts, drawn_noise(learner, starts, _SEED))
  for weight, gradient in zip(learner.policy.network.weights, gradients, strict=True):
    direction = generator.normal(size=weight.shape).astype(np.float32)
    value, step = weight.numpy(), 1e-2
    ends = []
    for sign in (1, -1):
      weight.assign(value + sign * step * direction)
      ends.append(_objective(world, learner, starts, config))
    weight.assign(value)
    expected = (ends[0] - ends[1]) / (2 * step)
    np.testing.assert_allclose(-np.sum(gradient * direction), expected, rtol=2e-2, atol=2e-3)


def test_the_critic_learns_the_value():
  """An actor that stands still (learning rate 0) earns -|z - goal|^2 for ever: a geometric sum."""
  world = AdditiveWorld(goal=0.0, action_size=1)
  config = dataclasses.replace(
    _CONFIG,
    batch_size=64,
    reward_scale=0.5,
    target_rate=0.1,
    actor_learning_rate=0.0,
    critic_learning_rate=1e-2,
    critic_hidden_sizes=(32,),
  )
  learner = _learner(world, config)
  last = learner.policy.network.weights[-2]
  last.assign(tf.zeros_like(last))
  starts = state_at(np.linspace(-1.5, 1.5, 64)[:, None])
  for step in range(400):
    learner.update(starts, rng.fold_in(_SEED, step))
  found = learner.critic.value(starts)
  np.testing.assert_allclose(found, -np.square(starts.z[:, 0]) / (1 - 0.9), atol=1.5)


@pytest.mark.slow
def test_learns_to_near_the_optimum():
  world = AdditiveWorld(goal=1.0, noise_scale=0.02)
  config = dataclasses.replace(
    _CONFIG,
    batch_size=64,
    action_noise=0.1,
    final_action_noise=0.1,
    actor_learning_rate=5e-3,
    critic_learning_rate=5e-3,
    target_rate=0.05,
    actor_hidden_sizes=(16, 16),
  )
  learner = _learner(world, config, jit_compile=True)
  starts = np.random.default_rng(0).uniform(-0.5, 2.5, (64, 2))
  reports = [learner.update(state_at(starts), rng.fold_in(_SEED, step)) for step in range(250)]

  def mean(rows):
    return np.mean([float(report.return_mean) for report in rows])

  assert mean(reports[-20:]) > mean(reports[:20])

  assert_near_optimum(world, learner.policy, starts, horizon=6)


@pytest.mark.parametrize(
  ("kind", "ensemble_size"),
  [pytest.param("per_dimension", 2, marks=pytest.mark.slow), ("joint", 1)],
)
def test_goes_on_exactly_where_it_was(kind, ensemble_size):
  """In the dream of an MDN-RNN: two updates, a checkpoint, two more in a new learner."""
  model = small_mdn_rnn(mixture_kind=kind, ensemble_size=ensemble_size)
  config = dataclasses.replace(
    _CONFIG, action_noise=0.3, final_action_noise=0.1, disagreement_penalty=0.5
  )
  starts = model.imagine(model.initial_state(5), tf.zeros([5, 2]), _SEED).state
  learner = _learner(model, config)
  learner.standardise(model.features(starts).numpy())
  for step in range(2):
    learner.update(starts, rng.fold_in(_SEED, step))
  saved = tf.nest.map_structure(lambda variable: variable.numpy(), learner.variables())
  other = _learner(model, config, seed=7)
  for variable, value in zip(
    tf.nest.flatten(other.variables()), tf.nest.flatten(saved), strict=True
  ):
    variable.assign(value)
  for step in range(2, 4):
    # Metrics of options that are not used are None.
    reports = [each.update(starts, rng.fold_in(_SEED, step))[:4] for each in (learner, other)]
    assert_same(*reports, rtol=0, atol=0)
  assert all(np.isfinite(x) for x in reports[0])
  after = tf.nest.map_structure(lambda variable: variable.numpy(), learner.variables())
  assert_same(after, tf.nest.map_structure(lambda v: v.numpy(), other.variables()), rtol=0, atol=0)
  assert np.any(after["actor"]["weights_0"] != saved["actor"]["weights_0"])


def test_the_noise_falls_over_the_updates():
  """Two updates of different noise differ; noise that has fallen to nothing is that of none."""
  config = dataclasses.replace(_CONFIG, action_noise=0.8, final_action_noise=0.0, num_updates=9)
  learner = _learner(AdditiveWorld(), config)
  learner.anneal_over(4)
  starts, found = state_at([[1.0, 0.0]]), []
  for step in range(6):
    found.append(float(learner.noise_scale()))
    learner.update(starts, rng.fold_in(_SEED, step))
  np.testing.assert_allclose(found, [0.8, 0.6, 0.4, 0.2, 0.0, 0.0], atol=1e-6)
  gradients = [
    learner._dream(starts, drawn_noise(learner, starts, _SEED, tf.constant(x)))[0][0]
    for x in (0.0, 0.8)
  ]
  assert np.any(gradients[0] != gradients[1])


def test_nothing_is_learned_from_what_is_not_finite():
  world = AdditiveWorld()
  learner = _learner(world)
  weights = [weight.numpy() for weight in learner.policy.network.weights]
  learner.update(state_at([[np.nan, 0.0]]), _SEED)
  assert_same(weights, [weight.numpy() for weight in learner.policy.network.weights], 0, 0)
  learner.update(state_at([[1.0, 0.0]]), _SEED)
  assert np.any(learner.policy.network.weights[0].numpy() != weights[0])


def test_disagreement_is_penalised():
  """In a world of no reward the penalty on |action| alone makes the actor stand still."""
  world = AdditiveWorld(goal=0.0, gain=0.0)
  config = dataclasses.replace(_CONFIG, disagreement_penalty=1.0, actor_learning_rate=1e-2)
  learner = _learner(world, config)
  learner.policy.network.weights[-1].assign([0.8, -0.8])
  for step in range(100):
    learner.update(state_at([[0.0, 0.0]]), rng.fold_in(_SEED, step))
  action, _ = learner.policy.act(state_at([[0.0, 0.0]]), ())
  assert np.all(np.abs(action) < 0.15)


def test_what_is_usual_is_not_penalised():
  starts, gradients = state_at([[1.0, 0.0]]), []
  for penalty, usual in ((0.0, 0.0), (1.0, 2.0), (1.0, 0.0)):
    world = AdditiveWorld()
    world.usual_disagreement = usual  # No action moves by more than 2.
    learner = _learner(world, dataclasses.replace(_CONFIG, disagreement_penalty=penalty))
    gradients.append(learner._dream(starts, drawn_noise(learner, starts, _SEED))[0])
  assert_same(gradients[0], gradients[1])
  assert np.any(np.abs(gradients[0][0] - gradients[2][0]) > 1e-3)


@pytest.mark.parametrize(
  "options",
  [
    {"num_updates": 0},
    {"horizon": 0},
    {"discount": 1.5},
    {"lambda_": -0.1},
    {"action_noise": -1.0},
  ],
)
def test_refuses(options):
  with pytest.raises(ValueError, match=next(iter(options))):
    ActorCriticConfig(**options)
