"""Episodes on disk: a folder with TFRecord shards and a manifest.

    rollouts/
      manifest.json           environment; size, checksum and episodes of each shard
      shard-00000.tfrecord    one `tf.train.Example` per episode
      shard-00001.tfrecord

A shard belongs to the dataset when the manifest names it. Shards and the manifest are written under
a temporary name and then renamed with `os.replace`, so that they are always complete. If a writer
is killed, the next writer removes the files that the manifest does not name. The record framing is
not compressed, so that damage stays local and has an offset; the observations in a record are
compressed (zlib, level 1). Folders derived from rollouts have the same layout, with
`shard-00000.rows` (`rows`) instead of the records.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import tensorflow as tf

from wm_tf import files
from wm_tf.core import Episode
from wm_tf.data import observations, rows
from wm_tf.data import records as records_lib
from wm_tf.data.manifest import (
  MANIFEST,
  CorruptShardError,
  EpisodeInfo,
  Manifest,
  Shard,
  as_recorded,
  load_manifest,
  save_manifest,
)
from wm_tf.data.recording import natural, recorded_info
from wm_tf.data.records import check_size as check_size
from wm_tf.data.records import existing_shards as existing_shards


class ShardWriter:
  """Appends episodes to a dataset folder, one whole shard at a time.

  Episodes are written to a temporary file and not kept in memory. The file becomes a shard when it
  has `episodes_per_shard` episodes, or when the writer is closed. The writer is a context manager:
  if its block ends with an exception, the unfinished shard is discarded.

  Attributes:
    manifest: the folder's manifest, with the complete shards.
  """

  def __init__(self, folder: str | os.PathLike, header: Manifest, *, episodes_per_shard: int = 16):
    """Opens or creates a folder, and removes incomplete files of a killed writer.

    Args:
      folder: the dataset folder.
      header: a manifest, whose fields other than `shards` and `skipped` must equal the folder's.
      episodes_per_shard: the number of episodes of a complete shard.

    Raises:
      ValueError: if the folder's manifest differs from `header`, or `header` could not be read
        back.
      FolderInUseError: if another process is writing to the folder.
    """
    header = as_recorded(header._replace(shards=(), skipped=()))
    self._folder = files.user_path(folder)
    self._folder.mkdir(parents=True, exist_ok=True)
    self._lock = files.take_lock(self._folder)
    self._file = None
    self._episodes: list[EpisodeInfo] = []
    self._skipped: list[int] = []
    self._episodes_per_shard = episodes_per_shard
    try:
      self.manifest = self._open(header)
      remove_orphans(self._folder, self.manifest)
    except BaseException:
      os.close(self._lock)
      raise

  def _open(self, header: Manifest) -> Manifest:
    if not (self._folder / MANIFEST).exists():
      save_manifest(self._folder, header)
      return header
    existing = load_manifest(self._folder)
    for name in Manifest._fields:
      found, expected = getattr(existing, name), getattr(header, name)
      if name not in ("shards", "skipped") and found != expected:
        raise ValueError(
          f"{self._folder} holds rollouts with {name} = {found!r}, not {expected!r}; write to "
          "another folder or delete this one."
        )
    return existing

  def add(self, episode: Episode, info: EpisodeInfo) -> None:
    """Appends an episode.

    Args:
      episode: NumPy arrays `[T, ...]`.
      info: the episode's information.

    Raises:
      ValueError: if the arrays do not fit together or do not fit the folder, or `info` could not be
        read back.
    """
    info = self._checked(episode, info)
    if self._file is None:
      self._file = tf.io.TFRecordWriter(str(self._temporary))
    self._file.write(records_lib.encode_episode(episode, info))
    self._episodes.append(info)
    if len(self._episodes) == self._episodes_per_shard:
      self.flush()

  def skip(self, seed: int) -> None:
    """Records that an episode was played and not kept, so that it is not played again.

    Args:
      seed: the episode's seed.
    """
    self._skipped.append(natural(seed, "The seed of a skipped episode"))

  def flush(self, source: str = "") -> None:
    """Completes the current shard, if any, and adds it to the manifest.

    Args:
      source: see `Shard`.
    """
    shards = self.manifest.shards
    if self._file is not None:
      self._file.close()
      self._file = None
      shards = (*shards, self._complete(self._temporary, self._name, self._episodes, source))
    if self._episodes or self._skipped:
      self.manifest = self.manifest._replace(
        shards=shards, skipped=(*self.manifest.skipped, *self._skipped)
      )
      save_manifest(self._folder, self.manifest)
      self._episodes, self._skipped = [], []

  def restore(self, lost: Shard, episodes: Iterable[tuple[Episode, EpisodeInfo]]) -> None:
    """Writes a shard again whose file was lost, at its old position.

    Args:
      lost: the shard's entry in the manifest.
      episodes: the episodes of the shard, in order.

    Raises:
      ValueError: see `add`.
    """
    temporary, infos = self._folder / f".{lost.file}.tmp", []
    with tf.io.TFRecordWriter(str(temporary)) as file:
      for episode, info in episodes:
        infos.append(self._checked(episode, info))
        file.write(records_lib.encode_episode(episode, infos[-1]))
    found = self._complete(temporary, lost.file, infos, lost.source)
    shards = tuple(found if shard == lost else shard for shard in self.manifest.shards)
    self.manifest = self.manifest._replace(shards=shards)
    save_manifest(self._folder, self.manifest)

  def _complete(
    self, temporary: Path, name: str, episodes: Iterable[EpisodeInfo], source: str
  ) -> Shard:
    """Renames a finished file to the name of its shard."""
    size, checksum = temporary.stat().st_size, files.checksum(temporary)
    files.sync(temporary)
    os.replace(temporary, self._folder / name)
    return Shard(name, size, checksum, tuple(episodes), source)

  def close(self, discard: bool = False) -> None:
    """Completes the current shard and releases the folder.

    Args:
      discard: whether to discard the current shard instead.
    """
    try:
      if not discard:
        self.flush()
      elif self._file is not None:
        with contextlib.suppress(tf.errors.OpError):  # A full disk has already raised an error.
          self._file.close()
        self._temporary.unlink()
    finally:
      self._file = None
      if self._lock is not None:
        os.close(self._lock)
        self._lock = None

  def __enter__(self) -> ShardWriter:
    return self

  def __exit__(self, kind, value, traceback) -> None:
    self.close(discard=kind is not None)

  @property
  def _name(self) -> str:
    """The name of the next shard: one above the last, because shards in between may be missing."""
    shards = self.manifest.shards
    number = int(shards[-1].file.removeprefix("shard-").split(".")[0]) + 1 if shards else 0
    return f"shard-{number:05d}.tfrecord"

  @property
  def _temporary(self) -> Path:
    return self._folder / f".{self._name}.tmp"

  def _checked(self, episode: Episode, info: EpisodeInfo) -> EpisodeInfo:
    """Checks an episode against the folder; returns its information as it is recorded."""
    info = recorded_info(info)
    steps = info.steps
    expected = {
      name: observations.ArraySpec((steps, *shape), dtype)
      for name, (shape, dtype) in self.manifest.arrays.items()
    }
    fields = {
      "observation": expected,
      "action": {"": observations.ArraySpec((steps, self.manifest.action_size), "float32")},
      "reward": {"": observations.ArraySpec((steps,), "float32")},
    }
    for name in ("is_first", "is_last", "is_terminal"):
      fields[name] = {"": observations.ArraySpec((steps,), "bool")}
    for name, spec in fields.items():
      if problem := observations.mismatch(getattr(episode, name), spec):
        raise ValueError(f"Episode of seed {info.seed}: {name} {problem}.")
    return info


def write_dataset(
  folder: str | os.PathLike,
  episodes: Iterable[tuple[Episode, EpisodeInfo]],
  header: Manifest,
  *,
  episodes_per_shard: int = 16,
) -> Manifest:
  """Appends episodes to a dataset folder; see `ShardWriter`.

  Args:
    folder: the dataset folder; created if needed.
    episodes: pairs of an episode and its information.
    header: a manifest, whose fields other than `shards` and `skipped` must equal the folder's.
    episodes_per_shard: the number of episodes of a complete shard.

  Returns:
    The folder's manifest.

  Raises:
    ValueError: if an episode does not fit the folder, or the folder's manifest differs from
      `header`.
  """
  with ShardWriter(folder, header, episodes_per_shard=episodes_per_shard) as writer:
    for episode, info in episodes:
      writer.add(episode, info)
  return writer.manifest


def read_episodes(
  folder: str | os.PathLike, shards: Iterable[Shard] | None = None
) -> Iterator[tuple[Episode, EpisodeInfo]]:
  """Reads the episodes of a folder in order, as NumPy arrays.

  Args:
    folder: the dataset folder.
    shards: the shards to read; None for all.

  Yields:
    `(episode, info)`.

  Raises:
    CorruptShardError: at the first bad record.
    ValueError: if the folder contains rows; use `datasets.episodes_dataset` for those.
  """
  manifest = load_manifest(folder)
  for shard in manifest.shards if shards is None else shards:
    check_size(folder, shard)
    if rows.is_rows(shard):
      raise ValueError(f"{folder} holds rows made from rollouts, and no rollouts.")
    path = files.user_path(folder) / shard.file
    for index, (offset, record) in enumerate(records_lib.read_records(path)):
      yield records_lib.decode_episode(record, manifest, path, index, offset)


def read_episode(
  folder: str | os.PathLike, manifest: Manifest, shard: Shard, index: int
) -> tuple[Episode, EpisodeInfo]:
  """Reads one episode of a shard.

  Args:
    folder: the dataset folder.
    manifest: the folder's manifest.
    shard: one of its shards.
    index: the index of the episode in the shard.

  Returns:
    `(episode, info)`.

  Raises:
    CorruptShardError: if the shard is damaged; it names the first bad record.
  """
  path = files.user_path(folder) / shard.file
  try:
    (record,) = tf.data.TFRecordDataset(str(path)).skip(index).take(1).as_numpy_iterator()
    episode, info = records_lib.decode_episode(record, manifest, path, index, 0)
    if records_lib.num_steps(episode) != {shard.episodes[index].steps}:
      raise CorruptShardError(path, index, 0, "not the episode that the manifest describes")
  except (tf.errors.OpError, ValueError, CorruptShardError):
    check_records(folder, shard)
    raise
  return episode, info


def check_records(folder: str | os.PathLike, shard: Shard) -> None:
  """Reads a whole shard and checks every record (or row) and the checksum.

  Args:
    folder: the dataset folder.
    shard: one of its shards.

  Raises:
    CorruptShardError: at the first bad record.
  """
  path = files.user_path(folder) / shard.file
  check_size(folder, shard)
  if rows.is_rows(shard):
    rows.check(folder, shard, load_manifest(folder))
    return
  infos = tuple(info for _, info in read_episodes(folder, [shard]))
  if infos != shard.episodes or files.checksum(path) != shard.sha256:
    raise CorruptShardError(path, 0, 0, "the file is not the one that the manifest describes")


def remove_orphans(folder: str | os.PathLike, manifest: Manifest) -> None:
  """Removes shards and temporary files that the manifest does not name.

  Args:
    folder: the dataset folder.
    manifest: the folder's manifest.
  """
  folder = files.user_path(folder)
  known = {shard.file for shard in manifest.shards}
  for path in [*folder.glob("shard-*"), *folder.glob(".*.tmp")]:
    if path.name not in known:
      path.unlink()
