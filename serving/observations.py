"""Checks a client's observations and converts them to the inputs of `act`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from serving.spec import ObservationPart, Spec


class Batch(NamedTuple):
  """Observations of B environments.

  Attributes:
    inputs: arrays `[B, ...]` by name of the input.
    single: whether the observation had no batch dimension.
  """

  inputs: dict[str, np.ndarray]
  single: bool


_MODERATE = 100.0  # The bound of noise where a vector's bounds are larger or infinite.


def noise(spec: Spec, rows: int, generator: np.random.Generator) -> Any:
  """Draws a batch of random observations of the environment, as `act` takes them.

  Args:
    spec: the model's description of its environment.
    rows: B, the number of observations.
    generator: the source of randomness.

  Returns:
    An array, or a dict of arrays by name of the part, `[B, ...]` each.
  """
  if spec.observation is None:
    return generator.integers(0, 256, (rows, *spec.observation_size, 3), np.uint8)
  values = {part.name: _noise(part, rows, generator) for part in spec.observation}
  return values[""] if set(values) == {""} else values


def _noise(part: ObservationPart, rows: int, generator: np.random.Generator) -> np.ndarray:
  shape = (rows, *part.shapes[-1])
  if part.num_choices:
    value = generator.integers(0, part.num_choices, (rows, len(part.num_choices)))
    return (value + part.start).reshape(shape).astype(part.dtype)
  low, high = (0, 255) if part.low is None else (part.low, part.high)
  if part.kind == "vector":
    low = np.clip(low, -_MODERATE, _MODERATE).reshape(part.shape)
    high = np.clip(high, -_MODERATE, _MODERATE).reshape(part.shape)
  value = generator.uniform(low, high, shape)
  return (np.rint(value) if part.dtype.kind in "iu" else value).astype(part.dtype)


def frames(observation: Any, rows: int) -> Batch:
  """Makes the inputs of an older export, which takes only frames and does not record their size.

  Args:
    observation: `uint8[H, W, 3]` or `uint8[B, H, W, 3]`.
    rows: B, the number of environments.

  Returns:
    The batch, with the input `frame`.

  Raises:
    ValueError: if the observation has another shape or dtype.
  """
  given = np.asarray(observation)
  batch = given[None] if given.ndim == 3 else given
  if batch.ndim != 4 or batch.dtype != np.uint8:
    raise ValueError(f"frames are uint8[B, H, W, 3], not {given.dtype}{list(given.shape)}")
  _check_rows(len(batch), rows, "frames")
  return Batch({"frame": batch}, given.ndim == 3)


def check(parts: Sequence[ObservationPart], observation: Any, rows: int) -> Batch:
  """Checks an observation of the environment against the model's description of it.

  Args:
    parts: the parts of an observation.
    observation: an array, or a dict of arrays by name of the part, in the environment's format;
      images may also have the height and width that the agent sees. With or without a leading B.
    rows: B, the number of environments.

  Returns:
    The batch, in the dtypes of the inputs.

  Raises:
    ValueError: if a part is missing, has another shape or dtype, or is not finite.
  """
  inputs, singles = {}, set()
  for part, value in _parts(parts, observation):
    array = np.asarray(value)
    is_batch = array.ndim > 0 and array.shape[1:] in part.shapes
    single = array.shape in part.shapes and not (is_batch and len(array) == rows)
    batch = array[None] if single else array
    if batch.ndim == 0 or batch.shape[1:] not in part.shapes:
      raise ValueError(f"{_name(part)} is {_expected(part)}, not {array.dtype}{list(array.shape)}")
    inputs[part.input] = _checked(part, batch, rows)
    singles.add(single)
  if len(singles) > 1:
    raise ValueError("some parts of the observation have a batch dimension and some have none")
  return Batch(inputs, singles.pop())


def from_agent(parts: Sequence[ObservationPart], observation: Any, rows: int) -> Batch:
  """Converts a batch of observations in the agent's format to the environment's format.

  Args:
    parts: the parts of an observation.
    observation: an array, or a dict of arrays by name of the part; images `uint8[B, H, W, C]` and
      vectors `float32[B, D]`. Parts in the environment's format are accepted too.
    rows: B, the number of environments.

  Returns:
    The batch, in the dtypes of the inputs; `single` is False.

  Raises:
    ValueError: if a part is missing, has another shape or dtype, or is not finite.
  """
  inputs = {}
  for part, value in _parts(parts, observation):
    array = np.asarray(value)
    dtype = np.uint8 if part.kind == "image" else np.float32
    if array.ndim and array.shape[1:] == part.agent_shape and array.dtype == dtype:
      if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise ValueError(f"{_name(part)} holds NaN or infinite numbers")
      array = _native(part, array)
    elif array.ndim == 0 or array.shape[1:] not in part.shapes:
      expected = f"{np.dtype(dtype)}[{', '.join(map(str, ('B', *part.agent_shape)))}]"
      raise ValueError(f"{_name(part)} is {expected}, not {array.dtype}{list(array.shape)}")
    inputs[part.input] = _checked(part, array, rows)
  return Batch(inputs, False)


def _parts(parts, observation):
  """Returns pairs of a part and its value."""
  if len(parts) == 1 and not parts[0].name:
    return [(parts[0], observation)]
  names = [part.name for part in parts]
  if not isinstance(observation, Mapping) or set(observation) != set(names):
    given = sorted(observation) if isinstance(observation, Mapping) else type(observation).__name__
    raise ValueError(f"an observation is a dict of {names}, not {given}")
  return [(part, observation[part.name]) for part in parts]


def _name(part: ObservationPart) -> str:
  return f"part {part.name!r} of the observation" if part.name else "the observation"


def _expected(part: ObservationPart) -> str:
  shapes = " or ".join(f"[{', '.join(map(str, shape))}]" for shape in part.shapes)
  return f"{part.dtype}{shapes}, with or without a leading B"


def _checked(part: ObservationPart, batch: np.ndarray, rows: int) -> np.ndarray:
  """Checks a batch and converts it to the dtype of the input."""
  exact = part.dtype == np.uint8
  if batch.dtype != part.dtype and (exact or not np.can_cast(batch.dtype, part.dtype, "same_kind")):
    raise ValueError(f"{_name(part)} is {_expected(part)}, not {batch.dtype}{list(batch.shape)}")
  _check_rows(len(batch), rows, "frames" if part.kind == "image" else "observations")
  batch = batch.astype(part.dtype, copy=False)
  if batch.dtype.kind == "f" and not np.isfinite(batch).all():
    raise ValueError(f"{_name(part)} holds NaN or infinite numbers")
  return batch


def _check_rows(given: int, rows: int, noun: str) -> None:
  if given != rows:
    raise ValueError(f"{given} {noun}, but reset(batch_size={rows})")


def _native(part: ObservationPart, x: np.ndarray) -> np.ndarray:
  """Converts a part from the agent's format, `[B, ...]`, to the environment's."""
  if part.kind == "vector":
    if part.num_choices:
      groups = np.split(x, np.cumsum(part.num_choices)[:-1], axis=-1)
      x = np.stack([group.argmax(-1) for group in groups], axis=-1) + np.asarray(part.start)
    return x.reshape(len(x), *part.shape).astype(part.dtype)
  x = x.reshape(*x.shape[:3], *(part.shape[axis] for axis in part.axes[2:]))
  x = x.transpose(0, *(1 + axis for axis in np.argsort(part.axes)))
  if part.low is not None:
    x = part.low + (part.high - part.low) / 255 * x.astype(np.float64)
    x = np.rint(x) if part.dtype.kind in "iu" else x
  return x.astype(part.dtype)
