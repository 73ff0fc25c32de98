"""Converts between TensorProto and NumPy without TensorFlow, for the server and the client.

`decode` follows the model server's `Tensor::FromProto`, because clients in other languages rely on
it: a single `int_val` fills the whole shape, and no value means zeros. It also limits sizes.
"""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import numpy as np


class _Kind(NamedTuple):
  name: str  # As the runtime prints it in "Expects arg[0] to be uint8 but float is provided".
  numpy: str
  field: str  # The repeated field of TensorProto that holds this type's values.


_KINDS = {
  1: _Kind("float", "float32", "float_val"),
  2: _Kind("double", "float64", "double_val"),
  3: _Kind("int32", "int32", "int_val"),
  4: _Kind("uint8", "uint8", "int_val"),
  5: _Kind("int16", "int16", "int_val"),
  6: _Kind("int8", "int8", "int_val"),
  7: _Kind("string", "object", "string_val"),
  8: _Kind("complex64", "complex64", "scomplex_val"),
  9: _Kind("int64", "int64", "int64_val"),
  10: _Kind("bool", "bool", "bool_val"),
  14: _Kind("bfloat16", "bfloat16", "half_val"),
  17: _Kind("uint16", "uint16", "int_val"),
  18: _Kind("complex128", "complex128", "dcomplex_val"),
  19: _Kind("half", "float16", "half_val"),
  22: _Kind("uint32", "uint32", "uint32_val"),
  23: _Kind("uint64", "uint64", "uint64_val"),
}
_NUMBERS = {kind.numpy: number for number, kind in _KINDS.items()}
_STRING = 7
# Limits on a tensor with fewer values than its shape, or an empty one: per dimension, and in bytes.
_MAX_FILLED = 1 << 16
_MAX_FILLED_BYTES = 1 << 24
_CHUNK = 1 << 16


def dtype_name(number: int) -> str:
  """Returns TensorFlow's name of a DataType enum value, such as `float` for 1.

  Args:
    number: a DataType enum value. An unknown one gives `DataType(number)`.
  """
  return _KINDS[number].name if number in _KINDS else f"DataType({number})"


@functools.cache
def numpy_dtype(number: int) -> np.dtype:
  """Converts a DataType enum value to a NumPy dtype.

  Args:
    number: a DataType enum value.

  Returns:
    The dtype; `object` for strings.

  Raises:
    KeyError: if the value has no NumPy dtype.
  """
  name = _KINDS[number].numpy
  if name == "bfloat16":
    import ml_dtypes  # Installed with TensorFlow, but not needed by other clients.

    return np.dtype(ml_dtypes.bfloat16)
  return np.dtype(name)


@functools.lru_cache(1024)  # NumPy computes a dtype's name at each access.
def dtype_number(dtype: np.dtype) -> int:
  """Converts a NumPy dtype to a DataType enum value.

  Args:
    dtype: a NumPy dtype; objects, bytes and text are strings.

  Returns:
    The enum value; 0 if TensorFlow has no such type.
  """
  return _STRING if dtype.kind in "OSU" else _NUMBERS.get(dtype.name, 0)


def decode(proto, max_bytes: int = 1 << 28) -> np.ndarray:
  """Converts a TensorProto to an array.

  Args:
    proto: a TensorProto, either the official message or `protos.TensorProto`.
    max_bytes: the largest accepted size of the array, in bytes. One value fills any shape, so a
      few bytes in a request could allocate terabytes.

  Returns:
    The array; strings are an object array of bytes. It is read-only if it shares the message's
    `tensor_content`.

  Raises:
    ValueError: if the dtype is missing or unknown, a dimension is unknown or negative, the content
      has the wrong length, values are out of the dtype's range, or the tensor is too large.
  """
  number = proto.dtype
  kind = _KINDS.get(number)
  if kind is None:
    raise ValueError(f"dtype {number} is not supported")
  shape = [dim.size for dim in proto.tensor_shape.dim]
  if shape and min(shape) < 0:  # `unknown_rank` is ignored: a value has a rank.
    raise ValueError(f"shape {shape} is not fully known")
  dtype = numpy_dtype(number)
  count = math.prod(shape)  # Python integers do not overflow as int64 does.
  if count * dtype.itemsize > max_bytes or len(shape) > 64:
    raise ValueError(f"shape {shape} is too large")
  content = proto.tensor_content
  if not count or not content:
    _check_filled(shape, count, dtype, len(getattr(proto, kind.field)))
  if content and count:
    if number == _STRING:
      return _split_strings(content, count).reshape(shape)
    if len(content) != count * dtype.itemsize:
      raise ValueError(f"{len(content)} bytes of content for shape {shape}")
    return np.frombuffer(content, dtype).reshape(shape)
  try:
    values = _values(kind, dtype, getattr(proto, kind.field), count)
  except OverflowError as error:
    raise ValueError(str(error)) from error
  return values.reshape(shape)


def _check_filled(shape: list[int], count: int, dtype: np.dtype, given: int) -> None:
  """Raises ValueError for a large shape with few values, since graphs allocate memory per row.

  A shape such as [2**31, 0] needs no values, but `zeros([rows, 4])` allocates 34 GB for it.
  """
  filled = given < (2 * count if dtype.kind == "c" else count)
  size = math.prod(size or 1 for size in shape) * dtype.itemsize
  if (filled or not count) and (max(shape, default=0) > _MAX_FILLED or size > _MAX_FILLED_BYTES):
    raise ValueError(f"shape {shape} is too large for the values sent")


def _split_strings(content: bytes, count: int) -> np.ndarray:
  """Splits the raw content of a string tensor: all lengths as varints, then all the bytes."""
  sizes, position = [], 0
  for _ in range(count):
    size = shift = 0
    while True:
      if position >= len(content) or shift > 28:
        raise ValueError(f"{len(content)} bytes of content for {count} strings")
      byte = content[position]
      position += 1
      size |= (byte & 127) << shift
      shift += 7
      if byte < 128:
        break
    sizes.append(size)
  if position + sum(sizes) != len(content):
    raise ValueError(f"{len(content)} bytes of content for {count} strings")
  result = np.empty(count, object)
  for i, size in enumerate(sizes):
    result[i] = content[position : position + size]
    position += size
  return result


def _values(kind, dtype, field, count) -> np.ndarray:
  """Returns `count` values of a repeated field. Repeats the last one; no value means zeros."""
  per_value = 2 if dtype.kind == "c" else 1  # Complex numbers are (real, imaginary) pairs.
  given = field[: count * per_value]
  if dtype.hasobject:
    result = np.empty(count, object)
    result[:] = b""
    result[: len(given)] = given
    result[len(given) :] = given[-1] if given else b""
    return result
  if kind.field == "half_val":  # The 16 bits of each value, as an integer.
    values = np.array(given, np.uint16).view(dtype)
  elif per_value == 2:
    part = np.float32 if dtype == np.complex64 else np.float64
    values = np.array(given[: len(given) // 2 * 2], part).view(dtype)
  else:
    values = np.array(given, dtype)
  if len(values) == count:
    return values
  result = np.zeros(count, dtype)
  result[: len(values)] = values
  if len(values):
    result[len(values) :] = values[-1]
  return result


def encode(array: np.ndarray, proto, as_content: bool = False) -> None:
  """Fills an empty TensorProto from an array.

  Args:
    array: an array of any shape with a dtype that TensorFlow supports; text is encoded as UTF-8.
    proto: the message to fill.
    as_content: whether to write raw bytes to `tensor_content`, which is small and fast. Otherwise
      the values go to typed fields such as `float_val`, as in the replies of the official server.
      Strings always use `string_val`.

  Raises:
    ValueError: if TensorFlow does not support the dtype.
  """
  array = np.asarray(array)
  number = dtype_number(array.dtype)
  if not number:
    raise ValueError(f"dtype {array.dtype} cannot be sent in a TensorProto")
  proto.dtype = number
  # A scalar has a shape without dimensions; the field must still be present.
  shape = proto.tensor_shape
  shape.SetInParent()
  for size in array.shape:
    shape.dim.add().size = size
  kind = _KINDS[number]
  field = getattr(proto, kind.field)
  flat = array.reshape(-1)
  if number == _STRING:
    field.extend(x.encode() if isinstance(x, str) else x for x in flat.tolist())
  elif as_content:
    proto.tensor_content = np.ascontiguousarray(array).tobytes()
  elif kind.field == "half_val":
    field.extend(flat.view(np.uint16).tolist())
  elif array.dtype.kind == "c":
    field.extend(flat.view(flat.real.dtype).tolist())
  else:
    # In chunks, because a Python list takes ten times the memory of the array.
    for start in range(0, len(flat), _CHUNK):
      field.extend(flat[start : start + _CHUNK].tolist())
