"""Files that appear whole or not at all, and that show when they are not as they were written.

A disk, a copy over a network or an editor can change any byte. Binary files carry checksums of
their own (the records of a TFRecord, the entries of an `.npz`); JSON files get one here, and a
folder that is finished gets a `SHA256SUMS`, as `sha256sum -c` reads it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

SUMS = "SHA256SUMS"
_SEAL = "sha256"
_DIGEST = re.compile("[0-9a-f]{64}")


class DamagedFileError(RuntimeError):
  """A file is missing, or not as it was written.

  Attributes:
    path: of the file.
  """

  def __init__(self, path: str | os.PathLike, reason: str, remedy: str):
    self.path, self.reason, self.remedy = Path(path), reason, remedy
    super().__init__(f"{path} is damaged ({reason}). {remedy}")


@contextlib.contextmanager
def atomic_open(path: str | os.PathLike, mode: str = "wb") -> Iterator[IO]:
  """Opens `path` for writing; it appears, or is replaced, only when the block ends without error.

  The bytes are on disk before the name points at them, so a crash leaves the old file or the new.

  Raises:
    OSError: if it cannot be written; it names `path`, also when the disk is full.
  """
  path = Path(path)
  temporary = path.with_name(f".{path.name}.tmp")
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
      with open(temporary, mode) as file:
        yield file
        file.flush()
        os.fsync(file.fileno())
      os.replace(temporary, path)
    finally:
      with contextlib.suppress(OSError):  # The error that led here says more.
        temporary.unlink(missing_ok=True)
    sync(path.parent)
  except OSError as error:
    if error.filename is None:  # A write that fails does not know its file.
      error.filename = str(path)
    raise


def sync(path: str | os.PathLike) -> None:
  """Returns when a file, or a folder's list of files, is on disk."""
  descriptor = os.open(path, os.O_RDONLY)
  try:
    os.fsync(descriptor)
  finally:
    os.close(descriptor)


def checksum(path: str | os.PathLike) -> str:
  """SHA-256 of a file's bytes, in hexadecimal."""
  digest = hashlib.sha256()
  with open(path, "rb") as file:
    while block := file.read(1 << 20):
      digest.update(block)
  return digest.hexdigest()


def write_json(path: str | os.PathLike, values: Mapping[str, Any]) -> None:
  """Writes a JSON object with a checksum of itself, atomically."""
  values = json.loads(json.dumps(values))
  with atomic_open(path) as file:
    file.write(json.dumps({**values, _SEAL: _seal(values)}, indent=1).encode() + b"\n")


def read_json(path: str | os.PathLike) -> dict[str, Any]:
  """Reads what `write_json` wrote, or any other JSON object.

  Raises:
    FileNotFoundError: if there is no such file.
    DamagedFileError: if it is not a JSON object, or not the one that was written.
  """
  content = Path(path).read_bytes()
  try:
    values = json.loads(content)
    if not isinstance(values, dict):
      raise ValueError("not a JSON object")
  except (ValueError, RecursionError) as error:
    raise DamagedFileError(path, str(error), "Remove it; it is made anew.") from error
  # A seal whose own name has changed is still to be seen as one.
  sealed = any(isinstance(v, str) and _DIGEST.fullmatch(v) for v in values.values())
  if (_SEAL in values or sealed) and values.pop(_SEAL, None) != _seal(values):
    raise DamagedFileError(
      path,
      f"its values do not have the checksum under {_SEAL!r}",
      f"Remove it; it is made anew. If you changed it on purpose, remove the {_SEAL!r} instead.",
    )
  return values


def _seal(values: Mapping[str, Any]) -> str:
  return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def write_sums(folder: str | os.PathLike, names: Iterable[str]) -> None:
  """Writes the checksums of a finished folder's files, named relative to it, to `SHA256SUMS`."""
  folder = Path(folder)
  lines = [f"{checksum(folder / name)}  {name}\n" for name in sorted(names)]
  lines.append(f"# {len(lines)} files\n")  # To `sha256sum` a comment; cut off, it is missed.
  with atomic_open(folder / SUMS) as file:
    file.write("".join(lines).encode())


def check_sums(folder: str | os.PathLike) -> list[DamagedFileError]:
  """Compares a folder's files with its `SHA256SUMS`; returns what is wrong.

  Raises:
    FileNotFoundError: if it has none.
  """
  folder = Path(folder)
  problems = []
  *lines, last = (folder / SUMS).read_bytes().decode(errors="replace").splitlines() or [""]
  if last != f"# {len(lines)} files":
    problems.append(DamagedFileError(folder / SUMS, "its last line is not how many files", _REMEDY))
  for line in lines:
    match = re.fullmatch(r"([0-9a-f]{64})  (\S.*)", line)
    if not match:
      problems.append(DamagedFileError(folder / SUMS, f"it holds {line[:80]!r}", _REMEDY))
      continue
    path = folder / match[2]
    if not path.is_file():
      problems.append(DamagedFileError(path, f"missing, but listed in {SUMS}", _REMEDY))
    elif checksum(path) != match[1]:
      problems.append(DamagedFileError(path, f"not the one listed in {SUMS}", _REMEDY))
  return problems


_REMEDY = f"Remove {SUMS} and what it lists: the command that made them makes them anew."
