"""The folder of a run: its lock, and its JSON files."""

from __future__ import annotations

import contextlib
import fcntl
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from wm_tf.files import atomic_open, read_json, write_json

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
  """Holds a workdir, which two processes would wreck.

  Raises:
    WorkdirError: if another process holds it; with its pid.
  """
  descriptor = os.open(workdir / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
  try:
    try:
      fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      owner = os.read(descriptor, 32).decode().strip() or "?"
      raise WorkdirError(
        f"{workdir} is in use by process {owner}. Wait for it, or use another --workdir."
      ) from None
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
    yield
  finally:
    os.close(descriptor)
