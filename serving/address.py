"""Addresses of served models: `grpc://host:port/model[/versions/N|/labels/L]`, or `grpcs://`."""

from __future__ import annotations

import urllib.parse
from typing import NamedTuple

_SCHEMES = ("grpc", "grpcs")
_FORM = "grpc://host:port/model[/versions/N|/labels/L], or grpcs:// for TLS"


class Address(NamedTuple):
  """The address of a served model.

  Attributes:
    target: `host:port`.
    model: the name under which the model is served.
    version: a version number; None asks for the newest version.
    label: a version label; None if the address has no label.
    secure: whether the connection uses TLS.
  """

  target: str
  model: str
  version: int | None = None
  label: str | None = None
  secure: bool = False


def is_address(text: str) -> bool:
  """Returns whether a text starts like the address of a served model.

  Only the scheme is checked; `parse_address` checks the rest.

  Args:
    text: any text, such as an address or a path.
  """
  return text.startswith(tuple(f"{scheme}://" for scheme in _SCHEMES))


def parse_address(text: str) -> Address:
  """Parses the address of a served model.

  Args:
    text: `grpc://host:port/model[/versions/N|/labels/L]`, or `grpcs://` for TLS.

  Returns:
    The parts of the address.

  Raises:
    ValueError: if the text has another form.
  """
  url = urllib.parse.urlsplit(text)
  path = [urllib.parse.unquote(piece) for piece in url.path.strip("/").split("/")]
  version = label = None
  match path:
    case [model]:
      pass
    case [model, "versions", number] if number.isascii() and number.isdigit():
      version = int(number)
    case [model, "labels", label] if label:
      pass
    case _:
      model = ""
  plain = not url.query and not url.fragment
  if url.scheme not in _SCHEMES or not url.netloc or not model or not plain:
    raise ValueError(f"{text!r} is not of the form {_FORM}")
  return Address(url.netloc, model, version, label, url.scheme == "grpcs")
