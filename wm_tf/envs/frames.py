"""Exact integer area resize: NumPy here and TensorFlow in an exported graph agree bit for bit.

Every output pixel is the mean of the rectangle of input pixels that it covers. Measured in units
small enough (a height of 96 onto 64: half rows, 3 to an output row) the overlaps are whole numbers,
so the weighted sum `S` is too, and the result is `(2 S + D) // (2 D)` with `D` the total weight:
the mean rounded half up, with no floating-point rounding anywhere.
"""

from __future__ import annotations

import functools
import math

import numpy as np

Crop = tuple[int, int, int, int]  # top, left, height, width


def _overlaps(source: int, target: int) -> np.ndarray:
  """`int64[target, source]`: how much of input cell j output cell i covers; rows sum alike."""
  divisor = math.gcd(source, target)
  covered, cell = source // divisor, target // divisor  # Sizes of an output and an input cell.
  low = np.maximum(covered * np.arange(target)[:, None], cell * np.arange(source))
  high = np.minimum(covered * np.arange(1, target + 1)[:, None], cell * np.arange(1, source + 1))
  return np.maximum(high - low, 0)


def _check_crop(crop: Crop, native_shape: tuple[int, ...]) -> None:
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
  _check_crop(crop, native_shape)
  top, left, height, width = crop
  rows = np.zeros((size[0], native_shape[0]))
  rows[:, top : top + height] = _overlaps(height, size[0])
  cols = np.zeros((native_shape[1], size[1]))
  cols[left : left + width] = _overlaps(width, size[1]).T
  rows.setflags(write=False)
  cols.setflags(write=False)
  return rows, cols, round(rows[0].sum() * cols[:, 0].sum())


def resize(frame: np.ndarray, crop: Crop, size: tuple[int, int]) -> np.ndarray:
  """Crops and resizes one frame: `uint8[H, W, C]` -> `uint8[h, w, C]`, exactly (see above).

  Raises:
    ValueError: if the frame is not `uint8[H, W, C]` or the crop does not lie inside it.
  """
  if frame.dtype != np.uint8 or frame.ndim != 3:
    raise ValueError(f"A frame must be uint8[H, W, C], not {frame.dtype}{list(frame.shape)}.")
  rows, cols, total = resize_matrices(tuple(crop), frame.shape, tuple(size))
  weighted = np.einsum("hH,HWc,Ww->hwc", rows, frame.astype(np.float64), cols, optimize=True)
  return ((2 * weighted.astype(np.int64) + total) // (2 * total)).astype(np.uint8)
