"""The folder of a run: its lock, and JSON files that are whole or not there."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from wm_tf.training import checkpoints


class WorkdirError(RuntimeError):
  """A workdir that belongs to another run, or lacks what a stage needs."""


def write_json(path: Path, value: Any) -> None:
  with checkpoints.atomic_open(path) as file:
    file.write(json.dumps(value, indent=1).encode() + b"\n")


def read_json(path: Path) -> Any:
  """Reads what `write_json` wrote.

  Raises:
    WorkdirError: if it is damaged.
  """
  try:
    return json.loads(path.read_text())
  except ValueError as error:
    raise WorkdirError(f"{path} is damaged ({error}). Remove it; it is made anew.") from error


def say(text: str) -> None:
  """Prints a line beside the progress bars."""
  print(text, file=sys.stderr, flush=True)


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
