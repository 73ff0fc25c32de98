"""The scripted driver: skill, batches, both action spaces."""

import numpy as np
import pytest

from wm_tf import envs
from wm_tf.envs.car_racing.driver import CarDriver, road_mask


def _drive(seeds, noise=0.0, decisions=None, name="car_racing", **options):
  """Returns of full episodes driven side by side as one batch."""
  driver = envs.make_heuristic(name, **options)
  cars = [envs.make_env(name) for _ in seeds]
  rng = np.random.default_rng(0)
  observations, infos = map(
    list, zip(*[c.reset(seed=s) for c, s in zip(cars, seeds, strict=True)], strict=True)
  )
  running = set(range(len(cars)))
  for _ in range(decisions or 1000):
    actions = driver.act(np.stack(observations), infos, rng)
    actions = np.clip(actions + noise * rng.normal(size=actions.shape), -1, 1).astype(np.float32)
    for i in list(running):
      observations[i], _, terminated, truncated, infos[i] = cars[i].step(actions[i])
      if terminated or truncated:
        running.remove(i)
    if not running:
      break
  return np.array([info["episode_return"] for info in infos])


def test_it_drives_well():
  returns = _drive([201, 202, 203, 204])
  assert returns.mean() > 800 and returns.min() > 600


@pytest.mark.slow
def test_it_survives_noise_on_its_actions():
  assert _drive([201, 202, 203, 204], noise=0.2, target_speed=60).mean() > 500


def test_target_speed_is_a_skill():
  slow, fast = (_drive([205, 206], decisions=100, target_speed=v).mean() for v in (30, 60))
  assert 0 < slow < fast - 50


def test_three_actions_drive_the_same_way():
  assert _drive([207], decisions=60) == _drive([207], decisions=60, name="car_racing_3d")


def test_a_row_does_not_depend_on_its_batch():
  env, rng = envs.make_env("car_racing"), np.random.default_rng(1)
  observation, info = env.reset(seed=11)
  rows = [(observation, info)]
  for _ in range(20):
    observation, *_, info = env.step(rng.uniform([-1, 0], 1).astype(np.float32))
    rows.append((observation, info))
  driver = CarDriver()
  together = driver.act(np.stack([o for o, _ in rows]), [i for _, i in rows], rng)
  alone = np.concatenate([driver.act(o[None], [i], rng) for o, i in rows])
  np.testing.assert_array_equal(together, alone)
  assert together.dtype == np.float32 and np.abs(together).max() <= 1


def test_road_is_told_from_grass_and_panel():
  observation, _ = envs.make_env("car_racing").reset(seed=0)
  mask = road_mask(observation[None])[0]
  assert mask[40, 30:34].all() and not mask[40, :8].any() and not mask[40, -8:].any()
  assert not mask[56:].any()


def test_no_road_in_sight_still_gives_an_action():
  grass = np.broadcast_to(np.array([100, 202, 100], np.uint8), (2, 64, 64, 3))
  infos = [{"privileged": {"speed": 0.0}}, {"privileged": {"speed": 90.0}}]
  action = CarDriver().act(grass, infos)
  assert np.isfinite(action).all() and action[0, 1] > 0 > action[1, 1]


def test_missing_speed_and_bad_skill_are_named():
  with pytest.raises(ValueError, match="speed"):
    CarDriver().act(np.zeros((1, 64, 64, 3), np.uint8), [{"privileged": {}}])
  with pytest.raises(ValueError, match="target_speed"):
    CarDriver(target_speed=0)
