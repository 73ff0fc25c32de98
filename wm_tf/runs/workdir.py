"""The lock and the JSON files of a run's folder."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from wm_tf import files
from wm_tf.files import atomic_open, read_json, write_json

__all__ = ["WorkdirError", "locked", "read_json", "say", "write_findings", "write_json"]


class WorkdirError(RuntimeError):
  """A workdir belongs to another run, or lacks a file that a stage needs."""


def say(text: str) -> None:
  """Prints a line to stderr, like the progress bars.

  Args:
    text: the line.
  """
  sys.stderr.write(f"{text}\n")
  sys.stderr.flush()


def write_findings(path: Path, values: Mapping[str, Any], **texts: str) -> None:
  """Writes results as JSON, and texts that present them in files of the same name.

  Args:
    path: path of the files, without a suffix.
    values: content of the `.json` file.
    **texts: suffix, such as `md`, to the content of that file.
  """
  write_json(path.with_name(f"{path.name}.json"), values)
  for kind, text in texts.items():
    with atomic_open(path.with_name(f"{path.name}.{kind}")) as file:
      file.write(text.encode())


@contextlib.contextmanager
def locked(workdir: Path) -> Iterator[None]:
  """Holds the lock of a workdir while the block runs, so that no other process changes it.

  Args:
    workdir: an existing folder.

  Raises:
    WorkdirError: if another process holds the lock; the message has its process id.
  """
  with contextlib.ExitStack() as lock:
    try:
      lock.enter_context(files.locked(workdir, ".lock"))
    except files.FolderInUseError as error:
      raise WorkdirError(str(error)) from None
    yield
