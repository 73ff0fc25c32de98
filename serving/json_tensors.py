"""Converts tensors from and to the JSON of the REST API, with the official server's rules.

A request holds rows (`instances`, answered by `predictions`) or columns (`inputs`, answered by
`outputs`). Every tensor must be dense and have the dtype that the signature declares: a bool is not
accepted as a number, nor 1.0 as an integer.
"""

from __future__ import annotations

import base64
import binascii
import itertools
import json
from collections.abc import Mapping
from typing import Any

import grpc
import numpy as np

from serving import tensors
from serving.errors import ServingError, invalid
from serving.json_text import debug, quote, type_name

_FLOAT, _DOUBLE, _STRING, _BOOL = 1, 2, 7, 10
# dtype -> the accepted range of JSON integers. NumPy then rejects values too large for the dtype.
_INT32 = (-(2**31), 2**31 - 1)
_INTEGERS = {
  3: _INT32,
  4: _INT32,
  5: _INT32,
  6: _INT32,
  9: (-(2**63), 2**63 - 1),
  22: (0, 2**32 - 1),
  23: (0, 2**64 - 1),
}


def signature_name(document: Mapping[str, Any]) -> str:
  """Returns the signature that a request names; empty for the default signature.

  Args:
    document: the request.

  Raises:
    ServingError: INVALID_ARGUMENT if the name is not a string.
  """
  name = document.get("signature_name", "")
  if not isinstance(name, str):
    raise invalid(
      f"JSON Value: {debug(document)} not formatted correctly. 'signature_name' key must be a"
      " string value."
    )
  return name


def inputs(document: Mapping[str, Any], dtypes: Mapping[str, int]) -> tuple[dict, bool]:
  """Converts the inputs of a request to arrays.

  Args:
    document: the request.
    dtypes: the `DataType` enum values of the signature's inputs, by name.

  Returns:
    The arrays by name, and whether the request holds rows.

  Raises:
    ServingError: INVALID_ARGUMENT; the message names the invalid element.
  """
  if "instances" in document:
    if "inputs" in document:
      raise invalid(
        f"JSON Value: {debug(document)} Not formatted correctly expecting only one of 'inputs' or"
        " 'instances' keys to exist "
      )
    rows = document["instances"]
    if not isinstance(rows, list):
      raise invalid(f"JSON Value: {debug(document)} Expecting 'instances' to be an list/array")
    if not rows:
      raise invalid(f"JSON Value: {debug(document)} No values in 'instances' array")
    return _from_rows(rows, dtypes), True
  if "inputs" in document:
    return _from_columns(document["inputs"], dtypes), False
  raise invalid("Missing 'inputs' or 'instances' key")


def outputs(arrays: Mapping[str, np.ndarray], by_rows: bool) -> str:
  """Returns the JSON of a reply.

  Args:
    arrays: the outputs by name; `[B, ...]` each if `by_rows`.
    by_rows: whether to write rows (`predictions`) instead of columns (`outputs`).

  Raises:
    ServingError: INVALID_ARGUMENT if there are no outputs, a dtype has no JSON form, or outputs
      differ in B.
  """
  if not arrays:
    raise invalid("Cannot convert empty tensor map to JSON")
  single = len(arrays) == 1
  if not by_rows:
    texts = {name: "".join(_nested(name, array, 0)) for name, array in arrays.items()}
    value = next(iter(texts.values())) if single else _object(texts, "\n        ")
    return f'{{\n    "outputs": {value}\n}}'
  size = -1
  for name, array in arrays.items():
    if not array.ndim:
      raise invalid(f"Tensor name: {name} has no shape information ")
    if size >= 0 and len(array) != size:
      raise invalid(
        f"Tensor name: {name} has inconsistent batch size: {len(array)} expecting: {size}"
      )
    size = len(array)
  columns = {name: _nested(name, array, 1) for name, array in arrays.items()}
  if single:
    rows = next(iter(columns.values()))
  else:
    rows = [
      _object({name: column[i] for name, column in columns.items()}, "\n            ")
      for i in range(size)
    ]
  return '{\n    "predictions": [' + ", ".join(rows) + "\n    ]\n}"


def _from_rows(rows: list, dtypes: Mapping[str, int]) -> dict[str, np.ndarray]:
  by_name = _is_object(rows[0])
  if len(dtypes) > 1 and not isinstance(rows[0], dict):
    raise invalid(
      "instances is a plain list, but expecting list of objects as multiple input tensors required"
      " as per tensorinfo_map"
    )
  shapes: dict[str, tuple] = {}
  leaves: dict[str, list] = {}

  def add(name, value):
    if name not in dtypes:
      raise invalid(f"JSON object: does not have named input: {name}")
    found, shape = _leaves(value, dtypes[name])
    if name not in shapes:
      shapes[name], leaves[name] = shape, []
    elif (want := int(np.prod(shapes[name]))) != len(found):
      raise invalid(f"Expecting tensor size: {want} but got: {len(found)}")
    elif shapes[name] != shape:
      want, got = (",".join(map(str, s)) for s in (shapes[name], shape))
      raise invalid(f"Expecting shape [{want}] but got: [{got}]")
    leaves[name] += found

  for i, row in enumerate(rows):
    if by_name != _is_object(row):
      kinds = "object but got list" if by_name else "value/list but got object"
      raise invalid(f"Expecting {kinds} at item {i} of input list")
    items = row.items() if by_name else [(next(iter(dtypes)), row)]
    for name, value in items:
      try:
        add(name, value)
      except ServingError as error:
        key = f" key: {name}" if by_name else ""
        raise invalid(
          f"Failed to process element: {i}{key} of 'instances' list. Error: {error}"
        ) from error
    if by_name and set(row) != set(dtypes):
      raise invalid(
        f"Failed to process element: {i} of 'instances' list. JSON object: {debug(row)} keys must"
        f" be equal to: {','.join(sorted(dtypes))}"
      )
  return {
    name: _array(found, (len(rows), *shapes[name]), dtypes[name], name)
    for name, found in leaves.items()
  }


def _from_columns(value: Any, dtypes: Mapping[str, int]) -> dict[str, np.ndarray]:
  if not _is_object(value):
    if len(dtypes) > 1:
      raise invalid(
        "inputs is a plain value/list, but expecting an object as multiple input tensors required"
        " as per tensorinfo_map"
      )
    value = {next(iter(dtypes)): value}
  arrays = {}
  for name, dtype in dtypes.items():
    if name not in value:
      raise invalid(f"Missing named input: {name} in 'inputs' object.")
    arrays[name] = _array(*_leaves(value[name], dtype), dtype, name)
  return arrays


def _leaves(value: Any, dtype: int) -> tuple[list, tuple[int, ...]]:
  """Returns the values of nested lists in order, and the shape, given by the first elements."""
  shape, first = [], value
  while isinstance(first, list):
    shape.append(len(first))
    if not first:
      break
    first = first[0]
  level = [value]
  for size in shape:
    if not all(type(x) is list and len(x) == size for x in level):
      break
    level = list(itertools.chain.from_iterable(level))
  else:
    if _all_of(level, dtype):
      return level, tuple(shape)
  # There is an error or a base64 object: convert the values one by one, for a precise message.
  found = []
  _walk(value, 0, shape, dtype, found)
  return found, tuple(shape)


def _all_of(leaves: list, dtype: int) -> bool:
  """Returns whether all values have JSON types that the dtype accepts."""
  types = set(map(type, leaves))
  if dtype in (_FLOAT, _DOUBLE):
    return types <= {int, float}
  if dtype in _INTEGERS:
    low, high = _INTEGERS[dtype]
    return types <= {int} and (not leaves or (min(leaves) >= low and max(leaves) <= high))
  return types <= ({bool} if dtype == _BOOL else {str} if dtype == _STRING else set())


def _walk(value: Any, level: int, shape: list[int], dtype: int, found: list) -> None:
  if not isinstance(value, list):
    if level != len(shape):
      raise invalid(
        f"JSON Value: {debug(value)} found at incorrect level: {level + 1} in the JSON DOM."
        f" Expected at level: {len(shape)}"
      )
    found.append(_leaf(value, dtype))
    return
  if level >= len(shape):
    raise invalid(f"Encountered list at unexpected level: {level} expected < {len(shape)}")
  if len(value) != shape[level]:
    raise invalid(
      f"Encountered list at unexpected size: {len(value)} at level: {level} expected size:"
      f" {shape[level]}"
    )
  for element in value:
    _walk(element, level + 1, shape, dtype, found)


def _leaf(value: Any, dtype: int) -> Any:
  if isinstance(value, dict) and dtype == _STRING:
    if _is_object(value):
      raise invalid(f"JSON Value: {debug(value)} not formatted correctly for base64 data")
    return decode_base64(value["b64"])
  if dtype not in _INTEGERS and dtype not in (_FLOAT, _DOUBLE, _STRING, _BOOL):
    raise ServingError(
      grpc.StatusCode.UNIMPLEMENTED,
      f"Conversion of JSON Value: {debug(value)} to type: {tensors.dtype_name(dtype)}",
    )
  if not _all_of([value], dtype):
    raise invalid(
      f"JSON Value: {debug(value)} Type: {type_name(value)} is not of expected type:"
      f" {tensors.dtype_name(dtype)}"
    )
  return value


def _array(leaves: list, shape: tuple[int, ...], dtype: int, name: str) -> np.ndarray:
  try:
    if dtype == _STRING:
      array = np.empty(len(leaves), object)
      array[:] = [x.encode(errors="replace") if isinstance(x, str) else x for x in leaves]
    else:
      with np.errstate(over="ignore"):  # A double beyond a float becomes infinite, as in C++.
        array = np.array(leaves, tensors.numpy_dtype(dtype))
  except (OverflowError, ValueError) as error:  # Such as 256 for a uint8.
    raise invalid(f"tensor parsing error: {name}") from error
  return array.reshape(shape)


def _is_object(value: Any) -> bool:
  """Returns whether a value maps names to tensors; `{"b64": "..."}` is a string instead."""
  return isinstance(value, dict) and not (len(value) == 1 and isinstance(value.get("b64"), str))


def _nested(name: str, array: np.ndarray, axis: int) -> list[str]:
  """Returns the JSON of each subarray along the axes before `axis`, in row-major order."""
  kind = array.dtype.kind
  flat = array.reshape(-1)
  if array.dtype in (np.float32, np.float64):
    # The shortest text that parses to the same number; it always has a point or an exponent.
    texts = flat.astype("U").tolist()
    if not np.isfinite(flat).all():
      special = {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}
      texts = [special.get(text, text) for text in texts]
  elif kind in "iu" and array.dtype != np.uint16:
    texts = list(map(str, flat.tolist()))
  elif kind == "b":
    texts = ["true" if value else "false" for value in flat.tolist()]
  elif kind == "O":
    texts = [_string(value, name.endswith("_bytes")) for value in flat.tolist()]
  else:
    name = tensors.dtype_name(tensors.dtype_number(array.dtype))
    raise invalid(f"Failed to write JSON value for tensor type: {name}")
  for i in range(array.ndim - 1, axis - 1, -1):
    size, count = array.shape[i], int(np.prod(array.shape[:i]))
    texts = ["[" + ", ".join(texts[j * size : (j + 1) * size]) + "]" for j in range(count)]
  return texts


def decode_base64(text: str) -> bytes:
  """Decodes base64, with or without padding.

  Args:
    text: the encoded text.

  Returns:
    The decoded bytes.

  Raises:
    ServingError: INVALID_ARGUMENT if the text is not base64.
  """
  try:
    return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
  except (binascii.Error, ValueError) as error:
    raise invalid("Unable to base64 decode") from error


def number(value: float) -> str:
  """Returns the JSON of a number, rounded to float32.

  Args:
    value: the number; it may be infinite or NaN.
  """
  (text,) = _nested("", np.array([value], np.float32), 1)
  return text


def _string(value: bytes, as_base64: bool) -> str:
  if as_base64:
    return json.dumps({"b64": base64.b64encode(value).decode()})
  return quote(value.decode(errors="replace"))


def _object(texts: Mapping[str, str], indent: str) -> str:
  lines = [f"{json.dumps(name)}: {text}" for name, text in texts.items()]
  return "{" + indent + f",{indent}".join(lines) + indent[:-4] + "}"
