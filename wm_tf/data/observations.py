"""Observations as NumPy arrays: an observation is one array or a dict of arrays by name.

This module does not import TensorFlow. An observation of one array has the name `""`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from wm_tf.core import Nest


class ArraySpec(NamedTuple):
  """The shape and dtype of one array of an observation, without time or batch dimensions.

  Attributes:
    shape: the shape, such as `(64, 64, 3)` or `(4,)`.
    dtype: `"uint8"` (images) or `"float32"` (vectors).
  """

  shape: tuple[int, ...]
  dtype: str


def unpack(observation: Nest) -> dict[str, Any]:
  """Returns the arrays of an observation by name, sorted by name.

  Args:
    observation: one array, which gets the name `""`, or a dict of arrays.
  """
  if isinstance(observation, Mapping):
    return {name: observation[name] for name in sorted(observation)}
  return {"": observation}


def pack(arrays: Mapping[str, Any]) -> Nest:
  """Returns the observation with the given arrays; the inverse of `unpack`.

  Args:
    arrays: arrays by name; `""` is the name of an observation of one array.
  """
  return arrays[""] if "" in arrays else dict(arrays)


def map_arrays(fn: Callable[..., Any], *observations: Nest) -> Nest:
  """Applies a function to the arrays of observations.

  Args:
    fn: takes one array of each observation, all of the same name.
    *observations: observations with the same names.

  Returns:
    An observation of the results of `fn`.
  """
  unpacked = [unpack(observation) for observation in observations]
  return pack({name: fn(*(arrays[name] for arrays in unpacked)) for name in unpacked[0]})


def stack(observations: Sequence[Nest]) -> Nest:
  """Stacks observations along a new first axis.

  Args:
    observations: N observations of equal shapes.

  Returns:
    An observation `[N, ...]`.
  """
  return map_arrays(lambda *arrays: np.stack(arrays), *observations)


def describe(arrays: Mapping[str, ArraySpec]) -> str:
  """Returns a description for messages, such as `camera uint8[64, 64, 3], speed float32[1]`.

  Args:
    arrays: the shape and dtype of each array, by name.
  """
  parts = (f"{name} {dtype}{list(shape)}" for name, (shape, dtype) in arrays.items())
  return ", ".join(parts).strip()


def mismatch(observation: Nest, expected: Mapping[str, ArraySpec]) -> str:
  """Describes how an observation differs from its specification.

  Args:
    observation: one array or a dict of arrays.
    expected: the shape and dtype of each array by name, sorted by name.

  Returns:
    The end of a sentence, such as `is uint8[4], not uint8[8]`; empty if the observation fits and is
    finite.
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
