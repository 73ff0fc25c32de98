"""Every learner comes near the best return where that is known, with the presets' own settings."""

from __future__ import annotations

import dataclasses
import functools

import numpy as np
import pytest
import tensorflow as tf

from tests.nonlinear_world import NonlinearWorld, share_of_best
from tests.worlds import AdditiveWorld, assert_near_optimum, state_at
from wm_tf import rng
from wm_tf.config import METHODS, ControllerConfig, make_config
from wm_tf.config.presets import DREAMER_LEARNER
from wm_tf.learners.learner import make_learner
from wm_tf.learners.policy_gradients.methods import METHODS as POLICY_GRADIENTS
from wm_tf.learners.policy_gradients.methods import PolicyGradientConfig, PPOConfig

_SEED = rng.make_seed(3)
# Fewer steps than the preset's, since this world is small: the rest is as a run has it.
_STEPS = {"es": 20, "actor_critic": 800, "ppo": 60, "ppo_clip": 60, "reinforce": 400}
_EPISODE = 60  # Decisions in an episode of random play.


def _learn(world, settings, starts, features, rewards, num_steps=None):
  learner = make_learner(world, settings, seed=0)
  num = learner.begin(features, None, rewards)
  learner.anneal_over(num_steps or num)
  for step in range(num_steps or num):
    learner.step(starts, rng.fold_in(_SEED, step))
  learner.finish()
  return learner


def _skip_without_tf_agents(method):
  if method in POLICY_GRADIENTS:
    pytest.importorskip("tf_agents", reason='not installed: pip install "wm_tf[agents]"')


@functools.cache
def _random_play(categorical):
  """Rewards of 20 episodes of random steps, and the positions `[20 * 60, 1]` before them."""
  world, generator = NonlinearWorld(categorical), np.random.default_rng(0)
  x = tf.constant(generator.uniform(-1.5, 2.5, (20, 1)), tf.float32)
  rewards, positions = [], []
  for _ in range(_EPISODE):
    if categorical:
      groups = (np.eye(size)[generator.integers(size, size=20)] for size in world.num_choices)
      action = np.concatenate(list(groups), axis=1)
    else:
      action = generator.uniform(-1, 1, (20, 1))
    positions.append(x.numpy())
    x, reward, *_ = world.imagine_with_noise(x, tf.constant(action, tf.float32), 0.0)
    rewards.append(reward.numpy())
  return list(np.transpose(rewards)), np.concatenate(positions)


@pytest.mark.slow
@pytest.mark.parametrize("categorical", [False, True], ids=["continuous", "categorical"])
@pytest.mark.parametrize("method", METHODS)
def test_a_nonlinear_world_with_the_settings_of_the_quickstart(method, categorical):
  """Rewards are of about 10 a step."""
  _skip_without_tf_agents(method)
  world = NonlinearWorld(categorical)
  settings = make_config(
    "quickstart", [f"controller.method={method}"], environment="gym:Pendulum-v1"
  ).controller.derived(_EPISODE)
  # A linear controller on x and x^2; the preset's components are those of a hidden state.
  settings = dataclasses.replace(settings, hidden_components=2)
  rewards, x = _random_play(categorical)
  starts = tf.constant(x)
  features = world.features(starts).numpy()
  learner = _learn(world, settings, starts, features, rewards, _STEPS[method])
  shares = share_of_best(world, learner.policy, np.linspace(-1.5, 2.5, 33))
  assert np.mean(shares) > 0.85 and np.min(shares) > 0.5, shares


@pytest.mark.slow
@pytest.mark.parametrize(
  ("categorical", "gradient"),
  [(False, "reinforce"), (True, "reinforce"), (False, "dynamics")],
  ids=["continuous", "categorical", "continuous-dynamics"],
)
def test_a_nonlinear_world_with_the_options_of_dreamer(categorical, gradient):
  """In units of reward. Learning rates and horizons are those of a small world."""
  world, group = NonlinearWorld(categorical), "controller.actor_critic"
  overrides = (
    f"actor_gradient={gradient}",
    "discount=0.9",
    "batch_size=64",
    "horizon=6",
    "actor_learning_rate=1e-3",
    "critic_learning_rate=1e-3",
    "warmup_updates=50",
  )
  settings = make_config(
    "default",
    [*DREAMER_LEARNER, *(f"{group}.{text}" for text in overrides)],
    environment="gym:Pendulum-v1",
  ).controller
  _, x = _random_play(categorical)
  starts = tf.constant(x)
  learner = _learn(world, settings, starts, world.features(starts).numpy(), None, 700)
  shares = share_of_best(world, learner.policy, np.linspace(-1.5, 2.5, 33))
  assert np.mean(shares) > 0.95 and np.min(shares) > 0.85, shares
  # The critic knows the return: near the goal, 15 at each step.
  value = learner.critic.value(tf.constant([[1.0]]))
  np.testing.assert_allclose(value, [15.0 / (1.0 - 0.9)], rtol=0.5)


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


@pytest.mark.parametrize(
  "method",
  [pytest.param(m, marks=[] if m == "reinforce" else pytest.mark.slow) for m in POLICY_GRADIENTS],
)
def test_reaches_the_optimum_of_a_linear_quadratic_world(method):
  """The position changes by the action and the reward is minus the squared distance to a goal."""
  _skip_without_tf_agents(method)
  world = AdditiveWorld(goal=1.0, noise_scale=0.02)
  z = np.random.default_rng(0).uniform(-0.5, 2.5, (64, 2)).astype(np.float32)
  # A controller sees positions, and a distance travelled that does not help it.
  features = np.concatenate([z, np.random.default_rng(1).uniform(0, 2, (64, 1))], axis=1)
  settings = dataclasses.replace(_SETTINGS, method=method)
  learner = _learn(world, settings, state_at(z), features, None)
  assert_near_optimum(world, learner.policy, z, horizon=6)
