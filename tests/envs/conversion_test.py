"""Native observations as agents see them: values, and what is refused."""

import numpy as np
import pytest
from gymnasium import spaces

from wm_tf.envs.conversion import picture, to_agent
from wm_tf.envs.frames import resize
from wm_tf.envs.options import AdapterOptions
from wm_tf.envs.spaces import observation_spec

_RNG = np.random.default_rng(0)


def _spec(space, **options):
  return observation_spec(space, AdapterOptions(**options))


def _pixels(*shape):
  return spaces.Box(0, 255, shape, np.uint8), _RNG.integers(0, 256, shape).astype(np.uint8)


@pytest.mark.parametrize(
  ("shape", "arranged"),
  [
    ((20, 24), lambda x: x[..., None]),
    ((20, 24, 4), lambda x: x),
    ((5, 20, 24), lambda x: np.moveaxis(x, 0, -1)),
    ((2, 20, 24, 3), lambda x: np.concatenate(list(x), axis=-1)),
    ((2, 3, 20, 24), lambda x: np.concatenate(list(np.moveaxis(x, 1, -1)), axis=-1)),
  ],
)
def test_images_of_every_layout_are_resized_channel_by_channel(shape, arranged):
  space, native = _pixels(*shape)
  found = to_agent(_spec(space, crop=(1, 2, 18, 20), frame_size=48), native)
  np.testing.assert_array_equal(found, resize(arranged(native), (1, 2, 18, 20), (48, 48)))
  assert found.shape[:2] == (48, 48) and found.dtype == np.uint8


def test_frames_of_the_wanted_size_are_copied():
  space, native = _pixels(64, 64, 3)
  found = to_agent(_spec(space), native)
  np.testing.assert_array_equal(found, native)
  assert not np.shares_memory(found, native)


def test_other_ranges_are_scaled_to_bytes():
  spec = _spec(spaces.Box(-1, 1, (16, 16), np.float32), frame_size=32)
  for value, expected in ((-1, 0), (1, 255), (0, 128), (1.0005, 255), (-1 + 2.2 / 255, 1)):
    found = to_agent(spec, np.full((16, 16), value, np.float64))
    np.testing.assert_array_equal(found, np.full((32, 32, 1), expected))
  for value in (1.5, np.nan, np.inf):
    with pytest.raises(ValueError, match="must lie within -1 and 1"):
      to_agent(spec, np.full((16, 16), value))


def test_vectors_are_flattened_and_choices_are_one_hot():
  space = spaces.Dict(
    a=spaces.Box(-9, 9, (2, 2), np.int64),
    b=spaces.Discrete(3, start=4),
    c=spaces.MultiDiscrete([[2], [3]], start=[[0], [-1]]),
    d=spaces.MultiBinary((1, 2)),
  )
  native = {"a": [[1, 2], [3, 4]], "b": 6, "c": [[1], [-1]], "d": np.array([[0, 1]], np.int8)}
  found = to_agent(_spec(space), native)
  expected = {"a": [1, 2, 3, 4], "b": [0, 0, 1], "c": [0, 1, 1, 0, 0], "d": [0, 1]}
  assert {name: value.tolist() for name, value in found.items()} == expected
  assert {value.dtype for value in found.values()} == {np.dtype(np.float32)}


@pytest.mark.parametrize(
  ("space", "native", "message"),
  [
    (spaces.Box(-1, 1, (2,)), [0, np.nan], "the observation is not finite: it holds nan"),
    (spaces.Box(-1, 1, (2,), np.float64), [0, 1e60], "not finite: it holds 1e.60"),
    (spaces.Box(-1, 1, (2,)), [0, 1, 0], r"must have shape \(2,\).*shows \(3,\)"),
    (spaces.Box(-1, 1, (2,)), ["a", "b"], "must hold numbers"),
    (spaces.Discrete(3), 3, r"is 3, not \(3,\) choices"),
    (spaces.Discrete(3), 1.0, "is 1.0, not"),
    (spaces.Dict(x=spaces.Discrete(3)), {"y": 2}, "'x' is missing"),
    (spaces.Tuple([spaces.Discrete(2)] * 2), (0,), "'part_1' is missing"),
    (_pixels(20, 24)[0], np.zeros((20, 24), np.int64), "must be uint8.*int64"),
    (_pixels(20, 24)[0], np.zeros((20, 24, 1), np.uint8), r"must have shape \(20, 24\)"),
  ],
)
def test_what_is_not_as_the_space_says_is_refused(space, native, message):
  with pytest.raises(ValueError, match=message):
    to_agent(_spec(space), native)


def test_pictures_show_the_newest_frame_in_colour():
  space, native = _pixels(5, 20, 24)
  found = picture(_spec(space).parts[0], native)
  np.testing.assert_array_equal(found, np.repeat(native[-1][..., None], 3, axis=-1))
  space, native = _pixels(2, 20, 24, 3)
  np.testing.assert_array_equal(picture(_spec(space).parts[0], native), native[1])
  space, native = _pixels(20, 24, 4)
  found = picture(_spec(space).parts[0], native)
  np.testing.assert_array_equal(found, native[..., :3])
  assert not np.shares_memory(found, native)
