"""The dream as gymnasium environments, in a world whose every number follows by hand."""

from __future__ import annotations

import warnings

import gymnasium
import numpy as np
import pytest
import tensorflow as tf
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode

from tests.worlds import AdditiveState, AdditiveWorld
from wm_tf.dream_env import Dream, DreamEnv, DreamVectorEnv

_GOAL = 0.5
_NEUTRAL = {"imagined_reward": 0.0, "discount": 1.0, "disagreement": 0.0}


def _dream(num_starts=5, *, world=None, **options) -> Dream:
  """Starts of position i / 10 in both dimensions, after a way of i."""
  place = tf.range(num_starts, dtype=tf.float32)[:, tf.newaxis]
  starts = AdditiveState(tf.tile(place / 10, [1, 2]), place)
  return Dream(world or AdditiveWorld(goal=_GOAL), starts, **options)


@pytest.mark.parametrize("observation", ["features", "observation", "pixels"])
def test_gymnasium_has_nothing_to_complain_of(observation):
  dream = _dream(world=AdditiveWorld(noise_scale=0.3, discount=0.9))
  env = DreamEnv(dream, horizon=5, observation=observation, render_mode="rgb_array")
  with warnings.catch_warnings():
    warnings.simplefilter("error")
    # Features have no bounds; and without a registration there is none to render again by.
    warnings.filterwarnings("ignore", message=".*(infinity|env.spec is None|spec).*")
    check_env(env)


def test_rewards_and_observations_are_the_models():
  env = DreamEnv(_dream(disagreement_penalty=0.25), horizon=4)
  seen, info = env.reset(seed=3)
  start = seen[-1]
  np.testing.assert_allclose(seen, [start / 10, start / 10, start], rtol=1e-6)
  assert start in range(5) and info == _NEUTRAL
  position = seen[:2]
  for t in range(4):
    action = np.array([0.5, -0.25 * t], np.float32)
    seen, reward, terminated, truncated, info = env.step(action)
    position, moved = position + action, np.abs(action).sum()
    np.testing.assert_allclose(seen[:2], position, rtol=1e-5)
    np.testing.assert_allclose(info["imagined_reward"], -np.square(position - _GOAL).sum(), 1e-4)
    np.testing.assert_allclose(reward, info["imagined_reward"] - 0.25 * moved, rtol=1e-4)
    assert info["disagreement"] == pytest.approx(moved) and info["discount"] == 1.0
    assert (terminated, truncated) == (False, t == 3)
  with pytest.raises(RuntimeError, match="episode is over"):
    env.step(action)
  # Beyond what an action may be.
  env.reset()
  before = env.reset(seed=3)[0]
  np.testing.assert_allclose(env.step(np.array([5.0, 0.0]))[0][0] - before[0], 1.0, rtol=1e-5)


def test_every_start_is_begun_in():
  env = DreamEnv(_dream(), horizon=4)
  found = [int(env.reset(seed=0)[0][-1])] + [int(env.reset()[0][-1]) for _ in range(200)]
  assert set(found) == set(range(5)) and np.bincount(found, minlength=5).min() > 20


def test_pixels_and_frames_are_the_decoders():
  world = AdditiveWorld()
  env = DreamEnv(_dream(world=world), horizon=4, observation="pixels", render_mode="rgb_array")
  seen, _ = env.reset(seed=1)
  start = DreamEnv(_dream(), horizon=4).reset(seed=1)[0]
  assert seen.shape == (64, 64, 3) and seen.dtype == np.uint8
  assert np.all(seen == np.round(100 * start[0]))
  np.testing.assert_array_equal(env.render(), seen)
  after = env.step(np.array([0.3, 0.3], np.float32))[0]
  assert np.all(after == np.round(100 * start[0] + 30))
  assert DreamEnv(_dream(), horizon=4).render() is None
  with pytest.raises(RuntimeError, match="call reset"):
    DreamEnv(_dream(), render_mode="rgb_array").render()


@pytest.mark.parametrize("temperature", [0.0, 1.0, 2.0])
def test_temperature_is_that_of_the_dream(temperature):
  dream = _dream(1, world=AdditiveWorld(noise_scale=0.3), temperature=temperature)
  envs = DreamVectorEnv(dream, 2000)
  envs.reset(seed=0)
  seen = envs.step(np.zeros((2000, 2)))[0][:, :2]
  assert seen.std() == pytest.approx(0.3 * temperature**0.5, rel=0.05)


def test_the_model_ends_episodes_as_often_as_it_says():
  envs = DreamVectorEnv(_dream(world=AdditiveWorld(discount=0.7)), 4000, horizon=10)
  envs.reset(seed=0)
  _, _, terminated, truncated, infos = envs.step(np.zeros((4000, 2)))
  assert abs(terminated.mean() - 0.3) < 4 * np.sqrt(0.21 / 4000) and not truncated.any()
  np.testing.assert_allclose(infos["discount"], 0.7, rtol=1e-6)


def test_a_row_is_an_environment_of_its_own():
  dream = _dream(world=AdditiveWorld(noise_scale=0.3, discount=0.9))
  envs = DreamVectorEnv(dream, 3, horizon=6)
  actions = np.random.default_rng(0).uniform(-1, 1, (40, 3, 2)).astype(np.float32)
  seen, _ = envs.reset(seed=10)
  together = [(seen, np.zeros(3), *np.zeros((2, 3), bool))] + [envs.step(a)[:4] for a in actions]
  ends = 0
  for row in range(3):
    env = DreamEnv(dream, horizon=6)
    expected, over = (env.reset(seed=10 + row)[0], 0.0, False, False), False
    for t, found in enumerate(together):
      if t and over:  # The next step begins anew, whatever its action.
        expected, ends = (env.reset()[0], 0.0, False, False), ends + 1
      elif t:
        expected = env.step(actions[t - 1, row])[:4]
      for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one[row], other, rtol=1e-5, atol=1e-6)
      over = expected[2] or expected[3]
  assert ends > 15


def test_rows_begin_anew_in_the_next_step():
  assert DreamVectorEnv.metadata["autoreset_mode"] is AutoresetMode.NEXT_STEP
  envs = DreamVectorEnv(_dream(world=AdditiveWorld(goal=9.0)), 4, horizon=2)
  envs.reset(seed=0)
  up = np.ones((4, 2), np.float32)
  envs.step(up)
  last, _, _, truncated, infos = envs.step(up)
  assert truncated.all() and infos["disagreement"].all() and np.all(last[:, :2] >= 2.0)
  first, reward, terminated, truncated, infos = envs.step(np.full((4, 2), np.nan))
  assert np.all(first[:, :2] < 0.5) and not reward.any()
  assert not (terminated | truncated).any()
  for name, value in _NEUTRAL.items():
    assert np.all(infos[name] == value)
  second = envs.step(up)[0]
  np.testing.assert_allclose(second[:, :2], first[:, :2] + 1.0, rtol=1e-5)


def test_seeds_decide_everything():
  dream = _dream(world=AdditiveWorld(noise_scale=0.3, discount=0.9))
  envs = DreamVectorEnv(dream, 3, horizon=4)

  def play(**options):
    seen = [envs.reset(**options)[0]]
    return np.stack(seen + [envs.step(np.zeros((3, 2)))[0] for _ in range(12)])

  one = play(seed=7)
  np.testing.assert_array_equal(one, play(seed=7))
  np.testing.assert_array_equal(one, play(seed=[7, 8, 9]))
  assert np.abs(one - play()).max() > 0.1
  assert np.abs(play(seed=8)[:, :2] - one[:, 1:]).max() == 0
  np.testing.assert_array_equal(one, play(seed=np.int64(7)))
  np.testing.assert_array_equal(one, play(seed=np.arange(7, 10)))
  with pytest.raises(ValueError, match="2 seeds were given for 3 environments"):
    envs.reset(seed=[1, 2])


def test_seeds_and_options_are_gymnasiums():
  env, envs = DreamEnv(_dream()), DreamVectorEnv(_dream(), 2)
  first = env.reset(seed=7)[0]
  np.testing.assert_array_equal(env.reset(seed=np.int64(7), options={"unknown": 1})[0], first)
  np.testing.assert_array_equal(envs.reset(seed=7, options={"unknown": 1})[0][0], first)
  for made in (env, envs):
    with pytest.raises(gymnasium.error.Error, match="Seed must be greater or equal to zero"):
      made.reset(seed=-1)
    with pytest.raises(gymnasium.error.Error, match="Seed must be a python integer"):
      made.reset(seed=1.5)


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"horizon": 0}, "horizon must be positive, not 0"),
    ({"horizon": 2.5}, "horizon must be a whole number, not 2.5"),
    (
      {"observation": "latent"},
      r"observation must be one of \('features', 'observation', 'pixels'\), not 'latent'",
    ),
    ({"render_mode": "human"}, "render_mode must be rgb_array or None, not 'human'"),
  ],
)
def test_bad_arguments_are_named(options, message):
  for make in (DreamEnv, DreamVectorEnv):
    with pytest.raises(ValueError, match=message):
      make(_dream(), **options)
  with pytest.raises(ValueError, match="num_envs must be positive"):
    DreamVectorEnv(_dream(), 0)
  for options in ({"temperature": -1.0}, {"temperature": np.nan}, {"disagreement_penalty": np.nan}):
    with pytest.raises(ValueError, match=f"{next(iter(options))} must be"):
      _dream(**options)


def test_bad_actions_are_named():
  env, envs = DreamEnv(_dream()), DreamVectorEnv(_dream(), 2)
  with pytest.raises(RuntimeError, match="call reset"):
    env.step(np.zeros(2))
  with pytest.raises(RuntimeError, match="call reset"):
    envs.step(np.zeros((2, 2)))
  env.reset(seed=0)
  envs.reset(seed=0)
  with pytest.raises(ValueError, match=r"must have shape \[2, 2\], not \[3, 2\]"):
    envs.step(np.zeros((3, 2)))
  for action, message in (
    (np.array([0.0, np.nan]), r"The action \[0.0, nan\] is not finite"),
    ([0.0, [1.0, 2.0]], "Actions must be one array"),
    (np.zeros(3), r"must have shape \[1, 2\], not \[1, 3\]"),
    (["left", "right"], "Actions must be numbers in Box"),
    (None, "must have shape"),
  ):
    with pytest.raises(ValueError, match=message):
      env.step(action)
  env.step(np.zeros(2))  # None of them has harmed it.


class _BrokenWorld(AdditiveWorld):
  """Predicts a given number in a given field when the first action is above 0.5."""

  def __init__(self, field: str, value: float):
    super().__init__()
    self.field, self.value = field, value

  def imagine_with_noise(self, state, action, noise, temperature=1.0):
    found = super().imagine_with_noise(state, action, noise, temperature)
    broken = tf.fill(tf.shape(action)[:1], self.value)
    changed = tf.where(action[:, 0] > 0.5, broken, getattr(found, self.field))
    return found._replace(**{self.field: changed})


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("field", ["reward", "discount", "disagreement"])
def test_what_a_model_predicts_must_be_finite(field, value):
  world = _BrokenWorld(field, value)
  dream = _dream(world=world, name="runs/a/dynamics/003", jit_compile=False)
  message = f"The world model runs/a/dynamics/003 predicts NaN or infinity as .*{field}"
  env, envs = DreamEnv(dream, horizon=3), DreamVectorEnv(dream, 2, horizon=1)
  before = env.reset(seed=0)[0]
  with pytest.raises(ValueError, match=message):
    env.step(np.array([1.0, 0.0]))
  np.testing.assert_array_equal(env.step(np.zeros(2))[0][:2], before[:2])  # The step was not taken.
  envs.reset(seed=0)
  envs.step(np.zeros((2, 2)))
  envs.step(np.ones((2, 2)))  # Both are over: their actions and what comes of them are not used.
  with pytest.raises(ValueError, match=message):
    envs.step(np.array([[0.0, 0.0], [1.0, 0.0]]))


def test_pictures_and_observations_are_copies():
  env = DreamEnv(_dream(), horizon=4, observation="observation", render_mode="rgb_array")
  seen = env.reset(seed=1)[0].copy()
  for changed in (env.render(), env.reset(seed=1)[0]):
    changed[:] = 77
    np.testing.assert_array_equal(env.render(), seen)


def test_import_registers_names_only():
  spec = gymnasium.spec("wm_tf/Dream-v0")
  assert isinstance(spec.entry_point, str) and isinstance(spec.vector_entry_point, str)
