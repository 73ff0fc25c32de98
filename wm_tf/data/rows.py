"""Steps in rows of one size, uncompressed, so that any of them is read by itself.

What is made once and read in every epoch lies so: posteriors (`write_latents`) and decoded frames
(`cache_frames`). A file holds the episodes of a shard one after another, a row a step, in arrival
alignment (`align`); nothing else. Where an episode begins follows from the manifest, and a sequence
is one slice of the file, so an epoch may have any order and needs no memory for it.

A row ends with a number that makes the weighted sum of its 8-byte words what belongs to its place
in the file. So a row of which a byte has changed, that was never written, or that lies elsewhere is
found whenever it is read; the manifest has the SHA-256 of the whole file besides.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from wm_tf import files
from wm_tf.core import Batch, Episode
from wm_tf.data.manifest import CorruptManifestError, CorruptShardError, Manifest, Shard

SUFFIX = ".rows"
MISMATCH = "its checksum does not match"
_MAX_OPEN = 128
_ROWS_AT_ONCE = 4096
_NOTHING = np.uint64(0x9E3779B97F4A7C15)  # The sum that belongs to row 0; a hole's is 0.


def align(episode: Episode) -> Batch:
  """Turns an episode `[T, ...]` into arrival alignment, `[T, ...]`, all of it valid."""
  shifted = lambda values: np.concatenate([np.zeros_like(values[:1]), values[:-1]])
  return Batch(
    observation=episode.observation,
    prev_action=shifted(episode.action),
    reward=shifted(episode.reward),
    discount=1.0 - episode.is_terminal.astype(np.float32),
    is_first=episode.is_first,
    mask=np.ones_like(episode.is_first),
  )


def is_rows(shard: Shard) -> bool:
  """Whether a shard is of this format; else it holds records (`rollouts`)."""
  return shard.file.endswith(SUFFIX)


def row_type(manifest: Manifest) -> np.dtype:
  """The type of a row: the fields of a `core.Batch` but `mask`, and the checksum.

  Raises:
    CorruptManifestError: if there is no such type.
  """
  try:
    fields = [
      ("observation", manifest.observation_dtype, manifest.observation_shape),
      ("prev_action", "<f4", (manifest.action_size,)),
      ("reward", "<f4"),
      ("discount", "<f4"),
      ("is_first", "?"),
    ]
    padding = -np.dtype(fields).itemsize % 8
    return np.dtype([*fields, ("padding", "u1", (padding,)), ("checksum", "<u8")])
  except (ValueError, OverflowError) as error:
    shape = manifest.observation_shape
    raise CorruptManifestError(f"There are no rows of observations {shape} ({error}).") from error


def pack(batch: Batch, row: np.dtype, start: int = 0) -> np.ndarray:
  """Returns the steps of a `Batch` (`[T, ...]`, arrival alignment) as rows `[T]`.

  Args:
    batch: all of it valid.
    row: see `row_type`.
    start: place of the first row in its file.
  """
  rows = np.zeros(len(batch.reward), row)
  for name in ("observation", "prev_action", "reward", "discount", "is_first"):
    rows[name] = np.asarray(getattr(batch, name))
  rows["checksum"] += _expected(start, len(rows)) - _sums(rows)
  return rows


def write_shard(path: Path, episodes: Iterable[Batch], manifest: Manifest, shard: Shard) -> Shard:
  """Writes episodes to a file, atomically.

  Args:
    path: of the file.
    episodes: in arrival alignment.
    manifest: of the folder; only its types are looked at.
    shard: which episodes they are.

  Returns:
    `shard` with the file's name, size and checksum.
  """
  row = row_type(manifest)
  start = 0
  with files.atomic_open(path) as file:
    for batch in episodes:
      rows = pack(batch, row, start)
      file.write(rows.data)
      start += len(rows)
  return shard._replace(file=path.name, bytes=start * row.itemsize, sha256=files.checksum(path))


def check(folder: str | os.PathLike, shard: Shard, manifest: Manifest) -> None:
  """Reads a shard whole and checks every row and the checksum, in little memory.

  Raises:
    CorruptShardError: at the first bad row.
  """
  path, row = Path(folder) / shard.file, row_type(manifest)
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
  """Returns the index of a row of N slices `[N, T]` that is not as it was written.

  Args:
    rows: contiguous.
    first: N places, in their files, that slices begin at.
    mask: `bool[N, T]`, false on what was not read.
  """
  expected = _expected(np.asarray(first)[:, None], rows.shape[1])
  bad = (_sums(rows) != expected) & mask
  return tuple(np.argwhere(bad)[0].tolist()) if bad.any() else None


class RowFiles:
  """Several files of rows, of which some are kept open. One thread at a time."""

  def __init__(self, paths: Sequence[Path]):
    self.paths = paths
    self._open: dict[int, int] = {}  # Descriptors by file, the one used last at the end.
    weakref.finalize(self, _close, self._open)

  def read(self, file: int, first: int, out: np.ndarray) -> None:
    """Fills `out`, contiguous rows, with those of a file from row `first`; does not check them.

    Raises:
      CorruptShardError: if the file is missing, or ends before.
    """
    start, done = first * out.itemsize, 0
    while done < out.nbytes:
      view = out if not done else memoryview(out.view(np.uint8))[done:]
      num_read = os.preadv(self._descriptor(file), [view], start + done)
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
    """An error that names a row."""
    return CorruptShardError(self.paths[file], row, row * row_type.itemsize, reason)


def _close(descriptors: dict[int, int]) -> None:
  for descriptor in descriptors.values():
    os.close(descriptor)


def _sums(rows: np.ndarray) -> np.ndarray:
  """The weighted sums of words, modulo 2^64: `uint64[...]` of rows `[...]`."""
  words = rows.view("<u8").reshape(*rows.shape, rows.dtype.itemsize // 8)
  # All odd, so that no change of a word is lost, and no two alike; that of the checksum is 1.
  number = np.arange(words.shape[-1], 0, -1, dtype=np.uint64)
  return words @ (_NOTHING * (number - np.uint64(1)) * np.uint64(2) + np.uint64(1))


def _expected(start: int | np.ndarray, count: int) -> np.ndarray:
  """The sums that belong to `count` rows from `start`."""
  return (start + np.arange(count)).astype(np.uint64) + _NOTHING
