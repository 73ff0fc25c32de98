"""What the dataclasses of configurations refuse, and in which words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


class ConfigError(ValueError):
  """A preset, a field or a value that does not exist."""


def check_at_least(lowest: float, config: Any, *names: str) -> None:
  """Raises `ValueError` for a field below `lowest`, or NaN; None passes."""
  for name in names:
    value = getattr(config, name)
    if value is not None and not value >= lowest:
      raise ValueError(f"{name} must be at least {lowest}, not {value}.")


def check_counts(config: Any, *names: str, group: str = "") -> None:
  """Raises `ValueError` for a field below 1; `group` stands before its name."""
  for name in names:
    if getattr(config, name) < 1:
      raise ValueError(f"{group}{name} must be positive, got {getattr(config, name)}.")


def check_positive(config: Any, *names: str) -> None:
  """Raises `ValueError` for a field that is not above 0."""
  for name in names:
    if not getattr(config, name) > 0:
      raise ValueError(f"{name} must be positive, got {getattr(config, name)}.")


def check_shares(config: Any, *names: str) -> None:
  """Raises `ValueError` for a field that does not lie in [0, 1]."""
  for name in names:
    if not 0.0 <= getattr(config, name) <= 1.0:
      raise ValueError(f"{name} must be between 0 and 1, got {getattr(config, name)}.")


def check_choice(config: Any, name: str, known: Sequence[str], group: str = "") -> None:
  """Raises `ValueError` for a field that is none of those known; `group` stands before its name."""
  if getattr(config, name) not in known:
    raise ValueError(f"{group}{name} must be one of {known}, got {getattr(config, name)!r}.")
