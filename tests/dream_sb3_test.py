"""stable-baselines3, without an adapter, in dreams.

It brings PyTorch, which is not one of our requirements, so it needs an environment of its own:

    python3.11 -m venv sb3 && sb3/bin/pip install -e . pytest pytest-timeout stable-baselines3
    sb3/bin/python -m pytest tests/dream_sb3_test.py
"""

import gymnasium
import numpy as np
import pytest
import tensorflow as tf

from tests.worlds import AdditiveState, AdditiveWorld, small_mdn_rnn
from wm_tf import rng
from wm_tf.dream_env import Dream, DreamEnv
from wm_tf.envs import env_spec

sb3 = pytest.importorskip(
  "stable_baselines3", reason="stable-baselines3 is not installed; the docstring says how to"
)


def test_its_checker_has_nothing_to_complain_of(recwarn):
  from stable_baselines3.common.env_checker import check_env

  model = small_mdn_rnn(ensemble_size=2)
  starts = model.initial_state(4)._replace(z=rng.normal([4, 4], rng.make_seed(0)))
  for observation in ("features", "observation", "pixels"):
    check_env(DreamEnv(Dream(model, starts), horizon=5, observation=observation))
  spec = env_spec("tests.envs.toys:DictEnv")
  model = small_mdn_rnn(action_size=5, num_choices=(3, 2), observation=spec.observation)
  starts = model.initial_state(4)._replace(z=rng.normal([4, 4], rng.make_seed(0)))
  dream = Dream(model, starts, observation=spec.observation)
  check_env(DreamEnv(dream, horizon=5, observation="observation"))
  assert not [w for w in recwarn if "stable_baselines3" in w.filename]


def test_ppo_learns_in_the_dream():
  """The task is to go to the goal: 12 steps without moving have a return of -16 on average."""
  place = tf.constant(np.random.default_rng(0).uniform(-2, 2, (64, 1)), tf.float32)
  starts = AdditiveState(place, tf.zeros([64, 1]))
  dream = Dream(AdditiveWorld(goal=0.0, action_size=1), starts)
  # Through gymnasium.make, as any user of it would.
  gymnasium.register("test/Goal-v0", entry_point=lambda **options: DreamEnv(dream, **options))
  env = gymnasium.make("test/Goal-v0", horizon=12)
  model = sb3.PPO(
    "MlpPolicy",
    env,
    n_steps=240,
    batch_size=60,
    learning_rate=3e-3,
    gamma=0.9,
    seed=0,
    device="cpu",
  )

  def mean_return():
    returns = []
    for seed in range(30):
      seen, _ = env.reset(seed=seed)
      total, over = 0.0, False
      while not over:
        seen, reward, terminated, truncated, _ = env.step(
          model.predict(seen, deterministic=True)[0]
        )
        total, over = total + reward, terminated or truncated
      returns.append(total)
    return np.mean(returns)

  before = mean_return()
  model.learn(240 * 12)
  after = mean_return()
  assert before < -5.0 and after > 0.3 * before, (before, after)
