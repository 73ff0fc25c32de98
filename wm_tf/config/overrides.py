"""Fields of nested dataclasses by name: overrides, flattening, JSON round trip."""

from __future__ import annotations

import ast
import dataclasses
import difflib
import types
import typing
from collections.abc import Iterable
from typing import Any

from wm_tf.checks import ConfigError


def override(config: Any, overrides: Iterable[str]) -> Any:
  """Returns a copy of a nested dataclass with `"path.to.field=value"` applied in order."""
  for text in overrides:
    path, equals, value = (part.strip() for part in text.partition("="))
    if not equals:
      raise ConfigError(f"An override must look like dynamics.num_mixtures=8, got {text!r}.")
    known = [name for name, _ in flatten(config)]
    if not any(f"{name}.".startswith(f"{path}.") for name in known):
      raise ConfigError(f"Unknown field {path!r}; {nearest(path, known)}")
    config = _replace(config, path.split("."), value, path)
  return config


def _replace(config: Any, parts: list[str], value: str, path: str) -> Any:
  if len(parts) > 1:
    new = _replace(getattr(config, parts[0]), parts[1:], value, path)
  else:
    new = _parse(value, typing.get_type_hints(type(config))[parts[0]], path)
  return _checked(f"{path}={value}", dataclasses.replace, config, **{parts[0]: new})


def _checked(path: str, make, *args, **fields) -> Any:
  """Calls `make`; what a dataclass refuses becomes a `ConfigError` that names its origin."""
  try:
    return make(*args, **fields)
  except ConfigError:
    raise
  except ValueError as error:
    raise ConfigError(f"{path}: {error}") from error


def nearest(name: str, known: Iterable[str]) -> str:
  known = list(known)
  # The last part counts most: people remember a field better than where it lives.
  tails = {k.rpartition(".")[2]: k for k in known}
  close = difflib.get_close_matches(name, known, n=3, cutoff=0.5) or [
    tails[t] for t in difflib.get_close_matches(name.rpartition(".")[2], tails, n=3, cutoff=0.6)
  ]
  return f"did you mean {' or '.join(close)}?" if close else f"known are: {', '.join(known)}."


def _parse(text: str, annotation: Any, path: str) -> Any:
  if dataclasses.is_dataclass(annotation):
    names = ", ".join(field.name for field in dataclasses.fields(annotation))
    raise ConfigError(f"{path} is a group; override one of its fields: {names}.")
  try:
    value = text if annotation is str else ast.literal_eval(text)
  except (ValueError, SyntaxError):
    raise ConfigError(f"{path}={text}: {text!r} is not {_describe(annotation)}.") from None
  return _coerce(value, annotation, f"{path}={text}")


def _coerce(value: Any, annotation: Any, path: str) -> Any:
  """Checks a plain value against a field's type; lists become tuples, ints become floats."""
  origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
  if dataclasses.is_dataclass(annotation) and isinstance(value, dict):
    return from_plain(annotation, value, path)
  if origin in (typing.Union, types.UnionType):
    if value is None and type(None) in arguments:
      return None
    return _coerce(value, next(a for a in arguments if a is not type(None)), path)
  if origin is tuple and isinstance(value, (list, tuple)):
    if arguments[-1] is Ellipsis:
      return tuple(_coerce(v, arguments[0], path) for v in value)
    if len(value) == len(arguments):
      return tuple(_coerce(v, a, path) for v, a in zip(value, arguments, strict=True))
  if annotation is float and type(value) in (int, float):
    return float(value)
  if annotation in (int, str, bool) and type(value) is annotation:
    return value
  raise ConfigError(f"{path}: {value!r} is not {_describe(annotation)}.")


def _describe(annotation: Any) -> str:
  return f"a value of type {getattr(annotation, '__name__', None) or annotation}".replace(
    "typing.", ""
  )


def flatten(config: Any, prefix: str = "") -> list[tuple[str, Any]]:
  """Returns `("dynamics.num_mixtures", 5)` for every field, in order."""
  rows = []
  for field in dataclasses.fields(config):
    value = getattr(config, field.name)
    if dataclasses.is_dataclass(value):
      rows += flatten(value, f"{prefix}{field.name}.")
    else:
      rows.append((prefix + field.name, value))
  return rows


def complete(values: dict[str, Any], defaults: dict[str, Any]) -> dict[str, Any]:
  both = {
    key: complete(value, defaults[key])
    if isinstance(value, dict) and isinstance(defaults.get(key), dict)
    else value
    for key, value in values.items()
  }
  return {**defaults, **both}


def from_plain(cls: type, values: dict[str, Any], path: str) -> Any:
  hints = typing.get_type_hints(cls)
  for name in values:
    if name not in hints:
      raise ConfigError(f"{path}: unknown field {name!r}; {nearest(name, hints)}")
  for name in hints:
    if name not in values:
      raise ConfigError(f"{path}: field {name!r} is missing; it was written by another version.")
  fields = {n: _coerce(v, hints[n], f"{path}.{n}") for n, v in values.items()}
  return _checked(path, cls, **fields)
