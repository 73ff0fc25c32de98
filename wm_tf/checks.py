"""Checks of the fields of configuration dataclasses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


class ConfigError(ValueError):
  """A preset, a field or a value that is unknown or invalid."""


def check_at_least(lowest: float, config: Any, *names: str) -> None:
  """Checks that fields are None or at least `lowest`; NaN fails.

  Args:
    lowest: the bound.
    config: the dataclass.
    *names: names of the fields.

  Raises:
    ValueError: if a field is below the bound.
  """
  for name in names:
    value = getattr(config, name)
    if value is not None and not value >= lowest:
      raise ValueError(f"{name} must be at least {lowest}, not {value}.")


def check_counts(config: Any, *names: str, group: str = "") -> None:
  """Checks that fields are at least 1.

  Args:
    config: the dataclass.
    *names: names of the fields.
    group: prefix of the field's name in the message.

  Raises:
    ValueError: if a field is below 1.
  """
  for name in names:
    if getattr(config, name) < 1:
      raise ValueError(f"{group}{name} must be positive, got {getattr(config, name)}.")


def check_positive(config: Any, *names: str) -> None:
  """Checks that fields are above 0; NaN fails.

  Args:
    config: the dataclass.
    *names: names of the fields.

  Raises:
    ValueError: if a field is not above 0.
  """
  for name in names:
    if not getattr(config, name) > 0:
      raise ValueError(f"{name} must be positive, got {getattr(config, name)}.")


def check_shares(config: Any, *names: str) -> None:
  """Checks that fields are None or in [0, 1]; NaN fails.

  Args:
    config: the dataclass.
    *names: names of the fields.

  Raises:
    ValueError: if a field is outside.
  """
  for name in names:
    value = getattr(config, name)
    if value is not None and not 0.0 <= value <= 1.0:
      raise ValueError(f"{name} must be between 0 and 1, got {value}.")


def check_choice(config: Any, name: str, known: Sequence[str], group: str = "") -> None:
  """Checks that a field has one of the known values.

  Args:
    config: the dataclass.
    name: name of the field.
    known: the known values.
    group: prefix of the field's name in the message.

  Raises:
    ValueError: if the field has another value.
  """
  if getattr(config, name) not in known:
    raise ValueError(f"{group}{name} must be one of {known}, got {getattr(config, name)!r}.")
