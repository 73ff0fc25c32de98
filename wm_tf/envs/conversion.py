"""Converts native observations to those of agents in NumPy; exported graphs do exactly the same."""

from __future__ import annotations

from typing import Any

import numpy as np

from wm_tf.core import Nest, ObservationPart, ObservationSpec
from wm_tf.envs.frames import resize


def to_agent(spec: ObservationSpec, native: Any) -> Nest:
  """Converts an environment's own observation to what the agent observes.

  Args:
    spec: the specification of the observation.
    native: an observation of the environment's observation space.

  Returns:
    One array or a dict of arrays, as `spec` describes: images `uint8[H, W, C]`, vectors
    `float32[D]`.

  Raises:
    ValueError: if a part is missing, has another shape or dtype, or holds NaN, infinity or numbers
      outside its range.
  """
  values = []
  for part in spec.parts:
    value = _at(part, native)
    values.append(_image(part, value) if part.kind == "image" else _vector(part, value))
  return spec.pack(values)


def picture(part: ObservationPart, native: Any) -> np.ndarray:
  """Converts the newest native frame to an RGB picture.

  Args:
    part: the specification of an image.
    native: an observation of the environment's observation space.

  Returns:
    `uint8[H, W, 3]`, a copy.
  """
  frame = _pixels(part, _at(part, native))[..., -part.frame_channels :]
  return np.repeat(frame, 3, axis=-1) if frame.shape[-1] == 1 else frame[..., :3].copy()


def _at(part: ObservationPart, native: Any) -> Any:
  for key in part.path:
    try:
      native = native[key]
    except (KeyError, IndexError, TypeError):
      raise ValueError(f"{_what(part)} is missing: there is no {key!r} in it.") from None
  return native


def _what(part: ObservationPart) -> str:
  return f"observation part {part.name!r}" if part.name else "the observation"


def _array(part: ObservationPart, value: Any) -> np.ndarray:
  value = np.asarray(value)
  if value.shape != tuple(part.native_shape):
    raise ValueError(
      f"{_what(part)} must have shape {tuple(part.native_shape)}, as its space says, but the "
      f"environment shows {value.shape}."
    )
  return value


def _pixels(part: ObservationPart, value: Any) -> np.ndarray:
  """Returns `uint8[H, W, C]` in the native size."""
  value = _array(part, value)
  native_dtype = np.dtype(part.native_dtype)
  kinds_fit = native_dtype != np.uint8 and np.can_cast(value.dtype, native_dtype, "same_kind")
  if value.dtype != native_dtype and not kinds_fit:
    raise ValueError(
      f"{_what(part)} must be {part.native_dtype}, as its space says, but the environment shows "
      f"{value.dtype}."
    )
  if part.axes is not None:
    height, width = (value.shape[axis] for axis in part.axes[:2])
    value = value.transpose(part.axes).reshape(height, width, -1)
  return value if part.low is None else _scaled(part, value)


def _scaled(part: ObservationPart, value: np.ndarray) -> np.ndarray:
  """Scales pixels of any finite range to `uint8`."""
  low, high = float(part.low), float(part.high)
  value = value.astype(np.float64)
  margin = 1e-3 * (high - low)
  if not (value.min() >= low - margin and value.max() <= high + margin):  # NaN fails as well.
    raise ValueError(
      f"{_what(part)} must lie within {low:g} and {high:g}, as its space says, but the environment "
      f"shows numbers from {value.min():g} to {value.max():g}."
    )
  value = np.floor((value - low) * (255 / (high - low)) + 0.5)
  return np.clip(value, 0, 255).astype(np.uint8)


def _image(part: ObservationPart, value: Any) -> np.ndarray:
  return resize(_pixels(part, value), part.crop, part.shape[:2])


def _vector(part: ObservationPart, value: Any) -> np.ndarray:
  value = _array(part, value)
  if value.dtype.kind not in "biuf":
    raise ValueError(f"{_what(part)} must hold numbers, but the environment shows {value.dtype}.")
  if part.num_choices:
    return _one_hot(part, value)
  with np.errstate(over="ignore"):
    numbers = value.astype(np.float32).ravel()
  if not np.isfinite(numbers).all():
    worst = value.ravel()[np.flatnonzero(~np.isfinite(numbers))[0]]
    raise ValueError(f"{_what(part)} is not finite: it holds {worst}.")
  return numbers


def _one_hot(part: ObservationPart, value: np.ndarray) -> np.ndarray:
  index = value.ravel().astype(np.int64)
  if part.start is not None:
    index = index - np.asarray(part.start, np.int64)
  sizes = np.asarray(part.num_choices)
  if value.dtype.kind == "f" or (index < 0).any() or (index >= sizes).any():
    raise ValueError(
      f"{_what(part)} is {value.tolist()}, not {part.num_choices} choices from "
      f"{part.start or (0,) * len(sizes)} on, as its space says."
    )
  one_hot = np.zeros(part.shape, np.float32)
  one_hot[np.cumsum([0, *sizes[:-1]]) + index] = 1.0
  return one_hot
