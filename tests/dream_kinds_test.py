"""Dreams of every kind of observation and action, in small real world models."""

from __future__ import annotations

import functools
import importlib
import warnings

import gymnasium
import numpy as np
import pytest
import tensorflow as tf
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import SyncVectorEnv

from tests.envs import toys
from tests.worlds import random_observation, small_mdn_rnn
from wm_tf.core import ActionSpace, EnvSpec, ObservationPart, ObservationSpec
from wm_tf.dream_actions import DreamActions
from wm_tf.dream_env import Dream, DreamEnv, DreamVectorEnv
from wm_tf.dream_pictures import picture
from wm_tf.envs import env_spec
from wm_tf.envs.spaces import agent_space

_NUM_STARTS = 6
_SEED = tf.constant([3, 4])


@functools.cache
def _spec(name: str) -> EnvSpec:
  return env_spec(name)


@functools.cache
def _model(name: str):
  """A world model of a toy, and starts in it."""
  spec = _spec(name)
  space = spec.action_space
  model = small_mdn_rnn(
    action_size=space.size, observation=spec.observation, num_choices=space.num_choices
  )
  starts = model.observe(
    model.initial_state(_NUM_STARTS),
    tf.zeros([_NUM_STARTS, space.size]),
    tf.nest.map_structure(tf.constant, random_observation(spec.observation, _NUM_STARTS)),
    tf.fill([_NUM_STARTS], True),
    _SEED,
  )
  return model, starts


@functools.cache
def _dream(name: str) -> Dream:
  spec = _spec(name)
  model, starts = _model(name)
  return Dream(
    model, starts, observation=spec.observation, action_space=spec.action_space, jit_compile=False
  )


def _assert_close(one: np.ndarray, other: np.ndarray) -> None:
  """Equal but for rounding, of pixels to whole numbers too."""
  atol = 1 if one.dtype == np.uint8 else 1e-4
  np.testing.assert_allclose(one.astype(np.float64), other, rtol=1e-3, atol=atol)


def _native(name: str) -> gymnasium.Env:
  module, _, cls = name.partition(":")
  return getattr(importlib.import_module(module), cls)()


@pytest.mark.parametrize("observation", ["features", "observation"])
@pytest.mark.parametrize("name", toys.NAMES)
def test_gymnasium_has_nothing_to_complain_of(name, observation):
  env = DreamEnv(_dream(name), horizon=5, observation=observation, render_mode="rgb_array")
  with warnings.catch_warnings():
    warnings.simplefilter("error")
    warnings.filterwarnings("ignore", message=".*(infinity|env.spec is None|spec).*")
    check_env(env)


@pytest.mark.parametrize("name", toys.NAMES)
def test_spaces_are_those_of_the_environment(name):
  env = DreamEnv(_dream(name), observation="observation")
  assert env.observation_space == agent_space(_spec(name).observation)
  space = _native(name).action_space
  if isinstance(space, gymnasium.spaces.Box):
    space = gymnasium.spaces.Box(-1.0, 1.0, space.shape, np.float32)
  assert env.action_space == space


@pytest.mark.parametrize("name", toys.NAMES)
def test_observations_are_decoded_means_in_native_units(name):
  model, starts = _model(name)
  spec = _spec(name).observation
  env = DreamEnv(_dream(name), observation="observation", render_mode="rgb_array")
  features = DreamEnv(_dream(name)).reset(seed=5)[0]
  row = int(np.abs(model.features(starts).numpy() - features).max(1).argmin())
  found = spec.unpack(env.reset(seed=5)[0])
  for part, seen, mean in zip(spec.parts, found, spec.unpack(model.decode(starts)), strict=True):
    assert seen.dtype == part.dtype and seen.shape == part.shape
    mean = mean.numpy()[row]
    if part.kind == "image":
      assert np.abs(seen - 255.0 * mean).max() < 0.51
    else:
      mean = mean if part.low is None else np.clip(mean, part.low, part.high)
      np.testing.assert_allclose(seen, mean, rtol=1e-5, atol=1e-6)
  shown = env.render()
  assert shown.dtype == np.uint8 and shown.ndim == 3 and shown.shape[2] == 3
  if spec.images:
    image = found[spec.parts.index(spec.images[0])]
    np.testing.assert_array_equal(shown, np.broadcast_to(image, shown.shape))
  shown[:] = 0
  assert env.render().any()  # It was a copy.


@pytest.mark.parametrize("observation", ["features", "observation"])
@pytest.mark.parametrize("name", toys.NAMES)
def test_the_vector_environment_is_gymnasiums_of_single_ones(name, observation):
  """Rows, infos and masks too, over ends of episodes."""
  options = {"horizon": 3, "observation": observation}
  envs = DreamVectorEnv(_dream(name), 2, **options)
  others = SyncVectorEnv([lambda: DreamEnv(_dream(name), **options)] * 2)
  assert envs.observation_space == others.observation_space
  assert envs.action_space == others.action_space
  found, expected = envs.reset(seed=3), others.reset(seed=3)
  envs.action_space.seed(0)
  for _ in range(8):
    for one, other in zip(found, expected, strict=True):
      tf.nest.assert_same_structure(one, other)
      tf.nest.map_structure(_assert_close, one, other)
    action = envs.action_space.sample()
    found, expected = envs.step(action), others.step(action)


@pytest.mark.parametrize("name", toys.NAMES)
def test_actions_are_the_models(name):
  """A step is what the model imagines of the action as its data hold it."""
  env, space = DreamEnv(_dream(name)), _spec(name).action_space
  model, _ = _model(name)
  env.action_space.seed(0)
  seen = set()
  for seed in range(12):
    env.reset(seed=seed)
    state = env._rows._state
    action = env.action_space.sample()
    encoded = _dream(name).actions.encode([action], np.ones(1, bool))
    assert encoded.dtype == np.float32 and encoded.shape == (1, space.size)
    if space.is_categorical:
      np.testing.assert_array_equal(space.to_env(encoded[0]), action)
      np.testing.assert_array_equal(space.canonical(encoded), encoded)
    seen.add(tuple(encoded[0]))
    _, reward, *_ = env.step(action)
    drawn = model.draw_noise(1, 1, _SEED)
    noise = tf.nest.map_structure(lambda x: x[:, 0], drawn)
    predicted = model.imagine_with_noise(state, tf.constant(encoded), noise, 0.0)
    # The reward depends on the action, not on noise.
    np.testing.assert_allclose(reward, predicted.reward[0], rtol=1e-3, atol=1e-5)
  assert len(seen) > 1


@pytest.mark.parametrize(
  ("name", "actions", "message"),
  [
    ("GrayEnv", 3, r"The action 3 is not in Discrete\(3\)"),
    ("GrayEnv", -1, r"The action -1 is not in Discrete\(3\)"),
    ("GrayEnv", 1.0, r"Actions must be integers in Discrete\(3\), not float64"),
    ("GrayEnv", np.nan, "Actions must be integers"),
    ("GrayEnv", [1], r"must have shape \[1\], not \[1, 1\]"),
    ("MultiDiscreteEnv", [0, 0], r"The action \[0, 0\] is not in MultiDiscrete"),
    ("MultiDiscreteEnv", [0, 5], r"The action \[0, 5\] is not in MultiDiscrete"),
    ("MultiBinaryEnv", [0, 1, 2], r"The action \[0, 1, 2\] is not in MultiBinary\(3\)"),
  ],
)
def test_wrong_choices_are_named(name, actions, message):
  env = DreamEnv(_dream(f"tests.envs.toys:{name}"))
  env.reset(seed=0)
  with pytest.raises(ValueError, match=message) as raised:
    env.step(actions)
  assert "\n" not in str(raised.value)


def test_choices_of_an_unknown_kind():
  assert DreamActions(3, (3,)).space == gymnasium.spaces.Discrete(3)
  assert DreamActions(5, (3, 2)).space == gymnasium.spaces.MultiDiscrete([3, 2])
  encoded = DreamActions(5, (3, 2)).encode([[2, 0], [9, 9]], np.array([True, False]))
  np.testing.assert_array_equal(encoded, [[0, 0, 1, 1, 0], [0, 0, 0, 0, 0]])
  described = ActionSpace(("a", "b"), ("a", "b"), "discrete", num_choices=(2,))
  with pytest.raises(ValueError, match=r"size 3 with choices \(3,\), the action space has size 2"):
    DreamActions(3, (3,), described)


def test_pixels_are_the_only_image():
  mixed = _dream("tests.envs.toys:DictEnv")
  env = DreamEnv(mixed, observation="pixels")
  image = DreamEnv(mixed, observation="observation").reset(seed=2)[0]["image"]
  assert env.observation_space == gymnasium.spaces.Box(0, 255, image.shape, np.uint8)
  np.testing.assert_array_equal(env.reset(seed=2)[0], image)
  with pytest.raises(ValueError, match="observation=pixels is for environments of one image"):
    DreamEnv(_dream("tests.envs.toys:SurvivalEnv"), observation="pixels")


def test_without_a_description_shapes_are_the_models():
  model, starts = _model("tests.envs.toys:DictEnv")
  env = DreamEnv(Dream(model, starts, jit_compile=False), observation="observation")
  spaces = env.observation_space
  assert spaces["image"].dtype == np.uint8 and spaces["image"].shape[2] == 3
  assert spaces["point"] == gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float32)
  assert env.observation_space.contains(env.reset(seed=0)[0])


def test_bars_show_numbers_in_their_range():
  bounds = np.array([-2.0, 0.0, -np.inf], np.float32), np.array([2.0, 4.0, np.inf], np.float32)
  part = ObservationPart("", "vector", (3,), (3,), "float32", low=bounds[0], high=bounds[1])
  spec = ObservationSpec((part,))

  def lengths(*numbers):
    shown = picture(np.array(numbers, np.float32), spec)
    blue = (shown == (93, 180, 238)).all(-1)
    return [int(blue[16 * line : 16 * line + 16].sum(1).max()) for line in range(3)]

  assert lengths(0, 0, 0) == [1, 1, 1]
  quarter, half, squashed = lengths(1, 2, 1)
  width = half * 2 - 1
  assert abs(quarter - width / 4) <= 2 and abs(squashed - width / 4) <= 2 and width > 100
  assert lengths(2, 4, 1e9) == [half, width, half]
  many = ObservationPart("many", "vector", (500,), (500,), "float32")
  assert picture({"many": np.zeros(500)}, ObservationSpec((many,))).shape == (24 * 16, 360, 3)
