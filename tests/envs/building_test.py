"""Adapted environments keep gymnasium's contract, whatever they show and take."""

import sys
import types

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from tests.envs import toys
from wm_tf import envs
from wm_tf.envs.adapter import AdaptedEnv

_NAMES = (*toys.NAMES, "car_racing", "gym:Pendulum-v1", "gym:CartPole-v1", "tests.envs.toy:ToyEnv")
_SHOWING = ("tests.envs.toys:DictEnv", "tests.envs.toys:GrayEnv", "tests.envs.toys:SurvivalEnv")


@pytest.fixture(autouse=True)
def _no_display(monkeypatch):
  monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")


@pytest.mark.filterwarnings("ignore:.*infinity:UserWarning")
@pytest.mark.parametrize("name", _NAMES)
def test_gymnasiums_checker_accepts_it(name):
  env = envs.make_env(name)
  check_env(env)
  env.close()


@pytest.mark.parametrize("name", _NAMES)
def test_its_specification_makes_another_one(name):
  first = envs.make_env(name, action_repeat=3)
  second = gym.make(first.spec).unwrapped
  assert isinstance(second, AdaptedEnv)
  np.testing.assert_equal(second.spec_._asdict(), first.spec_._asdict())
  np.testing.assert_equal(first.reset(seed=4)[0], second.reset(seed=4)[0])


@pytest.mark.parametrize("name", _NAMES)
def test_episodes_end_by_max_steps(name):
  env = envs.make_env(name, action_repeat=2, max_steps=7, frames_to_skip=0)
  env.action_space.seed(3)
  env.reset(seed=1)
  for decision in range(1, 5):
    observation, reward, terminated, truncated, info = env.step(env.action_space.sample())
    assert env.observation_space.contains(observation) and isinstance(reward, float)
    assert not terminated and truncated == (decision == 4)
    assert info["frames"] == min(2 * decision, 7) and info["privileged"] is not None


def test_frames_are_skipped_with_an_idle_action():
  env = envs.make_env("tests.envs.toys:AsymmetricEnv", frames_to_skip=3)
  assert env.spec_.idle_action.tolist() == [0, 0]
  assert env.reset(seed=0)[1]["frames"] == 3 and env.env.count == 3


def test_observing_what_is_rendered():
  env = envs.make_env("tests.envs.toys:SurvivalEnv", observation="render", frame_size=32)
  (part,) = env.spec_.observation.parts
  assert part.shape == (32, 32, 3) and part.native_shape == (40, 60, 3)
  observation, _ = env.reset(seed=0)
  np.testing.assert_array_equal(env.render(), env.env.render())
  later = env.step(np.array([1, 0], np.float32))[0]
  assert (later != observation).any()
  check_env(env)
  with pytest.raises(ValueError, match=r"observation=render needs an environment.*offers none"):
    envs.make_env("tests.envs.toys:AsymmetricEnv", observation="render")
  with pytest.raises(ValueError, match="observation=render needs"):
    envs.make_env("gym:Pendulum-v1", observation="render", render_mode="human")


@pytest.mark.parametrize("name", [*_SHOWING, "car_racing", "gym:CartPole-v1"])
def test_videos_are_recorded(name, tmp_path, monkeypatch):
  clips = []

  class Clip:
    def __init__(self, frames, fps):
      clips.append((frames, fps))

    def write_videofile(self, path, logger=None):
      pass

  # The encoder alone is replaced, which gymnasium does not install by itself.
  package = "moviepy.video.io.ImageSequenceClip"
  for module in ("moviepy", "moviepy.video", "moviepy.video.io", package):
    monkeypatch.setitem(sys.modules, module, types.ModuleType(module))
  sys.modules[package].ImageSequenceClip = Clip
  env = gym.wrappers.RecordVideo(
    envs.make_env(name, max_steps=8, frames_to_skip=0, action_repeat=2), str(tmp_path)
  )
  env.reset(seed=0)
  env.action_space.seed(3)
  while not any(env.step(env.action_space.sample())[2:4]):
    pass
  env.close()
  ((frames, fps),) = clips
  assert len(frames) == 5 and fps == env.metadata["render_fps"] > 0
  assert {frame.dtype for frame in frames} == {np.dtype(np.uint8)}
  assert {frame.shape[-1] for frame in frames} == {3}
  changes = any((frame != frames[0]).any() for frame in frames[1:])
  assert changes == ("DictEnv" not in name)  # Its picture shows the target, which stays.


def test_render_modes_can_be_chosen():
  assert envs.make_env("gym:CartPole-v1").render_mode == "rgb_array"
  assert envs.make_env("car_racing", render_mode="rgb_array").render_mode == "rgb_array"
  plain = envs.make_env("gym:CartPole-v1", render_mode=None)
  plain.reset(seed=0)
  assert plain.render_mode is None and plain.render() is None
  for name in ("car_racing", "tests.envs.toys:GrayEnv"):
    with pytest.raises(ValueError, match="has render_mode='rgb_array', not 'human'"):
      envs.make_env(name, render_mode="human")


def test_time_limits_of_wrappers_count():
  def limited(limit=5):
    return gym.wrappers.TimeLimit(toys.GrayEnv(), limit)

  build = envs.registry.building.build
  assert build(limited, "limited", {}).spec_.max_steps == 5
  assert build(limited, "limited", {"max_steps": 3}).spec_.max_steps == 3
  assert build(limited, "limited", {"max_steps": 30}).spec_.max_steps == 5


def test_what_cannot_be_adapted_is_closed_and_named():
  closed = []

  class Unbounded(toys.GrayEnv):
    action_space = gym.spaces.Box(-np.inf, np.inf, (2,))

    def close(self):
      closed.append(self)

  build = envs.registry.building.build
  with pytest.raises(ValueError, match=r"Environment 'far': The action space .* is unbounded"):
    build(Unbounded, "far", {})
  assert len(closed) == 1
  assert build(Unbounded, "far", {"action_low": -1, "action_high": 1}).spec_.action_size == 2
