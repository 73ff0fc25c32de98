"""Steps in rows of one size, uncompressed, so that each can be read by itself.

Data that is made once and read in every epoch is stored in rows: posteriors (`write_latents`) and
decoded observations (`cache_frames`). A file holds the episodes of a shard one after another, one
row for each step, in arrival alignment (`align`); nothing else. Where an episode begins follows
from the manifest, and a sequence is one slice of the file, so an epoch can have any order without
memory for shuffling.

A row ends with a checksum: a number that makes the weighted sum of the row's 8-byte words equal to
a value given by the row's place in the file. A row that has changed, was never written, or belongs
to another place is found whenever it is read. The manifest also has the SHA-256 of the whole file.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from wm_tf import files
from wm_tf.core import Batch, Episode
from wm_tf.data import observations
from wm_tf.data.manifest import CorruptManifestError, CorruptShardError, Manifest, Shard

SUFFIX = ".rows"
MISMATCH = "its checksum does not match"
_MAX_OPEN = 128
_ROWS_AT_ONCE = 4096
_FIRST_SUM = np.uint64(0x9E3779B97F4A7C15)  # Of row 0; a hole in a file has the sum 0.


def align(episode: Episode) -> Batch:
  """Turns an episode into arrival alignment.

  Args:
    episode: of T steps, `[T, ...]`.

  Returns:
    A `Batch` of NumPy arrays `[T, ...]`, all of it valid.
  """

  def shifted(values):
    return np.concatenate([np.zeros_like(values[:1]), values[:-1]])

  return Batch(
    observation=episode.observation,
    prev_action=shifted(episode.action),
    reward=shifted(episode.reward),
    discount=1.0 - episode.is_terminal.astype(np.float32),
    is_first=episode.is_first,
    mask=np.ones_like(episode.is_first),
  )


def is_rows(shard: Shard) -> bool:
  """Whether a shard holds rows; otherwise it holds records (`rollouts`)."""
  return shard.file.endswith(SUFFIX)


def observation_field(name: str) -> str:
  """Returns the field of a row that holds the array of an observation called `name`."""
  return f"observation/{name}" if name else "observation"


def row_type(manifest: Manifest) -> np.dtype:
  """Returns the type of a row: the fields of a `core.Batch` but `mask`, and the checksum.

  An observation that is one array is the field `observation`; otherwise each part is the field
  `observation/<name>`.

  Raises:
    CorruptManifestError: if there is no such type.
  """
  arrays = manifest.arrays
  try:
    fields = [
      *((observation_field(name), dtype, shape) for name, (shape, dtype) in arrays.items()),
      ("prev_action", "<f4", (manifest.action_size,)),
      ("reward", "<f4"),
      ("discount", "<f4"),
      ("is_first", "?"),
    ]
    padding = -np.dtype(fields).itemsize % 8
    return np.dtype([*fields, ("padding", "u1", (padding,)), ("checksum", "<u8")])
  except (ValueError, OverflowError) as error:
    described = observations.describe(arrays)
    raise CorruptManifestError(f"There are no rows of {described} ({error}).") from error


def pack(batch: Batch, row: np.dtype, start: int = 0) -> np.ndarray:
  """Packs steps into rows.

  Args:
    batch: `[T, ...]`, arrival alignment, all of it valid.
    row: see `row_type`.
    start: place of the first row in its file.

  Returns:
    Rows `[T]`.
  """
  rows = np.zeros(len(batch.reward), row)
  for name, array in observations.unpack(batch.observation).items():
    rows[observation_field(name)] = np.asarray(array)
  for name in ("prev_action", "reward", "discount", "is_first"):
    rows[name] = np.asarray(getattr(batch, name))
  rows["checksum"] += _expected(start, len(rows)) - _sums(rows)
  return rows


def write_shard(path: Path, episodes: Iterable[Batch], manifest: Manifest, shard: Shard) -> Shard:
  """Writes episodes to a file, atomically.

  Args:
    path: of the file.
    episodes: in arrival alignment.
    manifest: of the folder; only its shapes and dtypes matter.
    shard: which episodes they are.

  Returns:
    `shard` with the file's name, size and checksum.
  """
  row = row_type(manifest)
  start = 0
  with files.atomic_open(path) as file:
    for batch in episodes:
      rows = pack(batch, row, start)
      file.write(rows.view(np.uint8).data)  # As bytes, since a buffer takes no `:` in field names.
      start += len(rows)
  return shard._replace(file=path.name, bytes=start * row.itemsize, sha256=files.checksum(path))


def check(folder: str | os.PathLike, shard: Shard, manifest: Manifest) -> None:
  """Reads a shard whole and checks every row and the checksum, in constant memory.

  Raises:
    CorruptShardError: at the first bad row.
  """
  path, row = files.user_path(folder) / shard.file, row_type(manifest)
  source = RowFiles([path])
  for first in range(0, shard.num_steps, _ROWS_AT_ONCE):
    rows = np.empty(min(_ROWS_AT_ONCE, shard.num_steps - first), row)
    source.read(0, first, rows)
    if (bad := find_bad(rows[None], [first])) is not None:
      raise source.error(0, first + bad[1], row, MISMATCH)
  if files.checksum(path) != shard.sha256:
    raise CorruptShardError(path, 0, 0, "the file is not the one that the manifest describes")


def find_bad(
  rows: np.ndarray, first: Sequence[int], mask: np.ndarray | bool = True
) -> tuple[int, int] | None:
  """Finds a row that differs from what was written.

  Args:
    rows: N slices `[N, T]`, contiguous.
    first: N places in their files where the slices begin.
    mask: `bool[N, T]`, false on rows that were not read.

  Returns:
    The index of the first bad row, or None.
  """
  expected = _expected(np.asarray(first)[:, None], rows.shape[1])
  bad = (_sums(rows) != expected) & mask
  return tuple(np.argwhere(bad)[0].tolist()) if bad.any() else None


class RowFiles:
  """Several files of rows, of which up to `_MAX_OPEN` are kept open. For one thread at a time."""

  def __init__(self, paths: Sequence[Path]):
    self.paths = paths
    self._open: dict[int, int] = {}  # Descriptors by file, least recently used first.
    weakref.finalize(self, _close, self._open)

  def read(self, file: int, first: int, out: np.ndarray) -> None:
    """Reads rows without checking them.

    Args:
      file: index of the file.
      first: the first row to read.
      out: contiguous rows to fill.

    Raises:
      CorruptShardError: if the file is missing or too short.
    """
    start, done, data = first * out.itemsize, 0, out.view(np.uint8)
    while done < out.nbytes:
      num_read = os.preadv(self._descriptor(file), [data[done:]], start + done)
      if not num_read:
        raise self.error(file, (start + done) // out.itemsize, out.dtype, "truncated")
      done += num_read

  def _descriptor(self, file: int) -> int:
    found = self._open.pop(file, None)
    if found is None:
      if len(self._open) >= _MAX_OPEN:
        os.close(self._open.pop(next(iter(self._open))))
      try:
        found = os.open(self.paths[file], os.O_RDONLY | os.O_CLOEXEC)
      except FileNotFoundError:
        raise CorruptShardError(self.paths[file], 0, 0, "the file is missing") from None
    self._open[file] = found
    return found

  def error(self, file: int, row: int, row_type: np.dtype, reason: str) -> CorruptShardError:
    """Returns an error that names a row."""
    return CorruptShardError(self.paths[file], row, row * row_type.itemsize, reason)


def _close(descriptors: dict[int, int]) -> None:
  for descriptor in descriptors.values():
    os.close(descriptor)


def _sums(rows: np.ndarray) -> np.ndarray:
  """Returns the weighted sums of words, modulo 2^64: `uint64[...]` of rows `[...]`."""
  words = rows.view("<u8").reshape(*rows.shape, rows.dtype.itemsize // 8)
  # All weights are odd, so that no change of a word is lost, and different; the checksum's is 1.
  number = np.arange(words.shape[-1], 0, -1, dtype=np.uint64)
  return words @ (_FIRST_SUM * (number - np.uint64(1)) * np.uint64(2) + np.uint64(1))


def _expected(start: int | np.ndarray, count: int) -> np.ndarray:
  """Returns the sums that `count` rows from `start` must have."""
  return (start + np.arange(count)).astype(np.uint64) + _FIRST_SUM
