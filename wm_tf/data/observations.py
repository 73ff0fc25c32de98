"""Observations as NumPy arrays by part: an observation is one array or a dict of arrays by name.

No TensorFlow here. The one array of an observation without parts has the name `""`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from wm_tf.core import Nest


class ArraySpec(NamedTuple):
  """Shape and dtype of one array of an observation, without time or batch dimensions.

  Attributes:
    shape: such as `(64, 64, 3)` or `(4,)`.
    dtype: `"uint8"` (images) or `"float32"` (vectors).
  """

  shape: tuple[int, ...]
  dtype: str


def unpack(observation: Nest) -> dict[str, Any]:
  """Returns the arrays of an observation by name, in the order of their names."""
  if isinstance(observation, Mapping):
    return {name: observation[name] for name in sorted(observation)}
  return {"": observation}


def pack(arrays: Mapping[str, Any]) -> Nest:
  """Returns the observation that has these arrays; the inverse of `unpack`."""
  return arrays[""] if "" in arrays else dict(arrays)


def map_arrays(fn: Callable[..., Any], *observations: Nest) -> Nest:
  """Applies `fn` to the arrays of one name of all observations.

  Returns:
    An observation of what `fn` returns.
  """
  unpacked = [unpack(observation) for observation in observations]
  return pack({name: fn(*(arrays[name] for arrays in unpacked)) for name in unpacked[0]})


def stack(observations: Sequence[Nest]) -> Nest:
  """Stacks N observations of equal shapes along a new first axis."""
  return map_arrays(lambda *arrays: np.stack(arrays), *observations)


def describe(arrays: Mapping[str, ArraySpec]) -> str:
  """Describes arrays in a message, such as `camera uint8[64, 64, 3], speed float32[1]`."""
  parts = (f"{name} {dtype}{list(shape)}" for name, (shape, dtype) in arrays.items())
  return ", ".join(parts).strip()


def mismatch(observation: Nest, expected: Mapping[str, ArraySpec]) -> str:
  """Says how an observation differs from what is expected.

  Args:
    observation: one array or a dict of arrays.
    expected: shape and dtype of each array by name, in the order of their names.

  Returns:
    One sentence's end such as `is uint8[4], not uint8[8]`; empty if it fits and is finite.
  """
  arrays = unpack(observation)
  if list(arrays) != list(expected):
    names = [[name for name in found if name] or "one array" for found in (arrays, expected)]
    return f"has the parts {names[0]}, not {names[1]}"
  for name, (shape, dtype) in expected.items():
    value = np.asarray(arrays[name])
    part = f"{name!r} " if name else ""
    if value.shape != tuple(shape) or value.dtype != dtype:
      return f"{part}is {value.dtype}{list(value.shape)}, not {dtype}{list(shape)}"
    if value.dtype.kind == "f" and not np.isfinite(value).all():
      return f"{part}holds NaN or infinity"
  return ""
