"""CarRacing against unmodified gymnasium: the same bytes, rewards and endings."""

import gymnasium as gym
import numpy as np
import pytest

from wm_tf import envs
from wm_tf.envs.frames import resize


def _compare(seed, policy, max_frames, action_repeat=4, **options):
  """Drives ours and gymnasium's with the same actions; returns the last info and the flags.

  Frames are compared where ours keeps one, rewards and endings at every decision.
  """
  ours = envs.make_env(
    "car_racing_3d", action_repeat=action_repeat, max_steps=max_frames, **options
  )
  official = gym.make("CarRacing-v3", max_episode_steps=max_frames).unwrapped
  frame, official_return, count = official.reset(seed=seed)[0], 0.0, 0
  observation, info = ours.reset(seed=seed)
  idle = np.zeros(3, np.float32)
  for _ in range(ours.spec_.frames_to_skip):
    frame, reward, *_ = official.step(idle)
    official_return += reward
    count += 1
  while True:
    np.testing.assert_array_equal(ours.render(), frame)
    np.testing.assert_array_equal(observation, resize(frame, (0, 0, 96, 96), (64, 64)))
    assert info["episode_return"] == official_return and info["frames"] == count
    action = policy(observation, info)
    before = official_return
    for _ in range(action_repeat):
      frame, reward, terminated, *_ = official.step(action)
      official_return += reward
      count += 1
      if terminated or count == max_frames:
        break
    observation, reward, over, cut, info = ours.step(action)
    assert reward == pytest.approx(official_return - before, abs=1e-9)
    assert over == terminated and cut == (count == max_frames)
    if over or cut:
      np.testing.assert_array_equal(ours.render(), frame)
      assert info["episode_return"] == official_return and info["frames"] == count
      return info, over, cut


def _random_policy(seed):
  rng = np.random.default_rng(seed)
  held = {"left": 0}

  def policy(observation, info):
    if held["left"] == 0:
      held["left"] = 6
      held["action"] = np.clip(rng.uniform([-1, -0.5, -2], 1), [-1, 0, 0], 1).astype(np.float32)
    held["left"] -= 1
    return held["action"]

  return policy


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_official_frames_rewards_and_endings_from_the_zoom_on(seed):
  info, over, cut = _compare(seed, _random_policy(seed), 161, frames_to_skip=0)
  assert info["frames"] == 161 and (over, cut) == (False, True)


@pytest.mark.slow
def test_official_frames_over_a_whole_lap():
  driver = envs.make_heuristic("car_racing_3d")
  info, over, cut = _compare(1003, lambda o, i: driver.act(o[None], [i])[0], 1000)
  assert over and not cut and info["lap_finished"] and info["episode_return"] > 850


def test_official_frames_off_the_field():
  """Straight on: grass, the field's black edge, and the loss of 100."""
  straight = np.array([0, 0.5, 0], np.float32)
  info, over, _ = _compare(1, lambda *_: straight, 1000)
  assert over and info["lap_finished"] is False and info["frames"] == 323


def test_official_frames_with_every_gauge_at_its_highest():
  spin = np.array([1, 1, 0], np.float32)
  _compare(5, lambda *_: spin, 200)


@pytest.mark.parametrize("name", ["car_racing", "car_racing_3d"])
def test_spec_is_the_same_without_building(name):
  env, spec = envs.make_env(name, action_repeat=2), envs.env_spec(name, action_repeat=2)
  np.testing.assert_equal(env.spec_._asdict(), spec._asdict())
  assert spec.name == name and spec.action_repeat == 2 and spec.max_steps == 1000
  (part,) = spec.observation.parts
  assert part.crop == (0, 0, 96, 96) and part.native_shape == (96, 96, 3)
  assert env.observation_space.contains(env.reset(seed=0)[0])


@pytest.mark.parametrize(
  "name, action, expected",
  [
    ("car_racing", [-0.5, 0.8], [-0.5, 0.8, 0]),
    ("car_racing", [0.5, -0.8], [0.5, 0, 0.8]),
    ("car_racing", [-3, 2], [-1, 1, 0]),
    ("car_racing_3d", [0.1, 0.2, 0.3], [0.1, 0.2, 0.3]),
    ("car_racing_3d", [1.5, -0.2, -1], [1, 0, 0]),
  ],
)
def test_action_maps(name, action, expected):
  sent = envs.env_spec(name).action_space.to_env(np.array(action, np.float32))
  assert sent.dtype == np.float32
  np.testing.assert_array_equal(sent, np.array(expected, np.float32))


def test_a_seed_decides_everything_whatever_came_before():
  rng = np.random.default_rng(0)
  actions = rng.uniform(-1, 1, (12, 2)).astype(np.float32)
  fresh, used = envs.make_env("car_racing"), envs.make_env("car_racing")
  used.reset(seed=8)
  for action in actions:
    used.step(-action)
  first, second = fresh.reset(seed=3), used.reset(seed=3)
  np.testing.assert_array_equal(first[0], second[0])
  assert first[1] == second[1]
  for action in actions:
    (a, *first), (b, *second) = fresh.step(action), used.step(action)
    np.testing.assert_array_equal(a, b)
    assert first == second
  assert (used.reset(seed=4)[0] != used.reset(seed=3)[0]).any()


def test_an_episode_has_exactly_1000_frames():
  env = envs.make_env("car_racing", action_repeat=7)
  env.reset(seed=0)
  truncated = False
  while not truncated:
    _, _, terminated, truncated, info = env.step(np.zeros(2, np.float32))
    assert not terminated
  assert info["frames"] == 1000
  # Standing still: the start tiles, and 0.1 a frame.
  tiles = info["privileged"]["tiles_visited"] * 1000 / info["privileged"]["tiles"]
  assert info["episode_return"] == pytest.approx(tiles - 100)


def test_privileged_speed_is_the_cars():
  env = envs.make_env("car_racing")
  assert env.reset(seed=0)[1]["privileged"]["speed"] < 1e-3
  for _ in range(10):
    info = env.step(np.array([0, 1], np.float32))[4]
  velocity = env.env.car.hull.linearVelocity
  assert (
    info["privileged"]["speed"] == pytest.approx(np.hypot(*velocity)) and np.hypot(*velocity) > 30
  )


def test_random_start_keeps_the_track_and_moves_the_car():
  plain, moved = envs.make_env("car_racing"), envs.make_env("car_racing", random_start=True)
  distances = []
  for seed in range(4):
    plain.reset(seed=seed)
    frame, info = moved.reset(seed=seed)
    assert sorted(plain.env.track) == sorted(moved.env.track)
    assert info["privileged"]["tiles_visited"] >= 1  # It stands on the road.
    distances.append(np.hypot(*(plain.env.car.hull.position - moved.env.car.hull.position)))
    np.testing.assert_array_equal(frame, moved.reset(seed=seed)[0])
  assert max(distances) > 50


def test_stop_after_idle_decisions():
  env = envs.make_env("car_racing", stop_after_idle_decisions=9)
  for _ in range(2):
    env.reset(seed=0)
    flags = [env.step(np.zeros(2, np.float32))[2:4] for _ in range(9)]
    assert flags == [(False, False)] * 8 + [(False, True)]
  env.reset(seed=0)
  for _ in range(15):  # New tiles start the count again.
    assert env.step(np.array([0, 0.5], np.float32))[2:4] == (False, False)


def test_zero_idle_decisions_means_never():
  env = envs.make_env("car_racing", stop_after_idle_decisions=0)
  env.reset(seed=0)
  flags = [env.step(np.zeros(2, np.float32))[2:4] for _ in range(60)]
  assert flags == [(False, False)] * 60


@pytest.mark.parametrize(
  "options, message",
  [({"stop_after_idle_decisions": -1}, "stop_after"), ({"action_repeat": 0}, "action_repeat")],
)
def test_bad_options_are_named(options, message):
  with pytest.raises(ValueError, match=message):
    envs.make_env("car_racing", **options)
