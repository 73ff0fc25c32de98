"""Files of steps in uncompressed rows of equal size, which can be read in any order.

Data that is computed once and read in every epoch is stored in rows: posteriors (`write_latents`)
and decoded observations (`cache_frames`). A file contains only the episodes of a shard, one after
another, with one row for each step, in arrival alignment (`align`). The manifest gives the first
row of each episode. A sequence is one slice of the file, so that an epoch can have any order
without a shuffle buffer.

A row ends with a checksum, chosen so that the weighted sum of the row's 8-byte words equals a value
given by the row's index in the file. Every read therefore detects a row that was changed, never
written, or moved from another index. The manifest also has the SHA-256 of the whole file.
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
_FIRST_SUM = np.uint64(0x9E3779B97F4A7C15)  # The sum of row 0; a hole in a file has the sum 0.


def align(episode: Episode) -> Batch:
  """Converts an episode to arrival alignment.

  Args:
    episode: an episode of T steps, `[T, ...]`.

  Returns:
    A `Batch` of NumPy arrays `[T, ...]`, whose mask is all true.
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
  """Returns whether a shard contains rows; otherwise it contains records (`rollouts`).

  Args:
    shard: the shard.
  """
  return shard.file.endswith(SUFFIX)


def observation_field(name: str) -> str:
  """Returns the field of a row that contains an array of the observation.

  Args:
    name: the array's name; empty for an observation of one array.
  """
  return f"observation/{name}" if name else "observation"


def row_type(manifest: Manifest) -> np.dtype:
  """Returns the dtype of a row: the fields of a `core.Batch` except `mask`, and the checksum.

  An observation of one array is the field `observation`; otherwise each part is the field
  `observation/<name>`.

  Args:
    manifest: gives the shapes and dtypes.

  Raises:
    CorruptManifestError: if the shapes make no valid dtype.
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
    batch: `[T, ...]`, in arrival alignment, with a mask that is all true.
    row: see `row_type`.
    start: the index of the first row in its file.

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
    path: the file.
    episodes: the episodes in arrival alignment.
    manifest: the folder's manifest, of which only the shapes and dtypes are used.
    shard: describes the episodes.

  Returns:
    `shard` with the file's name, size and checksum.
  """
  row = row_type(manifest)
  start = 0
  with files.atomic_open(path) as file:
    for batch in episodes:
      rows = pack(batch, row, start)
      file.write(rows.view(np.uint8).data)  # A buffer cannot have `:` in field names.
      start += len(rows)
  return shard._replace(file=path.name, bytes=start * row.itemsize, sha256=files.checksum(path))


def check(folder: str | os.PathLike, shard: Shard, manifest: Manifest) -> None:
  """Reads a whole shard in constant memory and checks every row and the file's checksum.

  Args:
    folder: the dataset folder.
    shard: one of its shards.
    manifest: the folder's manifest.

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
    first: N indices in their files where the slices begin.
    mask: `bool[N, T]`, false on rows that were not read.

  Returns:
    The index `(n, t)` of the first bad row; None if there is none.
  """
  expected = _expected(np.asarray(first)[:, None], rows.shape[1])
  bad = (_sums(rows) != expected) & mask
  return tuple(np.argwhere(bad)[0].tolist()) if bad.any() else None


class RowFiles:
  """Reads several files of rows and keeps up to `_MAX_OPEN` open. Not thread-safe.

  Attributes:
    paths: the files.
  """

  def __init__(self, paths: Sequence[Path]):
    self.paths = paths
    self._open: dict[int, int] = {}  # Descriptors by file, least recently used first.
    weakref.finalize(self, _close, self._open)

  def read(self, file: int, first: int, out: np.ndarray) -> None:
    """Reads rows without checking them.

    Args:
      file: the index of the file.
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
    """Makes an error that names a row.

    Args:
      file: the index of the file.
      row: the index of the row in the file.
      row_type: the dtype of the rows.
      reason: what is wrong.

    Returns:
      The error, which the caller raises.
    """
    return CorruptShardError(self.paths[file], row, row * row_type.itemsize, reason)


def _close(descriptors: dict[int, int]) -> None:
  for descriptor in descriptors.values():
    os.close(descriptor)


def _sums(rows: np.ndarray) -> np.ndarray:
  """Returns the weighted sums of the 8-byte words modulo 2^64: `uint64[...]` of rows `[...]`."""
  words = rows.view("<u8").reshape(*rows.shape, rows.dtype.itemsize // 8)
  # All weights are odd, so that every change of a word changes the sum, and different, so that
  # swapped words change it. The checksum's weight is 1.
  number = np.arange(words.shape[-1], 0, -1, dtype=np.uint64)
  return words @ (_FIRST_SUM * (number - np.uint64(1)) * np.uint64(2) + np.uint64(1))


def _expected(start: int | np.ndarray, count: int) -> np.ndarray:
  """Returns the sums that `count` valid rows from index `start` have."""
  return (start + np.arange(count)).astype(np.uint64) + _FIRST_SUM
