"""Exact integer area resize: NumPy here and TensorFlow in an exported graph agree bit for bit.

Every output pixel is the mean of the rectangle of input pixels that it covers. In units that divide
both sizes (half rows for a height of 96 onto 64, 3 to an output row) overlaps are whole numbers. So
is the weighted sum `S`, and the result is `(2 S + D) // (2 D)` with `D` the total weight: the
mean rounded half up, without floating-point rounding.
"""

from __future__ import annotations

import functools
import math

import numpy as np

from wm_tf.core import ObservationPart

Crop = tuple[int, int, int, int]  # top, left, height, width


def _overlaps(source: int, target: int) -> np.ndarray:
  """`int64[target, source]`: how much of input cell j output cell i covers; rows sum alike."""
  divisor = math.gcd(source, target)
  covered, cell = source // divisor, target // divisor  # Sizes of an output and an input cell.
  low = np.maximum(covered * np.arange(target)[:, None], cell * np.arange(source))
  high = np.minimum(covered * np.arange(1, target + 1)[:, None], cell * np.arange(1, source + 1))
  return np.maximum(high - low, 0)


@functools.cache
def resize_matrices(
  crop: Crop, native_shape: tuple[int, ...], size: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray, int]:
  """The resize as two matrices, for the in-graph version.

  For one channel `x` of a frame the result is `floor((2 (rows @ x @ cols) + D) / (2 D))`. All
  entries are whole numbers and float64 holds every sum exactly.

  Args:
    crop: `(top, left, height, width)` that is kept, in pixels of the native frame.
    native_shape: `(H, W)` or `(H, W, C)` of the native frame.
    size: `(h, w)` of the result.

  Returns:
    `rows`: `float64[h, H]`; `cols`: `float64[W, w]`; `D`: the total weight, an int.

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
  """Returns the overlaps of one axis, which repeat: `step_in` inputs make `step_out` outputs.

  Returns:
    `(step_in, step_out, terms)`. A term `(i, j, weight)` is how much of input j of each group of
    inputs goes into output i of its group of outputs.
  """
  divisor = math.gcd(source, target)
  step_in, step_out = source // divisor, target // divisor
  overlaps = _overlaps(step_in, step_out)
  terms = tuple((int(i), int(j), int(overlaps[i, j])) for i, j in np.argwhere(overlaps))
  return step_in, step_out, terms


def _shrink(x: np.ndarray, size: int) -> np.ndarray:
  """Returns the weighted sums along the first axis of `x`, which becomes `size` long."""
  step_in, step_out, terms = _plan(len(x), size)
  x = np.ascontiguousarray(x)  # Strided sums along a transposed array cost six times as much.
  result = np.zeros((size, *x.shape[1:]), x.dtype)
  for i, j, weight in terms:
    result[i::step_out] += x[j::step_in] * x.dtype.type(weight)
  return result


def resize(frame: np.ndarray, crop: Crop, size: tuple[int, int]) -> np.ndarray:
  """Crops and resizes one frame by exact integer area means, down or up.

  It uses strided integer sums rather than matrix products: worker processes share the cores, where
  a threaded BLAS is slower.

  Args:
    frame: `uint8[H, W, C]`, any number of channels.
    crop: `(top, left, height, width)` that is kept.
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
  # The least unsigned type that holds 2 S + D, with S at most 255 D.
  x = frame[top : top + height, left : left + width].astype(np.min_scalar_type(511 * total))
  x = _shrink(_shrink(x, size[0]).transpose(1, 0, 2), size[1]).transpose(1, 0, 2)
  return ((2 * x + total) // (2 * total)).astype(np.uint8, order="C")


def display_frames(frames: np.ndarray, part: ObservationPart) -> np.ndarray:
  """Converts images of any channels to RGB.

  Args:
    frames: `uint8[T, H, W, C]`, or floats in [0, 1] as a world model decodes them.
    part: which part of the observation they are; `frame_channels` says how many channels belong
      to one frame where frames are stacked.

  Returns:
    `uint8[T, H, W, 3]`: of stacked frames the newest; gray as gray; colours with alpha in front of
    black; of any other number of channels the first three.

  Raises:
    ValueError: if `frames` has not four axes.
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
  if channels == 2:  # Not colours: shown as red and green.
    return np.concatenate([frames, np.zeros_like(frames[..., :1])], axis=-1)
  if channels == 4:
    alpha = frames[..., 3:].astype(np.uint16)
    return ((frames[..., :3] * alpha + 127) // 255).astype(np.uint8)
  return frames[..., :3]
