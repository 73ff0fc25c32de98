"""The DeepMind Control Suite by name."""

import subprocess
import sys

import gymnasium as gym
import numpy as np
import pytest

from wm_tf import envs
from wm_tf.registry import UnknownNameError

pytest.importorskip("dm_control", reason='not installed: pip install "wm_tf[dmc]"')


def _run(code: str) -> subprocess.CompletedProcess:
  return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)


@pytest.mark.parametrize(
  ("task", "observed", "actions"),
  [
    ("cartpole_swingup", 5, 1),
    ("ball_in_cup_catch", 8, 2),
    ("finger_spin", 9, 2),
    ("reacher_easy", 6, 2),
    ("humanoid_walk", 67, 21),
  ],
)
def test_a_task_needs_no_more_than_a_name(task, observed, actions):
  env = envs.make_env(f"dmc:{task}")
  (part,) = env.spec_.observation.parts
  assert (part.shape, env.spec_.action_space.size, env.spec_.max_steps) == (
    (observed,),
    actions,
    1000,
  )
  assert env.observation_space.contains(env.reset(seed=1)[0])
  env.close()


def test_an_episode_is_that_of_the_suite():
  from dm_control import suite

  env, control = (
    envs.make_env("dmc:cartpole_swingup", action_repeat=2),
    suite.load("cartpole", "swingup"),
  )
  observation, _ = env.reset(seed=7)
  control.task.random.seed(np.random.SeedSequence(7).generate_state(4))
  found = control.reset()
  rng = np.random.default_rng(0)
  for decision in range(500):
    expected = np.concatenate([np.ravel(x) for x in found.observation.values()])
    np.testing.assert_allclose(observation, expected, rtol=1e-6)
    action = rng.uniform(-1, 1, 1).astype(np.float32)
    observation, reward, terminated, truncated, _ = env.step(action)
    steps = [control.step(action.astype(np.float64)) for _ in range(2)]
    found = steps[-1]
    assert reward == pytest.approx(sum(step.reward for step in steps), abs=1e-6)
    assert not terminated and truncated == (decision == 499) == found.last()
  env.close()


def test_seeds_decide_the_first_state():
  env = envs.make_env("dmc:reacher_easy")
  first, again, other = (env.reset(seed=seed)[0] for seed in (3, 3, 4))
  np.testing.assert_array_equal(first, again)
  assert np.abs(first - other).max() > 0.01
  env.close()


def test_frames_are_observed_or_the_remedy_is_named():
  """With a renderer the frames are pictures; without one the error says what to install."""
  code = (
    "from wm_tf import envs\n"
    "env = envs.make_env('dmc:cartpole_swingup', observation='render')\n"
    "frame, _ = env.reset(seed=0)\n"
    "print(frame.shape, frame.dtype, frame.std() > 10)"
  )
  done = _run(code)
  if done.returncode:
    assert "Install EGL (libegl1) or OSMesa" in done.stderr.splitlines()[-1]
  else:
    assert done.stdout == "(64, 64, 3) uint8 True\n"


def test_without_a_renderer_there_are_vectors_but_no_frames(monkeypatch):
  monkeypatch.setenv("MUJOCO_GL", "disabled")
  code = (
    "from wm_tf import envs\n"
    "env = envs.make_env('dmc:cartpole_swingup')\n"
    "print(env.reset(seed=0)[0].shape)\n"
    "envs.make_env('dmc:cartpole_swingup', observation='render')"
  )
  done = _run(code)
  assert done.stdout == "(5,)\n" and done.returncode
  last = done.stderr.strip().splitlines()[-1]
  assert "MuJoCo cannot render with MUJOCO_GL='disabled'" in last and "Install EGL" in last


def test_gymnasium_makes_a_task_by_id():
  env = gym.make("wm_tf.envs.dmc:dmc/pendulum_swingup", render_mode="rgb_array")
  assert env.spec.max_episode_steps == 1000 and env.metadata["render_fps"] == 50
  env.close()


def test_an_unknown_task_has_its_nearest():
  with pytest.raises(UnknownNameError, match="did you mean cartpole_swingup"):
    envs.make_env("dmc:cartpole_swing")


def test_a_missing_package_is_named():
  code = (
    "import sys\n"
    "sys.modules['dm_control'] = None\n"
    "from wm_tf import envs\n"
    "envs.make_env('dmc:cartpole_swingup')"
  )
  done = _run(code)
  last = done.stderr.strip().splitlines()[-1]
  assert "needs the DeepMind Control Suite" in last and "pip install 'wm_tf[dmc]'" in last
