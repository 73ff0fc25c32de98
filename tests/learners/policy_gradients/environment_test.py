"""The dream as an environment, validated by TF-Agents itself."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from tests.worlds import AdditiveWorld, assert_same, small_mdn_rnn, state_at
from wm_tf import rng
from wm_tf.learners.policy_gradients import auto_reset

_ROOT = Path(__file__).resolve().parents[3]
_SEED = rng.make_seed(3)


def test_without_tf_agents_the_error_says_how_to_install_it():
  """In a process that cannot import it."""
  code = """
import sys
sys.modules["tf_agents"] = None
from tests.worlds import AdditiveWorld
from wm_tf.learners.policy_gradients.environment import MissingTFAgentsError, WorldModelEnvironment
from wm_tf.learners.policy_gradients.methods import PPOConfig
from wm_tf.learners.policy_gradients.training import PolicyGradient
world = AdditiveWorld()
for make in (
  lambda: WorldModelEnvironment(world, world.initial_state(1)),
  lambda: PolicyGradient("ppo", world, PPOConfig()).state(),
):
  try:
    make()
  except MissingTFAgentsError as error:
    assert 'pip install "wm_tf[agents]"' in str(error), error
  else:
    raise AssertionError("no error")
"""
  subprocess.run([sys.executable, "-c", code], cwd=_ROOT, check=True)


tf_agents = pytest.importorskip(
  "tf_agents", reason='TF-Agents is not installed: pip install "wm_tf[agents]"'
)

from tf_agents.drivers.dynamic_episode_driver import DynamicEpisodeDriver  # noqa: E402
from tf_agents.environments import py_environment, utils  # noqa: E402
from tf_agents.policies.random_tf_policy import RandomTFPolicy  # noqa: E402
from tf_agents.specs import tensor_spec  # noqa: E402
from tf_agents.trajectories import StepType  # noqa: E402

from wm_tf.learners.policy_gradients.environment import WorldModelEnvironment  # noqa: E402


def _mdn_rnn_starts(model, num):
  return model.imagine(model.initial_state(num), tf.zeros([num, 2]), _SEED).state


class _AsPython(py_environment.PyEnvironment):
  """TF-Agents validates environments of NumPy: this shows it ours."""

  def __init__(self, environment):
    super().__init__()
    self._environment = environment

  batched = True
  batch_size = property(lambda self: self._environment.batch_size)

  def observation_spec(self):
    return tensor_spec.to_nest_array_spec(self._environment.observation_spec())

  def action_spec(self):
    return tensor_spec.to_nest_array_spec(self._environment.action_spec())

  def _reset(self):
    return tf.nest.map_structure(lambda x: x.numpy(), self._environment.reset())

  def _step(self, action):
    step = self._environment.step(tf.constant(action))
    return tf.nest.map_structure(lambda x: x.numpy(), step)


def test_steps_are_numbered_as_tf_agents_does():
  ours = (auto_reset.FIRST, auto_reset.MID, auto_reset.LAST)
  assert ours == (StepType.FIRST, StepType.MID, StepType.LAST)


def test_passes_the_validation_of_tf_agents():
  model = small_mdn_rnn()
  environment = WorldModelEnvironment(model, _mdn_rnn_starts(model, 5), 3, horizon=4)
  utils.validate_py_environment(_AsPython(environment), episodes=20)
  assert utils.get_tf_env(environment) is environment
  assert environment.render().shape == (3, 64, 64, 3)


def test_environment_steps():
  world = AdditiveWorld(goal=1.0)
  environment = WorldModelEnvironment(world, state_at([[0.0, 0.0]]), 2, 2, disagreement_penalty=0.5)
  step = environment.current_time_step()
  assert np.all(step.is_first())
  action = tf.constant([[1.0, 0.0], [9.0, 1.0]])
  step = environment.step(action)
  np.testing.assert_allclose(step.observation, [[1.0, 0.0, 1.0], [1.0, 1.0, 2.0]])
  np.testing.assert_allclose(step.reward, [-1.0 - 0.5, 0.0 - 1.0])
  assert_same(step, environment.current_time_step())
  step = environment.step(action)
  assert np.all(step.is_last()) and np.all(step.discount == 1.0)
  step = environment.step(action)
  assert np.all(step.is_first()) and np.all(step.observation == 0.0)
  environment.step(action)
  assert np.all(environment.reset().is_first())
  with pytest.raises(ValueError, match=r"must have the shape \[2, 2\], not \[1, 2\]"):
    environment.step(tf.zeros([1, 2]))
  with pytest.raises(ValueError, match="no state to start from"):
    WorldModelEnvironment(world, world.initial_state(0))


def test_a_driver_runs_whole_episodes_in_one_function():
  """Of about 1 / 0.2 steps, since a dream ends with that probability at each one."""
  environment = WorldModelEnvironment(
    AdditiveWorld(discount=0.8), state_at([[0.0, 0.0]]), batch_size=8, horizon=1000
  )
  ends, steps = tf.Variable(0.0), tf.Variable(0.0)

  def count(step):
    real = ~step.is_boundary()
    steps.assign_add(tf.reduce_sum(tf.cast(real, tf.float32)))
    ends.assign_add(tf.reduce_sum(tf.cast(real & step.is_last(), tf.float32)))
    return ()

  policy = RandomTFPolicy(environment.time_step_spec(), environment.action_spec())
  driver = DynamicEpisodeDriver(environment, policy, [count], num_episodes=400)
  tf.function(driver.run)()
  assert ends >= 400
  assert abs(float(steps / ends) - 5.0) < 0.8
