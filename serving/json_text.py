"""Parses JSON like the official server, and formats JSON for its error messages."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from serving.errors import invalid

_DEBUG_BYTES = 256
_SPACE = re.compile(r"[ \t\n\r]*")
_DECODER = json.JSONDecoder()
# The messages of Python's parser -> those of the official server's parser.
_COMPLAINTS = {
  "Expecting value": "Invalid value.",
  "Expecting property name enclosed in double quotes": "Missing a name for object member.",
  "Illegal trailing comma before end of object": "Missing a name for object member.",
  "Illegal trailing comma before end of array": "Invalid value.",
  "Expecting ':' delimiter": "Missing a colon after a name of object member.",
  "Unterminated string starting at": "Missing a closing quotation mark in string.",
  "Invalid \\escape": "Invalid escape character in string.",
  "Invalid \\uXXXX escape": "Incorrect hex digit after \\u escape in string.",
  "Invalid control character at": "Invalid encoding in string.",
}


def parse(body: bytes) -> dict[str, Any]:
  """Parses a request's JSON object. Text after the object is ignored.

  Args:
    body: the request's body, UTF-8.

  Returns:
    The object.

  Raises:
    ServingError: INVALID_ARGUMENT; the message gives the offset of the error.
  """
  if not body:
    raise invalid("JSON Parse error: The document is empty")
  text = body.decode("utf-8", errors="replace")
  start = _SPACE.match(text).end()
  if start == len(text):
    raise invalid(f"JSON Parse error: The document is empty. at offset: {start}")
  try:
    document, _ = _DECODER.raw_decode(text, start)
  except json.JSONDecodeError as error:
    complaint = _COMPLAINTS.get(error.msg)
    if complaint is None:  # Expecting ',' delimiter
      in_object = _in_object(text[: error.pos])
      end = "} after an object member." if in_object else "] after an array element."
      complaint = f"Missing a comma or {end}"
    raise invalid(f"JSON Parse error: {complaint} at offset: {error.pos}") from error
  except RecursionError as error:
    raise invalid("JSON Parse error: nested too deeply") from error
  except ValueError as error:  # An integer of thousands of digits.
    raise invalid(f"JSON Parse error: Number too big to be stored in double. ({error})") from error
  if not isinstance(document, dict):
    raise invalid(f"JSON Value: {debug(document)} Is not object")
  return document


def debug(value: Any) -> str:
  """Returns the start of a JSON value (about 256 characters), as error messages show it.

  Args:
    value: the parsed value.
  """
  text, size = [], 0
  for piece in _pieces(value, ""):
    text.append(piece)
    size += len(piece)
    if size >= _DEBUG_BYTES:
      break
  return "".join(text)


def quote(text: str) -> str:
  """Returns a JSON string with its quotes.

  Args:
    text: the string's content.
  """
  return json.dumps(text, ensure_ascii=False)


def type_name(value: Any) -> str:
  """Returns the official server's name for the JSON type of a value, such as `Number`.

  Args:
    value: the parsed value. For a bool the result is `True` or `False`.
  """
  names = {type(None): "Null", dict: "Object", list: "Array", str: "String"}
  return str(value) if isinstance(value, bool) else names.get(type(value), "Number")


def _pieces(value: Any, indent: str) -> Iterator[str]:
  """Yields a value's JSON in pieces, so that the caller can stop after the first ones."""
  if isinstance(value, dict) and value:
    inner = indent + "    "
    for i, (key, element) in enumerate(value.items()):
      yield f"{',' if i else '{'}\n{inner}{quote(key[:_DEBUG_BYTES])}: "
      yield from _pieces(element, inner)
    yield f"\n{indent}}}"
  elif isinstance(value, list) and value:
    for i, element in enumerate(value):
      yield ", " if i else "["
      yield from _pieces(element, indent)
    yield "]"
  elif isinstance(value, str):
    yield quote(value[:_DEBUG_BYTES])
  else:
    yield json.dumps(value)


def _in_object(text: str) -> bool:
  """Returns whether the innermost bracket that is open at the end of a text is a curly one."""
  opened = []
  for token in re.findall(r'"(?:[^"\\]|\\.)*"|[][{}]', text, re.DOTALL):
    if token in "[{":
      opened.append(token)
    elif token in "]}" and opened:
      opened.pop()
  return bool(opened) and opened[-1] == "{"
