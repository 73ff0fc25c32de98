"""The dreams of an actor, the states that they start from, and replayed steps."""

import numpy as np
import pytest
import tensorflow as tf

from tests.learners.small_actor_critic import SEED, drawn_noise, flat, make_learner, randomise
from tests.nonlinear_world import NonlinearWorld
from tests.worlds import AdditiveWorld, assert_same, small_mdn_rnn, state_at
from wm_tf import rng
from wm_tf.learners.actor_rollouts import (
  Replayed,
  differentiable_rollout,
  forward_rollout,
  replayed_starts,
)

# --- Rollouts and starts --------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["mdn_rnn", "categorical"])
def test_both_rollouts_are_equal(kind):
  world = NonlinearWorld(categorical=True) if kind == "categorical" else small_mdn_rnn()
  learner = make_learner(world, actor_gradient="reinforce")
  starts = world.initial_state(5)
  rollouts = [
    learner._roll_out(fn, starts, drawn_noise(learner, starts))
    for fn in (differentiable_rollout, forward_rollout)
  ]
  assert rollouts[0].features.shape == (5, 5, world.feature_size)
  assert rollouts[0].entropy.shape == (5, 4)
  assert_same(*(rollout[:5] for rollout in rollouts), rtol=1e-4, atol=1e-5)


def test_dreams_never_start_from_padding_or_terminal_states():
  """Windows of two steps: the second state of the first is terminal, that of the second padding."""
  z = np.full([2, 2, 2], np.nan)
  z[:, 0] = [[1.0, 0.0], [0.5, 0.5]]
  states = tf.nest.map_structure(lambda x: tf.reshape(x, [2, 2, -1]), state_at(z.reshape(4, 2)))
  mask = tf.constant([[True, True], [True, False]])
  starts, allowed = replayed_starts(states, mask, tf.constant([[1.0, 0.0], [1.0, 1.0]]))
  np.testing.assert_array_equal(allowed, [True, False, True, False])
  learner = make_learner(AdditiveWorld(), batch_size=64, actor_gradient="reinforce")
  assert np.isfinite(learner.update(starts, SEED, allowed).return_mean)
  assert not np.isfinite(learner.update(starts, SEED).return_mean)


# --- Replayed steps -------------------------------------------------------------------------------


def _replayed(rows, world):
  """Windows of one episode that goes on, of one whose second state is its last, and of padding."""
  features = np.random.default_rng(1).normal(size=(3, 4, world.feature_size))
  is_first, discount, mask = np.zeros([3, 4], bool), np.ones([3, 4]), np.ones([3, 4], bool)
  is_first[1, 2], mask[2, 2:], discount[1, 1] = True, False, rows
  reward = np.arange(12.0).reshape(3, 4)
  found = (features.astype(np.float32), reward.astype(np.float32), discount.astype(np.float32))
  return Replayed(*map(tf.constant, (*found, is_first, mask)))


@pytest.mark.parametrize("last", [0.0, 1.0])  # It is terminal, or the episode was truncated there.
def test_returns_of_replayed_steps(last):
  replayed = _replayed(last, AdditiveWorld())
  values = tf.constant(np.random.default_rng(0).normal(size=(3, 4)), tf.float32)
  v = values.numpy()
  found = replayed.targets(values, 10.0, 0.9, 0.7).numpy()

  def step(reward, discount, value, target):
    return 10.0 * reward + 0.9 * discount * (0.3 * value + 0.7 * target)

  third = step(3.0, 1.0, v[0, 3], v[0, 3])
  second = step(2.0, 1.0, v[0, 2], third)
  np.testing.assert_allclose(found[0], [step(1.0, 1.0, v[0, 1], second), second, third], rtol=1e-5)
  np.testing.assert_allclose(found[1, 0], step(5.0, last, v[1, 1], v[1, 1]), rtol=1e-5)
  np.testing.assert_allclose(found[1, 2], step(7.0, 1.0, v[1, 3], v[1, 3]), rtol=1e-5)
  np.testing.assert_allclose(found[2, 0], step(9.0, 1.0, v[2, 1], v[2, 1]), rtol=1e-5)
  followed = [[True] * 3, [True, False, True], [True, False, False]]
  np.testing.assert_array_equal(replayed.followed(), followed)


@pytest.mark.parametrize("actor_gradient", ["dynamics", "reinforce"])
def test_only_the_critic_learns_from_replayed_steps(actor_gradient):
  world = AdditiveWorld()
  options = dict(actor_gradient=actor_gradient, critic="symexp_twohot", slow_critic="regulariser")
  learner = randomise(make_learner(world, replay_scale=0.3, **options), 0.1)
  dream = learner._reinforce if actor_gradient == "reinforce" else learner._dream
  starts, replayed = state_at([[1.0, 0.0]]), _replayed(0.0, world)
  actor, critic, report = dream(starts, drawn_noise(learner, starts), replayed)
  same, before, without = dream(starts, drawn_noise(learner, starts))
  np.testing.assert_array_equal(flat(actor), flat(same))
  assert without.replay_loss is None and report.critic_loss == without.critic_loss
  with tf.GradientTape() as tape:
    loss = learner._with_replay(tf.constant(0.0), replayed)[1]
  expected = tape.gradient(loss, [weight.value for weight in learner.critic.network.weights])
  np.testing.assert_allclose(loss, 0.3 * report.replay_loss, rtol=1e-6)
  np.testing.assert_allclose(flat(critic), flat(before) + flat(expected), rtol=1e-3, atol=1e-6)


def test_the_critic_fits_the_returns_of_replayed_steps():
  """Real rewards are 1 where dreams have none: with all weight on them, values are 1 / (1 - d)."""
  world = AdditiveWorld(goal=0.0)
  learner = make_learner(
    world, replay_scale=1e3, discount=0.5, critic_learning_rate=3e-3, target_rate=1.0
  )
  replayed = _replayed(1.0, world)
  replayed = replayed._replace(
    features=tf.ones_like(replayed.features),
    reward=tf.ones([3, 4]),
    is_first=tf.zeros([3, 4], bool),
    mask=tf.ones([3, 4], bool),
  )
  for step in range(400):
    learner.update(state_at([[0.0, 0.0]]), rng.fold_in(SEED, step), None, replayed)
  values = learner.critic.scaled_values(learner.critic.network(replayed.features[:, :-1]))
  np.testing.assert_allclose(values, 2.0, atol=0.1)
