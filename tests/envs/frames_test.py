"""The resize, against plain fractions: it must be exact, for a graph has to repeat it."""

import fractions
import math

import numpy as np
import pytest

from wm_tf.envs import frames

CASES = [  # native (H, W), crop, size
  ((96, 96), (0, 0, 96, 96), (64, 64)),
  ((96, 96), (0, 0, 84, 96), (64, 64)),
  ((30, 40), (3, 5, 21, 33), (8, 8)),
  ((17, 13), (0, 0, 17, 13), (5, 6)),
  ((6, 5), (1, 0, 5, 4), (16, 12)),
  ((9, 17), (0, 0, 8, 16), (1, 1)),  # D = 128: the most that 16 bits hold.
  ((9, 17), (0, 0, 9, 17), (1, 1)),
]


def _random_frame(height, width):
  return np.random.default_rng(7).integers(0, 256, (height, width, 3)).astype(np.uint8)


def _exact_mean(frame, crop, size, row, column):
  """Mean of the area that one output pixel covers, rounded half up, in fractions."""
  top, left, height, width = crop
  high, wide = fractions.Fraction(height, size[0]), fractions.Fraction(width, size[1])
  total = [0, 0, 0]
  for y in range(math.floor(row * high), math.ceil((row + 1) * high)):
    share_y = min((row + 1) * high, y + 1) - max(row * high, y)
    for x in range(math.floor(column * wide), math.ceil((column + 1) * wide)):
      share = share_y * (min((column + 1) * wide, x + 1) - max(column * wide, x))
      for channel in range(3):
        total[channel] += share * int(frame[top + y, left + x, channel])
  return [math.floor(t / (high * wide) + fractions.Fraction(1, 2)) for t in total]


@pytest.mark.parametrize("native, crop, size", CASES)
def test_resize_is_the_exact_mean_of_the_area(native, crop, size):
  frame = _random_frame(*native)
  result = frames.resize(frame, crop, size)
  assert result.shape == (*size, 3) and result.dtype == np.uint8 and result.flags.c_contiguous
  rng = np.random.default_rng(0)
  for _ in range(100):
    row, column = rng.integers(size[0]), rng.integers(size[1])
    expected = _exact_mean(frame, crop, size, int(row), int(column))
    assert result[row, column].tolist() == expected


@pytest.mark.parametrize("native, crop, size", CASES)
def test_matrices_in_float64_agree_bit_for_bit(native, crop, size):
  frame = _random_frame(*native)
  rows, cols, total = frames.resize_matrices(crop, frame.shape, size)
  assert rows.shape == (size[0], native[0]) and cols.shape == (native[1], size[1])
  assert (rows == np.round(rows)).all() and (cols == np.round(cols)).all()
  sums = np.stack([rows @ frame[..., c].astype(np.float64) @ cols for c in range(3)], axis=-1)
  in_graph = np.floor((2 * sums + total) / (2 * total))
  np.testing.assert_array_equal(frames.resize(frame, crop, size), in_graph)


@pytest.mark.parametrize("native, crop, size", CASES)
@pytest.mark.parametrize("value", [0, 1, 254, 255])
def test_constant_frames_stay_constant(native, crop, size, value):
  frame = np.full((*native, 3), value, np.uint8)
  assert (frames.resize(frame, crop, size) == value).all()


def test_half_is_rounded_up():
  frame = np.array([[[10, 11, 255]], [[11, 12, 254]]], np.uint8)
  assert frames.resize(frame, (0, 0, 2, 1), (1, 1)).ravel().tolist() == [11, 12, 255]


def test_bad_frames_and_crops_are_named():
  frame = _random_frame(8, 8)
  with pytest.raises(ValueError, match="float32"):
    frames.resize(frame.astype(np.float32), (0, 0, 8, 8), (4, 4))
  with pytest.raises(ValueError, match=r"\(2, 0, 7, 8\).*\(8, 8, 3\)"):
    frames.resize(frame, (2, 0, 7, 8), (4, 4))


@pytest.mark.parametrize("channels", [1, 2, 4, 12])
@pytest.mark.parametrize("native, crop, size", CASES)
def test_every_channel_is_resized_by_itself(native, crop, size, channels):
  frame = np.random.default_rng(8).integers(0, 256, (*native, channels)).astype(np.uint8)
  result = frames.resize(frame, crop, size)
  for channel in range(channels):
    alone = frames.resize(frame[..., channel : channel + 1], crop, size)
    np.testing.assert_array_equal(result[..., channel : channel + 1], alone)
