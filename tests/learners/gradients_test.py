"""What learners by gradients share: the derived reward scale, and how they go on."""

import numpy as np
import pytest
import tensorflow as tf

from tests.nonlinear_world import NonlinearWorld
from tests.worlds import assert_same
from wm_tf import rng
from wm_tf.learners.actor_critic import ActorCritic, ActorCriticConfig
from wm_tf.learners.gradients import GradientConfig, derive_reward_scale, return_bounds

_SEED = rng.make_seed(3)
_REWARDS = [np.array([0.0, 1.0, -0.5, 2.0]), np.array([0.0, 3.0])]
_CONFIG = ActorCriticConfig(
  num_updates=5,
  num_further_updates=3,
  batch_size=4,
  horizon=2,
  actor_hidden_sizes=(4,),
  critic_hidden_sizes=(4,),
)


def test_the_scale_is_the_inverse_spread_of_discounted_returns():
  # By hand, from each step to the end of its episode.
  first = [0.5 * 1.25, 1.0 + 0.5 * 0.5, -0.5 + 0.5 * 2.0, 2.0]
  expected = 1.0 / np.std([*first, 0.5 * 3.0, 3.0])
  assert derive_reward_scale(_REWARDS, 0.5) == pytest.approx(expected)


@pytest.mark.parametrize("factor", [1e-3, 7.0, 1e6])
def test_scaled_rewards_are_the_same_learning_problem(factor):
  scaled = [factor * episode for episode in _REWARDS]
  found = derive_reward_scale(scaled, 0.9) * factor
  assert found == pytest.approx(derive_reward_scale(_REWARDS, 0.9))


def test_without_any_reward_the_scale_is_one():
  assert derive_reward_scale([np.zeros(5), np.zeros(3)], 0.9) == 1.0


@pytest.mark.parametrize("rewards", [[], [np.array([0.0, np.nan])]])
def test_a_scale_that_cannot_be_derived_is_an_error(rewards):
  with pytest.raises(ValueError, match="set reward_scale to a number"):
    derive_reward_scale(rewards, 0.9)


def test_bounds_of_returns():
  np.testing.assert_allclose(return_bounds(_REWARDS, 0.9), (-5.0, 30.0))
  np.testing.assert_allclose(return_bounds([np.ones(3)], 0.5), (0.0, 2.0))  # It may end at once.
  assert return_bounds(_REWARDS, 1.0) == (-np.inf, np.inf)


def _learner(seed=0, **options):
  config = ActorCriticConfig(**{**vars(_CONFIG), **options})
  return ActorCritic(NonlinearWorld(), config, seed, jit_compile=False)


def _features(x):
  return NonlinearWorld().features(tf.constant(x, tf.float32)).numpy()


_X = np.linspace(-1, 2, 20)[:, None]


def test_the_derived_scale_and_the_bounds_are_kept():
  """In the checkpoint, in the policy's file, and in what goes on from it."""
  learner, other, further = _learner(), _learner(1), _learner(2)
  starts = tf.constant(_X, tf.float32)
  assert learner.begin(_features(_X), None, _REWARDS) == 5
  scale = derive_reward_scale(_REWARDS, _CONFIG.discount)
  assert float(learner.critic.reward_scale) == pytest.approx(scale)
  learner.step(starts, _SEED)
  other.restore(learner.state())
  assert learner.step(starts, rng.make_seed(4)) == other.step(starts, rng.make_seed(4))
  assert_same(learner.state(), other.state(), rtol=0, atol=0)

  # Ten times the rewards: networks that go on keep the scale that they were trained with.
  more = [10.0 * episode for episode in _REWARDS]
  assert further.begin(_features(_X), learner.policy_state(), more) == 3
  assert float(further.critic.reward_scale) == pytest.approx(scale)
  bounds = further.state()["targets"]["bounds"]
  np.testing.assert_allclose(bounds, scale * np.array(return_bounds(more, 0.99)), rtol=1e-5)
  np.testing.assert_allclose(further.critic.value(starts), learner.critic.value(starts), rtol=1e-6)
  assert further.begin(_features(_X), None, more) == 5
  assert float(further.critic.reward_scale) == pytest.approx(scale / 10.0)


def test_an_explicit_scale_leaves_files_as_they_were():
  learner = _learner(reward_scale=0.1)
  learner.begin(_features(_X), None)
  assert "targets" not in learner.state()
  assert set(learner.policy_state()["critic"]) == {
    "loc",
    "scale",
    *(f"weights_{i}" for i in range(4)),
  }
  assert learner.critic.reward_scale == 0.1


def test_values_beyond_what_rewards_allow_are_not_believed():
  """A critic that extrapolates without bound teaches no more than the largest return."""
  learner = _learner()
  learner.begin(_features(_X), None, [np.array([0.0, 1.0, 0.0])])
  for weight in learner._slow_critic.weights:
    weight.assign(tf.zeros_like(weight))
  learner._slow_critic.weights[-1].assign([1e6])
  scale = float(learner.critic.reward_scale)
  values = learner.slow_values(tf.constant(_features(_X)))
  np.testing.assert_allclose(values, scale * 100.0, rtol=1e-5)  # 1 / (1 - 0.99).


def test_what_goes_on_scales_all_inputs_alike():
  """The slow critic too: it is a copy of the critic."""
  learner, further = _learner(), _learner(1)
  learner.begin(_features(_X), None, _REWARDS)
  further.begin(_features(_X), learner.policy_state(), _REWARDS)
  assert_same(further._slow_critic.state(), learner.critic.network.state(), rtol=0, atol=0)
  assert np.any(learner.critic.network.loc.numpy() != 0.0)


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"reward_scale": 0.0}, "reward_scale must be positive"),
    ({"entropy_scale": -1.0}, "entropy_scale must be at least 0"),
    ({"target_rate": 1.1}, "target_rate must be between 0 and 1"),
  ],
)
def test_refuses(options, message):
  with pytest.raises(ValueError, match=message):
    GradientConfig(num_updates=1, **options)
