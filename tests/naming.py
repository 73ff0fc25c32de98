"""Errors that must name the file they are about."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest


@contextlib.contextmanager
def raises_naming(path: Path, error: type[Exception], match: str) -> Iterator[None]:
  """As `pytest.raises`, and the message names `path`."""
  with pytest.raises(error, match=match) as caught:
    yield
  assert str(path) in str(caught.value)
