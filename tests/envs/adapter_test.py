"""`PixelEnv` and the registry, with a toy environment that shows its step index."""

import numpy as np
import pytest

from tests.envs.toy import Counter, ToyEnv
from wm_tf import envs
from wm_tf.core import image_observation
from wm_tf.envs import registry
from wm_tf.envs.adapter import PixelEnv

STILL = np.zeros(2, np.float32)


def _run(env, action=STILL):
  """Steps until the episode is over; returns the list of what `step` returned."""
  steps = [env.step(action)]
  while not (steps[-1][2] or steps[-1][3]):
    steps.append(env.step(action))
  return steps


def test_a_new_environment_is_registered_and_made_by_name(monkeypatch):
  monkeypatch.setattr(registry._registry, "_items", dict(registry._registry._items))
  envs.register_env("toy", ToyEnv)
  assert "toy" in envs.env_names()
  env = envs.make_env("toy", action_repeat=2)
  assert env.spec_.action_repeat == 2 and env.reset(seed=0)[0].shape == (64, 64, 3)
  assert envs.env_spec("toy", max_steps=9).max_steps == 9
  with pytest.raises(ValueError, match="no scripted policy"):
    envs.make_heuristic("toy")
  with pytest.raises(ValueError, match="taken"):
    envs.register_env("toy", Counter)


def test_a_module_path_needs_no_registration():
  assert isinstance(envs.make_env("tests.envs.toy:ToyEnv"), ToyEnv)


def test_a_factory_without_a_spec_is_asked_by_building_it(monkeypatch):
  monkeypatch.setattr(registry._registry, "_items", dict(registry._registry._items))
  envs.register_env("plain", lambda **options: PixelEnv(Counter(), ToyEnv.make_spec(**options)))
  assert envs.env_spec("plain", action_repeat=3).action_repeat == 3


@pytest.mark.parametrize("make", [envs.make_env, envs.env_spec, envs.make_heuristic])
def test_an_unknown_name_names_the_nearest(make):
  with pytest.raises(ValueError, match=r"'car_race'.*car_racing"):
    make("car_race")
  with pytest.raises(ValueError, match="car_racing_3d"):
    make("zzz")


def test_frames_and_returns_count_every_frame_skipped_ones_too():
  env = ToyEnv()
  observation, info = env.reset(seed=0)
  assert (observation == 5).all() and observation.dtype == np.uint8
  assert info["frames"] == 5 and info["episode_return"] == 1 + 2 + 3 + 4 + 5
  assert info["count"] == 5 and info["privileged"] == {}
  observation, reward, terminated, truncated, info = env.step(STILL)
  assert (observation == 9).all() and reward == 6 + 7 + 8 + 9
  assert (terminated, truncated) == (False, False)
  assert info["frames"] == 9 and info["episode_return"] == sum(range(10))
  assert env.render().shape == (10, 12, 3)


def test_without_skipping_the_first_frame_is_the_reset_one():
  observation, info = ToyEnv(frames_to_skip=0).reset(seed=0)
  assert (observation == 0).all() and info["frames"] == 0 and info["started"]


def test_truncation_at_max_steps_cuts_a_repeat():
  env = ToyEnv(max_steps=23)
  env.reset(seed=0)
  steps = _run(env)
  assert [info["frames"] for *_, info in steps] == [9, 13, 17, 21, 23]
  observation, reward, terminated, truncated, info = steps[-1]
  assert (observation == 23).all() and reward == 22 + 23
  assert (terminated, truncated) == (False, True)
  assert info["episode_return"] == sum(range(24))


def test_max_decisions_is_how_many_there_are_until_truncation():
  for max_steps in range(6, 15):
    env = ToyEnv(max_steps=max_steps)
    env.reset(seed=0)
    assert len(_run(env)) == env.spec_.max_decisions


@pytest.mark.parametrize("ending, flags", [("end", (True, False)), ("limit", (False, True))])
def test_the_environments_own_endings_cut_a_repeat(ending, flags):
  env = ToyEnv(**{ending: 15})
  env.reset(seed=0)
  observation, reward, terminated, truncated, info = _run(env)[-1]
  assert (observation == 15).all() and reward == 14 + 15 and info["frames"] == 15
  assert (terminated, truncated) == flags


def test_nothing_is_stepped_after_the_end_or_before_a_reset():
  env = ToyEnv(end=7)
  with pytest.raises(RuntimeError, match=r"reset\(\)"):
    env.step(STILL)
  env.reset(seed=0)
  env.step(STILL)
  with pytest.raises(RuntimeError, match=r"reset\(\)"):
    env.step(STILL)
  env.reset(seed=0)
  assert env.step(STILL)[4]["frames"] == 7


def test_an_episode_that_ends_while_skipping_is_an_error():
  with pytest.raises(RuntimeError, match=r"seed 3 ended within its first 4 frames"):
    ToyEnv(end=4).reset(seed=3)


def test_continuous_actions_are_mapped_and_clipped():
  env = ToyEnv(frames_to_skip=1)
  env.reset(seed=0)
  env.step(np.array([0.25, 0.5], np.float32))
  env.step(np.array([1.0, -1.0], np.float32))
  np.testing.assert_array_equal(env.env.actions[0], [0, 0])
  for sent in env.env.actions[1:5]:
    np.testing.assert_array_equal(sent, np.array([-0.25, 0.75], np.float32))
  np.testing.assert_array_equal(env.env.actions[5], [1.5, 0.0])


def test_a_discrete_action_is_the_largest_entry():
  env = ToyEnv(discrete=True, frames_to_skip=2, action_repeat=3)
  assert env.action_space.shape == (3,)
  env.reset(seed=0)
  env.step(np.array([-1.0, -0.5, 0.1], np.float32))
  env.step(np.array([0.0, -0.5, -0.1], np.float32))
  assert env.env.actions == [1, 1, 2, 2, 2, 0, 0, 0]


@pytest.mark.parametrize(
  "action, message",
  [
    ([np.nan, 0.0], "not finite"),
    ([0.0, np.inf], "not finite"),
    ([0.0], r"\[2\] \(along, across\), not \[1\]"),
    ([[0.0, 0.0]], r"not \[1, 2\]"),
  ],
)
def test_bad_actions_are_named_and_leave_the_episode_alone(action, message):
  env = ToyEnv()
  env.reset(seed=0)
  with pytest.raises(ValueError, match=message):
    env.step(np.array(action, np.float32))
  assert env.step(STILL)[4]["frames"] == 9


@pytest.mark.parametrize(
  "options, message",
  [
    ({"action_repeat": 0}, "action_repeat"),
    ({"frames_to_skip": 23}, "frames_to_skip"),
    ({"frames_to_skip": -1}, "frames_to_skip"),
  ],
)
def test_senseless_numbers_are_named(options, message):
  with pytest.raises(ValueError, match=message):
    ToyEnv(**options)


def test_a_spec_that_does_not_fit_the_environment_is_named():
  with pytest.raises(ValueError, match="action matrix"):
    space = ToyEnv.make_spec().action_space._replace(matrix=np.eye(3))
    PixelEnv(Counter(), ToyEnv.make_spec()._replace(action_space=space))
  wrong = PixelEnv(
    Counter(), ToyEnv.make_spec()._replace(observation=image_observation((64, 64, 3), (96, 96, 3)))
  )
  with pytest.raises(ValueError, match=r"\(96, 96, 3\).*\(10, 12, 3\)"):
    wrong.reset(seed=0)
