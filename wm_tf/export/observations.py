"""Converts NumPy observations to the inputs of a loaded SavedModel."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from wm_tf.core import Nest, ObservationPart, ObservationSpec, image_observation
from wm_tf.export.conversions import accepted_shapes, image_axes


def described_observation(spec: Mapping[str, Any]) -> tuple[ObservationSpec, tuple[str, ...]]:
  """Reads the description of the observation from the `json` of the signature `spec`.

  Args:
    spec: the parsed `json`. That of an older export describes a single image.

  Returns:
    The observation, and the name of the input for each of its parts.
  """
  parts = spec.get("observation")
  if not isinstance(parts, list):
    shape, native = tuple(spec["observation_shape"]), tuple(spec["native_shape"])
    return image_observation(shape, native, tuple(spec["crop"])), ("frame",)
  names, described = [], []
  for part in parts:
    fields = {key: tuple(x) if isinstance(x, list) else x for key, x in part.items()}
    names.append(fields.pop("input"))
    for bound, unbounded in (("low", -np.inf), ("high", np.inf)):
      fields[bound] = _bound(fields.get(bound), unbounded)
    known = {key: x for key, x in fields.items() if key in ObservationPart._fields}
    described.append(ObservationPart(**known))
  return ObservationSpec(tuple(described)), tuple(names)


def _bound(value: Any, unbounded: float) -> np.ndarray | None:
  """Returns a bound of a part as in `ObservationPart`; JSON has null for infinity."""
  if isinstance(value, tuple):
    value = [unbounded if x is None else x for x in value]
  return None if value is None else np.asarray(value, np.float32)


def inputs_of(
  observation: ObservationSpec, names: tuple[str, ...], value: Nest, rows: int | None = None
) -> dict[str, np.ndarray]:
  """Converts a batch of observations to the inputs of a signature.

  Args:
    observation: describes the observation.
    names: the name of the input for each part.
    value: an array, or a dict of arrays by name of the part; `[B, ...]` each, in the agent's or the
      environment's format.
    rows: B; None accepts any B.

  Returns:
    Arrays of the environment's dtypes, by name of the input.

  Raises:
    ValueError: if a part is missing, has another shape or dtype, or is not finite, or if there is
      no batch dimension.
  """
  if not observation.is_array:
    wanted = {part.name for part in observation.parts}
    if not isinstance(value, Mapping) or set(value) != wanted:
      given = sorted(value) if isinstance(value, Mapping) else type(value).__name__
      raise ValueError(f"The observation is a dict of {sorted(wanted)}, not {given}.")
  inputs = {}
  for name, part, x in zip(names, observation.parts, observation.unpack(value), strict=True):
    inputs[name] = _input_of(part, part.name or "observation", np.asarray(x), rows)
  return inputs


def _input_of(part: ObservationPart, what: str, x: np.ndarray, rows: int | None) -> np.ndarray:
  seen, shapes = tuple(part.shape), accepted_shapes(part)
  accepted = " or ".join(
    f"{dtype}[{', '.join(['B', *map(str, shape)])}]"
    for dtype, shape in dict.fromkeys(
      [(part.dtype, seen), *((part.native_dtype, shape) for shape in shapes)]
    )
  )
  given = f"{x.dtype}[{', '.join(map(str, x.shape))}]"
  if x.ndim and x.shape[1:] not in (seen, *shapes) and x.shape in (seen, *shapes):
    raise ValueError(
      f"{what} has no batch dimension: it is {accepted}, not {given}. Give a batch of one, x[None]."
    )
  if x.ndim == 0 or x.shape[1:] not in (seen, *shapes):
    raise ValueError(f"{what} is {accepted}, not {given}.")
  if rows is not None and len(x) != rows:
    raise ValueError(f"{what} has {len(x)} rows, but begin({rows}) was called.")
  if x.dtype.kind == "f" and not np.isfinite(x).all():
    raise ValueError(f"{what} holds NaN or infinite numbers.")
  is_seen = x.shape[1:] == seen and (x.dtype == part.dtype or x.shape[1:] not in shapes)
  if is_seen:
    x = _native(part, x)
  if not np.can_cast(x.dtype, part.native_dtype, "same_kind"):
    raise ValueError(f"{what} is {accepted}, not {given}.")
  return x.astype(part.native_dtype, copy=False)


def _native(part: ObservationPart, x: np.ndarray) -> np.ndarray:
  """Converts a part from the agent's format, `[B, ...]`, to the environment's."""
  if part.kind == "image":
    return _native_image(part, x)
  if part.num_choices:
    groups = np.split(x, np.cumsum(part.num_choices)[:-1], axis=-1)
    x = np.stack([group.argmax(-1) for group in groups], axis=-1)
    x = x + (0 if part.start is None else np.asarray(part.start))
  return x.reshape(len(x), *part.native_shape).astype(part.native_dtype)


def _native_image(part: ObservationPart, x: np.ndarray) -> np.ndarray:
  axes = image_axes(part)
  channels = [part.native_shape[axis] for axis in axes[2:]]
  x = x.reshape(*x.shape[:3], *channels)
  x = x.transpose(0, *(1 + axis for axis in np.argsort(axes)))
  if part.low is not None:
    scale = (float(part.high) - float(part.low)) / 255
    x = float(part.low) + scale * x.astype(np.float64)
    if np.dtype(part.native_dtype).kind in "iu":
      x = np.rint(x)
  return x.astype(part.native_dtype)
