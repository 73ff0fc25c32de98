"""Episodes on disk: TFRecord shards and a manifest in a folder.

    rollouts/
      manifest.json           what is here: environment, and per shard size, checksum, episodes
      shard-00000.tfrecord    one `tf.train.Example` per episode
      shard-00001.tfrecord

A shard belongs to the dataset once the manifest names it. Both appear whole (temporary name, then
`os.replace`). What a killed writer leaves behind is not in the manifest, and the next writer
removes it. The record framing is not compressed, so that damage stays local and has an offset; the
observations inside are (zlib, level 1). Folders derived from rollouts have the same layout, with
`shard-00000.rows` (`rows`) in place of the records.
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
  """Appends episodes to a dataset folder, a whole shard at a time.

  Episodes go to a temporary file, not to memory. The file becomes a shard when it has
  `episodes_per_shard` episodes, or when the writer is closed. A context manager: if its block ends
  with an exception, the unfinished shard is dropped.

  Attributes:
    manifest: of the folder, with the shards that are complete.
  """

  def __init__(self, folder: str | os.PathLike, header: Manifest, *, episodes_per_shard: int = 16):
    """Opens or creates a folder, and removes what a killed writer left in it.

    Args:
      folder: the dataset folder.
      header: a manifest; of its fields, all but `shards` and `skipped` must be those of the folder.
      episodes_per_shard: episodes after which a shard is complete.

    Raises:
      ValueError: if the folder holds other data than `header` says, or `header` could not be read
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

    Raises:
      ValueError: if its arrays do not fit together or do not fit the folder, or if it could not be
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
    """Records that an episode was played and is not kept, so that it is not played again."""
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
    """Writes a shard whose file was lost again, in its place among the others.

    Args:
      lost: the shard, as the manifest has it.
      episodes: those that it held, in their order.

    Raises:
      ValueError: as `add`.
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
    """Completes the current shard, or drops it if `discard`, and releases the folder."""
    try:
      if not discard:
        self.flush()
      elif self._file is not None:
        with contextlib.suppress(tf.errors.OpError):  # A full disk was reported already.
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
    """The name of the next shard: one above the last, since shards in between may be gone."""
    shards = self.manifest.shards
    number = int(shards[-1].file.removeprefix("shard-").split(".")[0]) + 1 if shards else 0
    return f"shard-{number:05d}.tfrecord"

  @property
  def _temporary(self) -> Path:
    return self._folder / f".{self._name}.tmp"

  def _checked(self, episode: Episode, info: EpisodeInfo) -> EpisodeInfo:
    """Checks an episode against the folder; returns its facts as they are recorded."""
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

  Returns:
    The folder's manifest.
  """
  with ShardWriter(folder, header, episodes_per_shard=episodes_per_shard) as writer:
    for episode, info in episodes:
      writer.add(episode, info)
  return writer.manifest


def read_episodes(
  folder: str | os.PathLike, shards: Iterable[Shard] | None = None
) -> Iterator[tuple[Episode, EpisodeInfo]]:
  """Yields the episodes of a folder in order, as NumPy arrays.

  Args:
    folder: the dataset folder.
    shards: some of its shards; None for all.

  Yields:
    `(episode, info)`.

  Raises:
    CorruptShardError: at the first bad record.
    ValueError: if the folder holds rows; `datasets.episodes_dataset` reads those.
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
    manifest: of the folder.
    shard: one of its shards.
    index: of the episode in the shard.

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
  """Reads a shard whole and checks every record (or row) and the checksum.

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
  """Removes what a killed writer left behind: files that the manifest does not name."""
  folder = files.user_path(folder)
  known = {shard.file for shard in manifest.shards}
  for path in [*folder.glob("shard-*"), *folder.glob(".*.tmp")]:
    if path.name not in known:
      path.unlink()
