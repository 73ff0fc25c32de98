"""Files that are written atomically, and whose damage is detected when they are read.

Any byte of a file may be changed by a disk, a network copy or an editor. Binary files have their
own checksums (the records of a TFRecord, the entries of an `.npz`). JSON files get one here, and a
finished folder gets a `SHA256SUMS` that `sha256sum -c` reads.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np

SUMS = "SHA256SUMS"
_SEAL = "sha256"
_DIGEST = re.compile("[0-9a-f]{64}")


class DamagedFileError(RuntimeError):
  """A file is missing, or differs from what was written.

  Attributes:
    path: path of the file.
    reason: what is wrong with the file.
    remedy: what to do about it.
  """

  def __init__(self, path: str | os.PathLike, reason: str, remedy: str):
    self.path, self.reason, self.remedy = Path(path), reason, remedy
    super().__init__(f"{path} is damaged ({reason}). {remedy}")


class FolderInUseError(RuntimeError):
  """Another process is writing to a folder."""


def user_path(path: str | os.PathLike) -> Path:
  """Expands a leading `~` or `~user` of a path that a user gave.

  Args:
    path: the path.

  Returns:
    The expanded path.
  """
  return Path(path).expanduser()


@contextlib.contextmanager
def atomic_open(path: str | os.PathLike, mode: str = "wb") -> Iterator[IO]:
  """Opens `path` for writing; the file appears or is replaced when the block ends without error.

  The bytes are on disk before the name points at them, so a crash leaves the old file or the new.

  Args:
    path: the file to write; missing folders are created.
    mode: of `open`, for writing.

  Yields:
    The open file.

  Raises:
    OSError: if the file cannot be written. The error names `path`, also when the disk is full.
  """
  path = user_path(path)
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
      with contextlib.suppress(OSError):  # The first error has the cause.
        temporary.unlink(missing_ok=True)
    sync(path.parent)
  except OSError as error:
    if error.filename is None and error.errno:  # An error of `write` does not name its file.
      error.filename = str(path)
    raise


def sync(path: str | os.PathLike) -> None:
  """Waits until a file, or a folder's list of files, is on disk.

  Args:
    path: the file or folder.
  """
  descriptor = os.open(path, os.O_RDONLY)
  try:
    os.fsync(descriptor)
  finally:
    os.close(descriptor)


def take_lock(folder: str | os.PathLike, owner_file: str = "") -> int:
  """Takes a folder's lock. The operating system releases it when the process ends, however it ends.

  Args:
    folder: an existing folder.
    owner_file: name of a file in the folder that is locked in place of the folder itself, and that
      holds the process id of the owner; created if needed. Empty to leave the folder's files alone.

  Returns:
    A file descriptor; closing it releases the lock.

  Raises:
    FolderInUseError: if another process holds the lock.
  """
  folder = user_path(folder)
  if owner_file:
    descriptor = os.open(folder / owner_file, os.O_RDWR | os.O_CREAT, 0o644)
  else:
    descriptor = os.open(folder, os.O_RDONLY)
  try:
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    if owner_file:
      os.ftruncate(descriptor, 0)
      os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
  except BlockingIOError:
    owner = os.read(descriptor, 32).decode().strip() if owner_file else ""
    os.close(descriptor)
    raise FolderInUseError(
      f"{folder} is in use by {f'process {owner}' if owner else 'another process'}. Wait for it, "
      "end it, or use another folder."
    ) from None
  except BaseException:
    os.close(descriptor)
    raise
  return descriptor


@contextlib.contextmanager
def locked(folder: str | os.PathLike, owner_file: str = "") -> Iterator[None]:
  """Holds a folder's lock while the block runs.

  Args:
    folder, owner_file: see `take_lock`.

  Raises:
    FolderInUseError: if another process holds the lock.
  """
  descriptor = take_lock(folder, owner_file)
  try:
    yield
  finally:
    os.close(descriptor)


def checksum(path: str | os.PathLike) -> str:
  """Computes the SHA-256 of a file.

  Args:
    path: the file.

  Returns:
    The digest in hexadecimal.
  """
  digest = hashlib.sha256()
  with open(user_path(path), "rb") as file:
    while block := file.read(1 << 20):
      digest.update(block)
  return digest.hexdigest()


def to_json(values: Any) -> Any:
  """Converts values to the form in which JSON returns them.

  Tuples become lists, NumPy numbers and arrays become Python numbers and lists, paths become
  strings.

  Args:
    values: nested dicts and sequences of numbers, strings, NumPy arrays, paths and None.

  Returns:
    The values as they are after being written to JSON and read back.

  Raises:
    ValueError: if a value cannot be written to JSON.
  """
  try:
    return json.loads(json.dumps(values, default=_json_default))
  except (TypeError, RecursionError) as error:
    raise ValueError(f"{values!r} cannot be written to JSON: {error}") from error


def _json_default(value: Any) -> Any:
  if isinstance(value, np.generic) and value.dtype.kind in "biufSU":
    return value.item()
  if isinstance(value, np.ndarray) and value.dtype.kind in "biufU":
    return value.tolist()
  if isinstance(value, os.PathLike):
    return os.fspath(value)
  raise TypeError(f"a {type(value).__name__} is no number, string, list or mapping")


def write_json(path: str | os.PathLike, values: Mapping[str, Any]) -> None:
  """Writes a JSON object and its own checksum, atomically.

  Args:
    path: the file to write.
    values: see `to_json`.

  Raises:
    ValueError: if a value cannot be written to JSON.
  """
  values = to_json(values)
  with atomic_open(path) as file:
    file.write(json.dumps({**values, _SEAL: _seal(values)}, indent=1).encode() + b"\n")


def read_json(path: str | os.PathLike) -> dict[str, Any]:
  """Reads a JSON object, and checks its checksum if it has one.

  Args:
    path: a file of `write_json`, or any other JSON object.

  Returns:
    The object, without its checksum.

  Raises:
    FileNotFoundError: if there is no such file.
    DamagedFileError: if it is not a JSON object, or not the one that was written.
  """
  path = user_path(path)
  content = path.read_bytes()
  try:
    values = json.loads(content)
    if not isinstance(values, dict):
      raise ValueError("not a JSON object")
  except (ValueError, RecursionError) as error:
    raise DamagedFileError(path, str(error), "Remove it; it is made again.") from error
  # A checksum is recognised by its form as well, in case its name was damaged.
  sealed = any(isinstance(v, str) and _DIGEST.fullmatch(v) for v in values.values())
  if (_SEAL in values or sealed) and values.pop(_SEAL, None) != _seal(values):
    raise DamagedFileError(
      path,
      f"its values do not have the checksum under {_SEAL!r}",
      f"Remove it; it is made again. If you changed it on purpose, remove the {_SEAL!r} instead.",
    )
  return values


def _seal(values: Mapping[str, Any]) -> str:
  return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def write_sums(folder: str | os.PathLike, names: Iterable[str]) -> None:
  """Writes the checksums of a finished folder's files to its `SHA256SUMS`.

  Args:
    folder: the folder.
    names: names of the files, relative to the folder.
  """
  folder = user_path(folder)
  lines = [f"{checksum(folder / name)}  {name}\n" for name in sorted(names)]
  lines.append(f"# {len(lines)} files\n")  # A comment to `sha256sum`; shows if the end is cut off.
  with atomic_open(folder / SUMS) as file:
    file.write("".join(lines).encode())


def check_sums(folder: str | os.PathLike) -> list[DamagedFileError]:
  """Compares a folder's files with its `SHA256SUMS`.

  Args:
    folder: the folder.

  Returns:
    One error for each damaged or missing file.

  Raises:
    FileNotFoundError: if the folder has no `SHA256SUMS`.
  """
  folder = user_path(folder)
  problems = []
  *lines, last = (folder / SUMS).read_bytes().decode(errors="replace").splitlines() or [""]
  if last != f"# {len(lines)} files":
    reason = "its last line is not the number of files"
    problems.append(DamagedFileError(folder / SUMS, reason, _REMEDY))
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


_REMEDY = f"Remove {SUMS} and the files that it lists; the command that made them makes them again."
