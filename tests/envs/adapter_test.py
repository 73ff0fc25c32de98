"""`PixelEnv`, with a toy environment that shows its step index."""

import gymnasium as gym
import numpy as np
import pytest

from tests.envs.toy import Counter, ToyEnv
from wm_tf.core import image_observation
from wm_tf.envs.adapter import PixelEnv

STILL = np.zeros(2, np.float32)


def _run(env, action=STILL):
  """Steps until the episode is over; returns the list of what `step` returned."""
  steps = [env.step(action)]
  while not (steps[-1][2] or steps[-1][3]):
    steps.append(env.step(action))
  return steps


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
  assert env.action_space == gym.spaces.Box(0, 1, (3,), np.float32)
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


@pytest.mark.parametrize("seed", [-1, 2**63, 1.5, True, "3"])
def test_seeds_that_could_not_be_recorded_are_refused(seed):
  with pytest.raises(ValueError, match="a seed must be a whole number of at least 0 and below 2"):
    ToyEnv().reset(seed=seed)


def test_numpy_seeds_are_taken():
  env = ToyEnv()
  env.reset(seed=np.int64(7))
  expected = np.random.default_rng(7).integers(1000)
  assert env.np_random.integers(1000) == expected
  assert ToyEnv(frames_to_skip=0).reset(seed=2**63 - 1)[1]["started"]


@pytest.mark.parametrize("reward", [np.nan, -np.inf, None, "much"])
def test_rewards_that_are_no_finite_numbers_are_refused(reward):
  env = ToyEnv(frames_to_skip=0)
  env.reset(seed=3)
  step = env.env.step
  env.env.step = lambda action: (step(action)[0], reward, False, False, {})
  with pytest.raises(ValueError, match=r"toy: the environment's reward is .* at frame 1.*seed 3"):
    env.step(STILL)


@pytest.mark.parametrize(
  "wrong", [np.zeros((10, 12, 3), np.int64), np.zeros((10, 11, 3), np.uint8)]
)
def test_frames_that_turn_out_otherwise_are_refused(wrong):
  env = ToyEnv(frames_to_skip=0)
  env.env._frame = lambda: wrong
  with pytest.raises(ValueError, match="toy: at frame 0 of the episode of seed 1"):
    env.reset(seed=1)


def test_render_returns_a_copy_of_the_native_frame():
  env = ToyEnv()
  assert env.render() is None and env.render_mode == "rgb_array"
  env.reset(seed=0)
  env.render()[:] = 77
  np.testing.assert_array_equal(env.render(), env.env._frame())


def test_close_closes_once():
  env, calls = ToyEnv(), []
  env.env.close = lambda: calls.append(1)
  env.close()
  env.close()
  assert calls == [1]
