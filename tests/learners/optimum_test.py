"""Every policy gradient comes near the best there is, where that is known."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from tests.worlds import AdditiveWorld, assert_near_optimum, state_at
from wm_tf import rng
from wm_tf.config import ControllerConfig
from wm_tf.learners.learner import make_learner
from wm_tf.learners.policy_gradients.methods import METHODS, PolicyGradientConfig, PPOConfig

_SEED = rng.make_seed(3)
_COMMON = dict(
  batch_size=64,
  horizon=6,
  discount=0.9,
  reward_scale=0.3,
  action_noise=0.5,
  actor_hidden_sizes=(16, 16),
  critic_hidden_sizes=(16, 16),
  actor_learning_rate=3e-3,
  critic_learning_rate=5e-3,
)
_SETTINGS = ControllerConfig(
  ppo=PPOConfig(num_updates=60, num_epochs=4, num_minibatches=4, kl_target=0.02, **_COMMON),
  reinforce=PolicyGradientConfig(num_updates=300, target_rate=0.05, **_COMMON),
)


@pytest.mark.parametrize("method", METHODS)
def test_reaches_the_optimum_of_a_linear_quadratic_world(method):
  """As evolution and imagination do.

  The position changes by the action, |action| <= 1 in each dimension, and the reward is minus the
  squared distance from the goal: `best_return` is exact.
  """
  pytest.importorskip("tf_agents", reason='not installed: pip install "wm_tf[agents]"')
  world = AdditiveWorld(goal=1.0, noise_scale=0.02)
  z = np.random.default_rng(0).uniform(-0.5, 2.5, (64, 2)).astype(np.float32)
  learner = make_learner(world, dataclasses.replace(_SETTINGS, method=method), seed=0)
  # What a controller sees: positions, and a distance travelled that is of no use to it.
  features = np.concatenate([z, np.random.default_rng(1).uniform(0, 2, (64, 1))], axis=1)
  for step in range(learner.begin(features, None)):
    learner.step(state_at(z), rng.fold_in(_SEED, step))
  learner.finish()
  assert_near_optimum(world, learner.policy, z, horizon=6)
