"""Access to the fields of nested dataclasses by name: overrides, flattening, plain values."""

from __future__ import annotations

import ast
import dataclasses
import types
import typing
from collections.abc import Iterable
from typing import Any

from wm_tf.checks import ConfigError
from wm_tf.registry import nearest


def override(config: Any, overrides: Iterable[str]) -> Any:
  """Applies overrides to a nested dataclass, in order.

  Args:
    config: a dataclass whose fields may be dataclasses, or mappings with arbitrary keys.
    overrides: strings `"path.to.field=value"`. The last part of a path may be a key of a mapping:
      `"environment_options.action_repeat=4"`.

  Returns:
    A changed copy.

  Raises:
    ConfigError: if a field is unknown (the message has the nearest known ones) or a value has the
      wrong type.
  """
  for text in overrides:
    path, equals, value = (part.strip() for part in text.partition("="))
    if not equals:
      raise ConfigError(f"An override must look like dynamics.num_mixtures=8, got {text!r}.")
    known = [name for name, _ in flatten(config)]
    mappings = [name for name, value in flatten(config) if isinstance(value, dict)]
    is_key = path.rpartition(".")[0] in mappings
    if not is_key and not any(f"{name}.".startswith(f"{path}.") for name in known):
      raise ConfigError(f"Unknown field {path!r}; {nearest(path, known)}")
    config = _replace(config, path.split("."), value, path)
  return config


def _replace(config: Any, parts: list[str], value: str, path: str) -> Any:
  if isinstance(config, dict):
    return {**config, parts[0]: _plain_value(value)}
  if len(parts) > 1:
    new = _replace(getattr(config, parts[0]), parts[1:], value, path)
  else:
    new = _parse(value, typing.get_type_hints(type(config))[parts[0]], path)
  return _checked(f"{path}={value}", dataclasses.replace, config, **{parts[0]: new})


def _checked(path: str, make, *args, **fields) -> Any:
  """Calls `make`; a `ValueError` becomes a `ConfigError` whose message starts with `path`."""
  try:
    return make(*args, **fields)
  except ConfigError:
    raise
  except ValueError as error:
    raise ConfigError(f"{path}: {error}") from error


def _parse(text: str, annotation: Any, path: str) -> Any:
  if dataclasses.is_dataclass(annotation):
    names = ", ".join(field.name for field in dataclasses.fields(annotation))
    raise ConfigError(f"{path} is a group; override one of its fields: {names}.")
  try:
    value = text if annotation is str else ast.literal_eval(text)
  except (ValueError, SyntaxError):
    raise ConfigError(f"{path}={text}: {text!r} is not {_describe(annotation)}.") from None
  return _coerce(value, annotation, f"{path}={text}")


def _plain_value(text: str) -> Any:
  """Returns the value of a text: a Python literal, or the text itself."""
  try:
    return _frozen(ast.literal_eval(text))
  except (ValueError, SyntaxError):
    return text


def _frozen(value: Any) -> Any:
  """Converts lists to tuples, so that a value equals the one read back from JSON."""
  if isinstance(value, (list, tuple)):
    return tuple(map(_frozen, value))
  if isinstance(value, dict):
    return {key: _frozen(item) for key, item in value.items()}
  return value


def _coerce(value: Any, annotation: Any, path: str) -> Any:
  """Checks a plain value against the type of a field; lists become tuples, ints become floats."""
  origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
  if _is_mapping(annotation) and isinstance(value, dict):
    if all(isinstance(key, str) for key in value):
      return _frozen(value)
    raise ConfigError(f"{path}: the keys of {value!r} must be text.")
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


def _is_mapping(annotation: Any) -> bool:
  return isinstance(annotation, type) and issubclass(annotation, dict)


def _describe(annotation: Any) -> str:
  return f"a value of type {getattr(annotation, '__name__', None) or annotation}".replace(
    "typing.", ""
  )


def flatten(config: Any, prefix: str = "") -> list[tuple[str, Any]]:
  """Lists the fields of a nested dataclass, in order.

  Args:
    config: the dataclass.
    prefix: text to put before each path.

  Returns:
    `(path, value)` of each field, such as `("dynamics.num_mixtures", 5)`.
  """
  rows = []
  for field in dataclasses.fields(config):
    value = getattr(config, field.name)
    if dataclasses.is_dataclass(value):
      rows += flatten(value, f"{prefix}{field.name}.")
    else:
      rows.append((prefix + field.name, value))
  return rows


def complete(values: dict[str, Any], defaults: dict[str, Any]) -> dict[str, Any]:
  """Adds default values for missing keys, in nested dicts too.

  Args:
    values: nested dict that takes precedence.
    defaults: nested dict of defaults.

  Returns:
    A new nested dict.
  """
  both = {
    key: complete(value, defaults[key])
    if isinstance(value, dict) and isinstance(defaults.get(key), dict)
    else value
    for key, value in values.items()
  }
  return {**defaults, **both}


def from_plain(cls: type, values: dict[str, Any], path: str) -> Any:
  """Makes a dataclass of plain values.

  Args:
    cls: the dataclass; its fields may be dataclasses.
    values: value of each field by name; nested dicts for nested dataclasses.
    path: path of the dataclass, for messages.

  Returns:
    An instance of `cls`.

  Raises:
    ConfigError: if a field is unknown or missing, or a value is invalid.
  """
  hints = typing.get_type_hints(cls)
  for name in values:
    if name not in hints:
      raise ConfigError(f"{path}: unknown field {name!r}; {nearest(name, hints)}")
  for name in hints:
    if name not in values:
      raise ConfigError(f"{path}: field {name!r} is missing; it was written by another version.")
  fields = {n: _coerce(v, hints[n], f"{path}.{n}") for n, v in values.items()}
  return _checked(path, cls, **fields)
