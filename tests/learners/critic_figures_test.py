"""The critic's figures against closed forms, in worlds whose returns are known."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from tests.learners.small_actor_critic import SEED, make_learner
from tests.worlds import AdditiveWorld, state_at
from wm_tf.learners.critic_figures import critic_figures, num_steps


@pytest.mark.parametrize(
  ("discount", "steps"), [(0.0, 1), (0.5, 7), (0.9, 44), (0.99, 459), (0.9999, 2000), (1.0, 2000)]
)
def test_dreams_last_until_one_percent_of_a_constant_return_is_left(discount, steps):
  assert num_steps(discount) == steps
  if discount > 0.0 and steps < 2000:
    assert discount**steps <= 0.01 < discount ** (steps - 1)


def _figures(positions, noise_scale=0.0):
  """The figures of an actor that takes no action of its own, in a world with its goal at 0."""
  world = AdditiveWorld(goal=0.0, action_size=1)
  learner = make_learner(world, discount=0.9, action_distribution="tanh_normal")
  for network in (learner.policy.network, learner.critic.network):
    last = network.weights[-2]
    last.assign(tf.zeros_like(last))
  starts = state_at(np.reshape(positions, [-1, 1]))
  return critic_figures(world, learner.policy, learner.critic, starts, SEED, noise_scale)


def test_the_return_is_the_geometric_sum_of_a_constant_reward():
  """An actor that stands still at distance 1 from the goal pays 1 a step, for 44 steps."""
  found = _figures([1.0, -1.0])
  np.testing.assert_allclose(found["monte_carlo"], -(1 - 0.9**44) / (1 - 0.9), rtol=1e-4)
  np.testing.assert_allclose(found["monte_carlo_error"], 0.0, atol=1e-4)
  assert found["critic"] == 0.0


def test_the_error_is_the_standard_error_of_128_dreams():
  """Half of the starts pay 1 a step and half pay 4: the deviation is that of a coin."""
  found = _figures(np.repeat([1.0, 2.0], 64))
  length = (1 - 0.9**44) / (1 - 0.9)
  share = (-found["monte_carlo"] / length - 1) / 3  # Of the drawn starts that are at 2.
  assert 0.3 < share < 0.7
  deviation = 3 * length * np.sqrt(share * (1 - share) / 127)
  np.testing.assert_allclose(found["monte_carlo_error"], deviation, rtol=1e-3)


def test_actions_are_sampled_as_in_training():
  """Noise moves the actor away from the goal, at which standing still would cost nothing."""
  assert _figures([0.0, 0.0], noise_scale=0.0)["monte_carlo"] == 0.0
  assert _figures([0.0, 0.0], noise_scale=0.3)["monte_carlo"] < -1.0


def test_the_learner_reports_them_from_its_own_policy():
  learner = make_learner(AdditiveWorld(goal=1.0), discount=0.9)
  found = learner.figures(state_at([[0.0, 0.0]]), SEED)
  assert set(found) == {"critic", "monte_carlo", "monte_carlo_error"}
  assert np.isfinite(list(found.values())).all()
