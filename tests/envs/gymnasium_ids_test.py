"""Environments by gymnasium id."""

import subprocess
import sys

import gymnasium as gym
import numpy as np
import pytest

from wm_tf import envs
from wm_tf.envs import gymnasium_ids


@pytest.mark.parametrize(
  ("gym_id", "options", "observed", "kind", "size", "max_steps"),
  [
    ("Pendulum-v1", {}, (3,), "continuous", 1, 200),
    ("CartPole-v1", {}, (4,), "discrete", 2, 500),
    ("MountainCarContinuous-v0", {}, (2,), "continuous", 1, 999),
    ("LunarLander-v3", {}, (8,), "discrete", 4, 1000),
    ("LunarLander-v3", {"continuous": True}, (8,), "continuous", 2, 1000),
    ("BipedalWalker-v3", {}, (24,), "continuous", 4, 1600),
    ("CarRacing-v3", {}, (64, 64, 3), "continuous", 3, 1000),
    ("CarRacing-v3", {"continuous": False, "frame_size": 96}, (96, 96, 3), "discrete", 5, 1000),
    ("FrozenLake-v1", {"is_slippery": False}, (16,), "discrete", 4, 100),
    ("CliffWalking-v1", {}, (48,), "discrete", 4, 10_000),
  ],
)
def test_ids_need_no_more_than_a_name(gym_id, options, observed, kind, size, max_steps):
  with pytest.MonkeyPatch.context() as patch:
    patch.setenv("SDL_VIDEODRIVER", "dummy")
    env = envs.make_env(f"gym:{gym_id}", **options)
    (part,), space = env.spec_.observation.parts, env.spec_.action_space
    assert (part.shape, space.kind, space.size) == (observed, kind, size)
    assert (env.spec_.max_steps, env.spec_.action_repeat, env.spec_.frames_to_skip) == (
      max_steps,
      1,
      0,
    )
    assert (env.spec_.name, env.spec_.env_id) == (f"gym:{gym_id}", gym_id)
    assert env.observation_space.contains(env.reset(seed=1)[0])
    assert env.observation_space.contains(env.step(env.action_space.sample())[0])
    env.close()


def test_max_steps_replaces_the_registered_limit():
  for max_steps in (3, 230):
    env = envs.make_env("gym:Pendulum-v1", max_steps=max_steps)
    env.reset(seed=0)
    steps = 1
    while not env.step(np.zeros(1, np.float32))[3]:
      steps += 1
    assert steps == max_steps == env.spec_.max_steps


def test_an_episode_is_the_official_one():
  ours, official = envs.make_env("gym:Pendulum-v1", action_repeat=2), gym.make("Pendulum-v1")
  observation, _ = ours.reset(seed=5)
  np.testing.assert_array_equal(observation, official.reset(seed=5)[0])
  rng, total = np.random.default_rng(0), 0.0
  truncated = False
  while not truncated:
    action = rng.uniform(-1, 1, 1).astype(np.float32)
    observation, _, _, truncated, info = ours.step(action)
    for _ in range(2):
      expected, reward, _, official_end, _ = official.step(2 * action)
      total += reward
    np.testing.assert_array_equal(observation, expected)
    assert truncated == official_end
  assert info["episode_return"] == total and info["frames"] == 200


def test_the_newest_version_is_the_default():
  assert gymnasium_ids.find("CartPole").registered.id == "CartPole-v1"


@pytest.mark.parametrize(
  ("gym_id", "message"),
  [
    ("Pendulm-v1", r"Unknown gymnasium id 'Pendulm-v1'; did you mean Pendulum-v1"),
    ("LunarLander-v2", "LunarLander-v3.*gym:package:LunarLander-v2"),
    ("qqqqqqqqqqqq", "pprint_registry"),
    ("no_such_module:Maze-v0", "gym:no_such_module:Maze-v0 needs the module 'no_such_module'"),
  ],
)
def test_unknown_ids_are_answered(gym_id, message):
  with pytest.raises(ValueError, match=message):
    envs.make_env(f"gym:{gym_id}")


@pytest.mark.parametrize("module", ["ale_py", "minigrid"])
def test_a_missing_package_is_named(monkeypatch, module):
  gym_id = {"ale_py": "ALE/Pong-v5", "minigrid": "MiniGrid-Empty-5x5-v0"}[module]
  monkeypatch.setitem(sys.modules, module, None)
  monkeypatch.delitem(gym.registry, gym_id, raising=False)
  with pytest.raises(ValueError, match=f"needs the module '{module}'.*pip install '{module[:3]}"):
    envs.make_env(f"gym:{gym_id}")


def test_a_package_that_an_entry_point_needs_is_named(monkeypatch):
  monkeypatch.setitem(sys.modules, "mujoco", None)
  monkeypatch.setitem(sys.modules, "gymnasium.envs.mujoco.ant_v5", None)
  with pytest.raises(ValueError, match="'gym:Ant-v5' cannot be built, because a package"):
    envs.make_env("gym:Ant-v5")


def test_a_module_that_registers_ids_is_imported(tmp_path):
  (tmp_path / "mazes.py").write_text(
    "import gymnasium\ngymnasium.register('Maze-v0', 'tests.envs.toys:GrayEnv')\n"
  )
  code = """
from wm_tf import envs
spec = envs.env_factory("gym:mazes:Maze-v0", length=3)().spec_
assert (spec.name, spec.env_id) == ("gym:mazes:Maze-v0", "Maze-v0"), spec
try:
  envs.make_env("gym:Maze-v1")
except ValueError as error:
  assert "Maze-v0" in str(error)
else:
  raise AssertionError
"""
  path = [str(tmp_path), *sys.path]
  code = f"import sys; sys.path[:] = {path}\n{code}"
  subprocess.run([sys.executable, "-c", code], check=True)


def test_atari():
  pytest.importorskip("ale_py")
  env = envs.make_env("gym:ALE/Pong-v5", action_repeat=2, obs_type="grayscale")
  assert env.spec_.action_space.names[:2] == ("noop", "fire")
  observation, _ = env.reset(seed=0)
  assert observation.shape == (64, 64, 1)
  env.step(np.eye(6, dtype=np.float32)[1])
  assert env.render().shape == (210, 160, 3)
