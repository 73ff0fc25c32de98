"""The dream under TF-Agents' own eyes, and its algorithms where the optimum is known."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from tests.worlds import AdditiveWorld, assert_same, small_mdn_rnn, state_at
from wm_tf import rng
from wm_tf.controllers import policy_gradient
from wm_tf.controllers.actor_critic import Actor, Critic
from wm_tf.controllers.policy_gradient import METHODS, PolicyGradientConfig, PPOConfig

_ROOT = Path(__file__).resolve().parents[2]
_SEED = rng.make_seed(3)


def test_without_tf_agents_everything_loads_and_says_how_to_get_it():
  """In a process that cannot import it."""
  code = """
import sys
sys.modules["tf_agents"] = None
from trainers import compare, gradient_learners, learners
from wm_tf import config
from wm_tf.controllers import dream_tf_agents as dream
from tests.worlds import AdditiveWorld
settings = config.make_config("debug", ["controller.method=ppo"]).controller
learner = learners.make_learner(AdditiveWorld(), settings, 0)
learner.restore_policy(learner.policy_state())  # To play what was trained needs no TF-Agents.
calls = [
  lambda: gradient_learners.check_method(settings),
  lambda: learner.begin(None, None),
  lambda: dream.WorldModelEnvironment(AdditiveWorld(), AdditiveWorld().initial_state(1)),
]
for call in calls:
  try:
    call()
  except (config.ConfigError, dream.MissingTFAgentsError) as error:
    assert 'pip install "wm_tf[agents]"' in str(error), error
  else:
    raise AssertionError("no error")
gradient_learners.check_method(config.make_config("debug").controller)
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

from wm_tf.controllers.dream_tf_agents import PolicyGradient, WorldModelEnvironment  # noqa: E402


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
  ours = (policy_gradient.FIRST, policy_gradient.MID, policy_gradient.LAST)
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


def _config(method, **options):
  kind = PolicyGradientConfig if method == "reinforce" else PPOConfig
  options = {"actor_hidden_sizes": (8,), "critic_hidden_sizes": (8,), **options}
  if method != "reinforce":
    options = {"num_minibatches": 2, "num_epochs": 2, **options}
  return kind(**{"batch_size": 4, "horizon": 4, **options})


def _trainer(method, world, config, jit_compile=False, seed=0):
  actor = Actor(world, config.actor_hidden_sizes, seed)
  critic = Critic(world, config.critic_hidden_sizes, config.reward_scale, config.discount, seed)
  return PolicyGradient(method, world, actor, critic, config, jit_compile=jit_compile)


@pytest.mark.parametrize("method", METHODS)
def test_goes_on_exactly_where_it_was(method):
  """In the dream of an MDN-RNN: an update, a checkpoint, another in a new trainer."""
  model = small_mdn_rnn()
  config, starts = _config(method), _mdn_rnn_starts(model, 5)
  trainer = _trainer(method, model, config)
  trainer.standardise(model.features(starts).numpy())
  trainer.update(starts, rng.fold_in(_SEED, 0))
  saved = tf.nest.map_structure(lambda variable: variable.numpy(), trainer.state())
  other = _trainer(method, model, config, seed=7)
  for variable, value in zip(tf.nest.flatten(other.state()), tf.nest.flatten(saved), strict=True):
    variable.assign(value)
  reports = [each.update(starts, rng.fold_in(_SEED, 1)) for each in (trainer, other)]
  assert_same(*reports, rtol=0, atol=0)
  after = tf.nest.map_structure(lambda variable: variable.numpy(), trainer.state())
  assert_same(after, tf.nest.map_structure(lambda v: v.numpy(), other.state()), rtol=0, atol=0)
  for name in ("actor", "critic"):
    assert np.any(after[name]["weights_0"] != saved[name]["weights_0"])
  assert after["progress"]["updates"] == 2.0


@pytest.mark.parametrize("method", METHODS)
def test_the_critic_learns_the_value_beyond_the_horizon(method):
  """Of one who stands still: -|z - goal|^2 for ever, though dreams are of two steps."""
  world = AdditiveWorld(goal=0.0, action_size=1, gain=0.0)
  config = _config(
    method,
    batch_size=64,
    horizon=2,
    discount=0.8,
    reward_scale=0.5,
    actor_learning_rate=0.0,
    critic_learning_rate=5e-3,
    target_rate=0.1,
    critic_hidden_sizes=(32,),
    clip_norm=100.0,
  )
  trainer = _trainer(method, world, config)
  starts = state_at(np.linspace(-1.5, 1.5, 64)[:, None])
  for step in range(600 if method == "reinforce" else 200):
    trainer.update(starts, rng.fold_in(_SEED, step))
  found = trainer.critic.value(starts)
  np.testing.assert_allclose(found, -np.square(starts.z[:, 0]) / (1 - 0.8), atol=1.5)


@pytest.mark.parametrize("method", METHODS)
def test_dreams_are_learned_from_as_often_as_is_said(method):
  """Adam counts its steps."""
  trainer = _trainer(method, AdditiveWorld(), _config(method))
  trainer.update(state_at([[0.0, 0.0]]), _SEED)
  assert int(trainer.state()["optimizers"]["0"]) == (1 if method == "reinforce" else 2 * 2)


@pytest.mark.parametrize("method", METHODS)
def test_noise_falls_over_as_many_updates_as_are_expected(method):
  config = _config(method, action_noise=0.6, final_action_noise=0.2)
  trainer = _trainer(method, AdditiveWorld(), config)
  trainer.anneal_over(2)
  reports = [trainer.update(state_at([[0.0, 0.0]]), rng.fold_in(_SEED, i)) for i in range(4)]
  np.testing.assert_allclose(
    [each.action_noise for each in reports], [0.6, 0.4, 0.2, 0.2], rtol=1e-5
  )


def test_the_penalty_follows_the_divergence():
  world = AdditiveWorld(goal=1.0)
  coefficients = []
  for rate in (1e-6, 0.3):
    config = _config("ppo", actor_learning_rate=rate, kl_target=0.01, clip_norm=100.0)
    trainer = _trainer("ppo", world, config)
    report = trainer.update(state_at([[0.0, 0.0]]), _SEED)
    assert (float(report.kl_divergence) > 0.015) == (rate > 0.1)
    coefficients.append(float(trainer.state()["penalty"]["kl_coefficient"]))
  np.testing.assert_allclose(coefficients, [1 / 1.5, 1.5])


def test_refuses():
  world = AdditiveWorld()
  with pytest.raises(ValueError, match="must be one of ppo, ppo_clip, reinforce, not 'a2c'"):
    _trainer("a2c", world, _config("ppo"))
  with pytest.raises(ValueError, match="takes a PPOConfig"):
    _trainer("ppo", world, _config("reinforce"))
