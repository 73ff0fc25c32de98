"""Exact integer area resize: NumPy here and TensorFlow in an exported graph agree bit for bit.

Every output pixel is the mean of the rectangle of input pixels that it covers. With a unit that
divides both sizes (for heights 96 and 64: half an input row, 3 to an output row), overlaps are
whole numbers. The weighted sum `S` is then a whole number too. The result is
`(2 S + D) // (2 D)` with `D` the total weight: the mean rounded half up, without floating-point
rounding.
"""

from __future__ import annotations

import functools
import math

import numpy as np

from wm_tf.core import ObservationPart

Crop = tuple[int, int, int, int]  # top, left, height, width


def _overlaps(source: int, target: int) -> np.ndarray:
  """Returns how much of input cell j output cell i covers, `int64[target, source]`.

  All rows have the same sum.
  """
  divisor = math.gcd(source, target)
  covered, cell = source // divisor, target // divisor  # Sizes of an output and an input cell.
  low = np.maximum(covered * np.arange(target)[:, None], cell * np.arange(source))
  high = np.minimum(covered * np.arange(1, target + 1)[:, None], cell * np.arange(1, source + 1))
  return np.maximum(high - low, 0)


@functools.cache
def resize_matrices(
  crop: Crop, native_shape: tuple[int, ...], size: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray, int]:
  """Computes the resize as two matrices, which exported graphs use.

  For one channel `x` of a frame the result is `floor((2 (rows @ x @ cols) + D) / (2 D))`. All
  entries are whole numbers, and float64 represents every sum exactly.

  Args:
    crop: `(top, left, height, width)` that is kept, in pixels of the native frame.
    native_shape: `(H, W)` or `(H, W, C)` of the native frame.
    size: `(h, w)` of the result.

  Returns:
    `(rows, cols, D)`: `float64[h, H]`, `float64[W, w]`, and the total weight, an int.

  Raises:
    ValueError: if the crop does not lie inside the frame.
  """
  top, left, height, width = crop
  if (
    min(top, left) < 0
    or min(height, width) < 1
    or top + height > native_shape[0]
    or left + width > native_shape[1]
  ):
    raise ValueError(
      f"Crop {tuple(crop)} (top, left, height, width) does not lie inside a frame of shape "
      f"{tuple(native_shape)}."
    )
  rows = np.zeros((size[0], native_shape[0]))
  rows[:, top : top + height] = _overlaps(height, size[0])
  cols = np.zeros((native_shape[1], size[1]))
  cols[left : left + width] = _overlaps(width, size[1]).T
  rows.setflags(write=False)
  cols.setflags(write=False)
  return rows, cols, round(rows[0].sum() * cols[:, 0].sum())


@functools.cache
def _plan(source: int, target: int) -> tuple[int, int, tuple[tuple[int, int, int], ...]]:
  """Computes the overlaps of one axis, which repeat: `step_in` inputs give `step_out` outputs.

  Returns:
    `(step_in, step_out, terms)`. A term `(i, j, weight)` says how much of input j of each group of
    inputs goes into output i of the same group of outputs.
  """
  divisor = math.gcd(source, target)
  step_in, step_out = source // divisor, target // divisor
  overlaps = _overlaps(step_in, step_out)
  terms = tuple((int(i), int(j), int(overlaps[i, j])) for i, j in np.argwhere(overlaps))
  return step_in, step_out, terms


def _shrink(x: np.ndarray, size: int) -> np.ndarray:
  """Computes weighted sums along the first axis of `x`, whose new length is `size`."""
  step_in, step_out, terms = _plan(len(x), size)
  x = np.ascontiguousarray(x)  # Strided sums along a transposed array cost six times as much.
  result = np.zeros((size, *x.shape[1:]), x.dtype)
  for i, j, weight in terms:
    result[i::step_out] += x[j::step_in] * x.dtype.type(weight)
  return result


def resize(frame: np.ndarray, crop: Crop, size: tuple[int, int]) -> np.ndarray:
  """Crops and resizes one frame by exact integer area means, to a smaller or larger size.

  It uses strided integer sums rather than matrix products, because a threaded BLAS is slower when
  worker processes share the cores.

  Args:
    frame: `uint8[H, W, C]`, any number of channels.
    crop: `(top, left, height, width)` that is kept, in pixels.
    size: `(h, w)` of the result.

  Returns:
    `uint8[h, w, C]`.

  Raises:
    ValueError: if the frame is not `uint8[H, W, C]` or the crop does not lie inside it.
  """
  if frame.dtype != np.uint8 or frame.ndim != 3:
    raise ValueError(f"A frame must be uint8[H, W, C], not {frame.dtype}{list(frame.shape)}.")
  _, _, total = resize_matrices(tuple(crop), frame.shape, tuple(size))
  top, left, height, width = crop
  if (height, width) == tuple(size):
    return frame[top : top + height, left : left + width].copy()
  # The smallest unsigned type that holds 2 S + D, with S at most 255 D.
  x = frame[top : top + height, left : left + width].astype(np.min_scalar_type(511 * total))
  x = _shrink(_shrink(x, size[0]).transpose(1, 0, 2), size[1]).transpose(1, 0, 2)
  return ((2 * x + total) // (2 * total)).astype(np.uint8, order="C")


def display_frames(frames: np.ndarray, part: ObservationPart) -> np.ndarray:
  """Converts images of any channels to RGB.

  Args:
    frames: `uint8[T, H, W, C]`, or floats in [0, 1] as a world model decodes them.
    part: the specification of the images; `frame_channels` is read.

  Returns:
    `uint8[T, H, W, 3]`. Of stacked frames the newest is shown. One channel is shown as gray, two
    as red and green, and RGBA in front of black. Of more channels the first three are shown.

  Raises:
    ValueError: if `frames` does not have four axes.
  """
  frames = np.asarray(frames)
  if frames.ndim != 4:
    raise ValueError(
      f"display_frames: {part.name or 'the observation'} must be [T, H, W, C], got {frames.shape}."
    )
  if frames.dtype != np.uint8:
    frames = np.round(np.clip(frames, 0.0, 1.0) * 255.0).astype(np.uint8)
  frames = frames[..., -part.frame_channels :]
  channels = frames.shape[-1]
  if channels == 1:
    return np.repeat(frames, 3, axis=-1)
  if channels == 2:  # Shown as red and green.
    return np.concatenate([frames, np.zeros_like(frames[..., :1])], axis=-1)
  if channels == 4:
    alpha = frames[..., 3:].astype(np.uint16)
    return ((frames[..., :3] * alpha + 127) // 255).astype(np.uint8)
  return frames[..., :3]
