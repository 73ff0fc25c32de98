"""Errors that end a trainer with one line instead of a traceback."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from collections.abc import Iterator, Sequence

import tensorflow as tf

from wm_tf import config as config_lib
from wm_tf.data.env_pool import WorkerError
from wm_tf.data.manifest import CorruptManifestError
from wm_tf.data.rollouts import CorruptShardError
from wm_tf.evaluation import QualityGateError
from wm_tf.files import DamagedFileError, FolderInUseError
from wm_tf.registry import nearest
from wm_tf.runs.workdir import WorkdirError
from wm_tf.training import checkpoints, loop


class FlagError(ValueError):
  """A value of a flag that cannot be used."""


# Errors whose message has the cause and the remedy.
EXPECTED_ERRORS = (
  FlagError,
  WorkdirError,
  config_lib.ConfigError,
  QualityGateError,
  CorruptManifestError,
  CorruptShardError,
  DamagedFileError,
  FolderInUseError,
  WorkerError,
  loop.NonFiniteLossError,
  loop.RunMismatchError,
  checkpoints.CheckpointMismatchError,
  checkpoints.CorruptCheckpointError,
)


_STORAGE = {
  errno.ENOSPC: "Make room on that disk.",
  errno.EDQUOT: "Make room within that quota.",
  errno.EROFS: "Make it writable, or use another --workdir.",
  errno.EACCES: "Make it accessible, or use another --workdir.",
  errno.EPERM: "Make it accessible, or use another --workdir.",
  errno.EIO: "See to that disk; trainers.check says which files can be read.",
}


def chosen(flag: str, asked: Sequence[str], known: Sequence[str], noun: str) -> list[str]:
  """Selects the items that a flag names.

  Args:
    flag: the flag's name.
    asked: the flag's value; empty for all items.
    known: the items that exist.
    noun: what an item is, for the message.

  Returns:
    The items asked for, in the order of `known`.

  Raises:
    FlagError: for an unknown name; the message has the nearest known names.
  """
  for name in asked:
    if name not in known:
      raise FlagError(f"--{flag}={name}: there is no such {noun}; {nearest(name, known)}")
  return [name for name in known if name in (asked or known)]


def storage_error(error: Exception) -> str | None:
  """Returns a message for errors of a full, read-only or broken disk; None for other errors.

  Args:
    error: an `OSError`, or an error of TensorFlow.
  """
  if isinstance(error, OSError):
    remedy = _STORAGE.get(error.errno)
  else:  # TensorFlow's errors have the text of the error number.
    remedy = next(
      (what for code, what in _STORAGE.items() if os.strerror(code) in error.message), None
    )
  return f"{error}. {remedy}" if remedy else None


@contextlib.contextmanager
def one_line_errors() -> Iterator[None]:
  """Ends the process with one line, instead of a traceback, for an expected error in the block."""
  try:
    yield
  except EXPECTED_ERRORS as error:
    print(f"\nerror: {error}", file=sys.stderr)
    sys.exit(1)
  except (OSError, tf.errors.OpError) as error:
    if not (reason := storage_error(error)):
      raise
    print(f"\nerror: {reason} The same command goes on from here then.", file=sys.stderr)
    sys.exit(1)
  except KeyboardInterrupt:
    print("\nInterrupted. The same command goes on from here.", file=sys.stderr)
    sys.exit(130)
