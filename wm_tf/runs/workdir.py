"""The folder of a run: its lock, and its JSON files."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from wm_tf.files import FolderInUseError, atomic_open, read_json, take_lock, write_json

__all__ = ["WorkdirError", "locked", "read_json", "say", "write_findings", "write_json"]


class WorkdirError(RuntimeError):
  """A workdir that belongs to another run, or lacks what a stage needs."""


def say(text: str) -> None:
  """Prints a line beside the progress bars."""
  sys.stderr.write(f"{text}\n")
  sys.stderr.flush()


def write_findings(path: Path, values: Mapping[str, Any], **texts: str) -> None:
  """Writes `path`.json, and beside it, under its own ending, each text that shows what is in it."""
  write_json(path.with_name(f"{path.name}.json"), values)
  for kind, text in texts.items():
    with atomic_open(path.with_name(f"{path.name}.{kind}")) as file:
      file.write(text.encode())


@contextlib.contextmanager
def locked(workdir: Path) -> Iterator[None]:
  """Holds a workdir while the block runs, so that two processes do not write to it.

  Raises:
    WorkdirError: if another process holds it; with its pid.
  """
  try:
    descriptor = take_lock(workdir, ".lock")
  except FolderInUseError as error:
    raise WorkdirError(str(error)) from None
  try:
    yield
  finally:
    os.close(descriptor)
