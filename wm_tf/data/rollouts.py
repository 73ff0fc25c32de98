"""Episodes on disk: TFRecord shards and a manifest in a folder.

    rollouts/
      manifest.json           what is here: environment, and per shard size, checksum, episodes
      shard-00000.tfrecord    one `tf.train.Example` per episode
      shard-00001.tfrecord

A shard belongs to the dataset once the manifest names it; both appear whole (temporary name, then
`os.replace`). What a killed writer leaves behind is not in the manifest, and the next writer
removes it. The record framing is not compressed, so that damage stays local and has an offset; the
observations inside are (zlib, level 1). What is made of rollouts lies in such folders too, with
`shard-00000.rows` (`rows`) in place of the records.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import tensorflow as tf

from wm_tf import files
from wm_tf.core import Episode
from wm_tf.data import rows
from wm_tf.data.manifest import (
  MANIFEST,
  CorruptShardError,
  EpisodeInfo,
  Manifest,
  Shard,
  load_manifest,
  save_manifest,
)


def encode_episode(episode: Episode, info: EpisodeInfo) -> bytes:
  """Serializes an episode as a `tf.train.Example`; `parse_episode` reads it."""
  observation = np.ascontiguousarray(episode.observation)
  floats = lambda values: tf.train.Feature(
    float_list=tf.train.FloatList(value=np.asarray(values, np.float32).ravel())
  )
  ints = lambda values: tf.train.Feature(
    int64_list=tf.train.Int64List(value=np.asarray(values, np.int64).ravel())
  )
  strings = lambda value: tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))
  features = {
    "observation": strings(zlib.compress(observation, 1)),
    "observation_shape": ints(observation.shape),
    "action": floats(episode.action),
    "reward": floats(episode.reward),
    "is_first": ints(episode.is_first),
    "is_last": ints(episode.is_last),
    "is_terminal": ints(episode.is_terminal),
    "seed": ints(info.seed),
    "policy": strings(info.policy.encode()),
    "iteration": ints(info.iteration),
    "episode_return": floats(info.episode_return),
    "frames": ints(info.frames),
  }
  example = tf.train.Example(features=tf.train.Features(feature=features))
  return example.SerializeToString(deterministic=True)


def parse_episode(record: tf.Tensor, manifest: Manifest) -> tuple[Episode, EpisodeInfo]:
  """Parses a record (`string[]`) of a folder with this manifest into tensors; usable in a graph."""
  one = lambda dtype: tf.io.FixedLenFeature([], dtype)
  row = lambda dtype, *shape: tf.io.FixedLenSequenceFeature(shape, dtype, allow_missing=True)
  example = tf.io.parse_single_example(
    record,
    {
      "observation": one(tf.string),
      "observation_shape": row(tf.int64),
      "action": row(tf.float32, manifest.action_size),
      "reward": row(tf.float32),
      "is_first": row(tf.int64),
      "is_last": row(tf.int64),
      "is_terminal": row(tf.int64),
      "seed": one(tf.int64),
      "policy": one(tf.string),
      "iteration": one(tf.int64),
      "episode_return": one(tf.float32),
      "frames": one(tf.int64),
    },
  )
  raw = tf.io.decode_compressed(example["observation"], "ZLIB")
  values = tf.io.decode_raw(raw, tf.as_dtype(manifest.observation_dtype))
  observation = tf.reshape(values, example["observation_shape"])
  episode = Episode(
    observation=tf.ensure_shape(observation, [None, *manifest.observation_shape]),
    action=example["action"],
    reward=example["reward"],
    is_first=tf.cast(example["is_first"], tf.bool),
    is_last=tf.cast(example["is_last"], tf.bool),
    is_terminal=tf.cast(example["is_terminal"], tf.bool),
  )
  info = EpisodeInfo(
    example["seed"],
    example["policy"],
    example["iteration"],
    example["episode_return"],
    example["frames"],
    tf.size(example["reward"]),
  )
  return episode, info


class ShardWriter:
  """Appends episodes to a dataset folder, a whole shard at a time.

  Holds nothing in memory: episodes go to a temporary file, which becomes a shard when it has
  `episodes_per_shard` of them, or when the writer is closed. A context manager; if its block ends
  with an exception the unfinished shard is dropped.
  """

  def __init__(self, folder: str | os.PathLike, header: Manifest, *, episodes_per_shard: int = 16):
    """Opens or creates a folder, and removes what a killed writer left in it.

    Args:
      folder: the dataset folder.
      header: a manifest; of its fields, all but `shards` and `skipped` must be those of the folder.
      episodes_per_shard: episodes after which a shard is complete.

    Raises:
      ValueError: if the folder holds other data than `header` says.
      RuntimeError: if another process is writing to it.
    """
    self._folder = Path(folder)
    self._folder.mkdir(parents=True, exist_ok=True)
    self._lock = _lock(self._folder)
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
    # Through JSON and back, so that what is compared is what was saved (tuples become lists).
    header = json.loads(json.dumps(header._replace(shards=(), skipped=())._asdict()))
    if (self._folder / MANIFEST).exists():
      found = load_manifest(self._folder)
      there = found._replace(observation_shape=list(found.observation_shape))._asdict()
      for name in header.keys() - {"shards", "skipped"}:
        if there[name] != header[name]:
          raise ValueError(
            f"{self._folder} holds rollouts with {name} = {there[name]!r}, not "
            f"{header[name]!r}; write to another folder or delete this one."
          )
      return found
    shape = tuple(header.pop("observation_shape"))
    manifest = Manifest(**header, observation_shape=shape)._replace(shards=(), skipped=())
    save_manifest(self._folder, manifest)
    return manifest

  def add(self, episode: Episode, info: EpisodeInfo) -> None:
    """Appends an episode.

    Raises:
      ValueError: if its arrays do not fit together, or do not fit the folder.
    """
    self._check(episode, info)
    if self._file is None:
      self._file = tf.io.TFRecordWriter(str(self._temporary))
    self._file.write(encode_episode(episode, info))
    self._episodes.append(_as_written(info))
    if len(self._episodes) == self._episodes_per_shard:
      self.flush()

  def skip(self, seed: int) -> None:
    """Notes that an episode was played and is not to be kept, so that it is not played again."""
    self._skipped.append(int(seed))

  def flush(self, source: str = "") -> None:
    """Completes the current shard, if any, and names it in the manifest."""
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
    """Writes a shard again whose file was lost, in its place among the others.

    Args:
      lost: the shard, as the manifest has it.
      episodes: those that it held, in their order.
    """
    temporary, infos = self._folder / f".{lost.file}.tmp", []
    with tf.io.TFRecordWriter(str(temporary)) as file:
      for episode, info in episodes:
        self._check(episode, info)
        file.write(encode_episode(episode, info))
        infos.append(_as_written(info))
    found = self._complete(temporary, lost.file, infos, lost.source)
    shards = tuple(found if shard == lost else shard for shard in self.manifest.shards)
    self.manifest = self.manifest._replace(shards=shards)
    save_manifest(self._folder, self.manifest)

  def _complete(
    self, temporary: Path, name: str, episodes: Iterable[EpisodeInfo], source: str
  ) -> Shard:
    """Gives a file that is written its name."""
    size, checksum = temporary.stat().st_size, files.checksum(temporary)
    files.sync(temporary)
    os.replace(temporary, self._folder / name)
    return Shard(name, size, checksum, tuple(episodes), source)

  def close(self, discard: bool = False) -> None:
    """Completes the current shard, or with `discard` drops it."""
    try:
      if not discard:
        self.flush()
      elif self._file is not None:
        with contextlib.suppress(tf.errors.OpError):  # Of a full disk, which is known already.
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
    """Of the next shard: one above the last, since shards in between may have been dropped."""
    shards = self.manifest.shards
    number = int(shards[-1].file.removeprefix("shard-").split(".")[0]) + 1 if shards else 0
    return f"shard-{number:05d}.tfrecord"

  @property
  def _temporary(self) -> Path:
    return self._folder / f".{self._name}.tmp"

  def _check(self, episode: Episode, info: EpisodeInfo) -> None:
    steps = info.steps
    expected = {
      "observation": ((steps, *self.manifest.observation_shape), self.manifest.observation_dtype),
      "action": ((steps, self.manifest.action_size), "float32"),
      "reward": ((steps,), "float32"),
      "is_first": ((steps,), "bool"),
      "is_last": ((steps,), "bool"),
      "is_terminal": ((steps,), "bool"),
    }
    for name, (shape, dtype) in expected.items():
      value = getattr(episode, name)
      if value.shape != shape or value.dtype != dtype:
        raise ValueError(
          f"Episode of seed {info.seed}: {name} is {value.dtype}{list(value.shape)}, "
          f"should be {dtype}{list(shape)}."
        )
      if value.dtype == np.float32 and not np.isfinite(value).all():
        raise ValueError(f"Episode of seed {info.seed}: {name} holds NaN or infinity.")


def _as_written(info: EpisodeInfo) -> EpisodeInfo:
  """As a record holds it: floats are of single precision there."""
  return info._replace(episode_return=float(np.float32(info.episode_return)))


def write_dataset(
  folder: str | os.PathLike,
  episodes: Iterable[tuple[Episode, EpisodeInfo]],
  header: Manifest,
  *,
  episodes_per_shard: int = 16,
) -> Manifest:
  """Appends episodes to a dataset folder; see `ShardWriter`."""
  with ShardWriter(folder, header, episodes_per_shard=episodes_per_shard) as writer:
    for episode, info in episodes:
      writer.add(episode, info)
  return writer.manifest


def read_episodes(
  folder: str | os.PathLike, shards: Iterable[Shard] | None = None
) -> Iterator[tuple[Episode, EpisodeInfo]]:
  """Yields the episodes of a folder (or of some of its shards) in order, as NumPy arrays.

  Raises:
    CorruptShardError: at the first bad record.
    ValueError: if the folder holds rows; `datasets.episodes_dataset` reads those.
  """
  manifest = load_manifest(folder)
  for shard in manifest.shards if shards is None else shards:
    check_size(folder, shard)
    if rows.is_rows(shard):
      raise ValueError(f"{folder} holds rows made from rollouts, and no rollouts.")
    path = Path(folder) / shard.file
    for index, (offset, record) in enumerate(_read_records(path)):
      yield _parsed(record, manifest, path, index, offset)


def read_episode(
  folder: str | os.PathLike, manifest: Manifest, shard: Shard, index: int
) -> tuple[Episode, EpisodeInfo]:
  """Reads one episode of a shard.

  Raises:
    CorruptShardError: if the shard is damaged; it names the first bad record.
  """
  path = Path(folder) / shard.file
  try:
    (record,) = tf.data.TFRecordDataset(str(path)).skip(index).take(1).as_numpy_iterator()
    episode, info = _parsed(record, manifest, path, index, 0)
    if {len(field) for field in episode} != {shard.episodes[index].steps}:
      raise CorruptShardError(path, index, 0, "not the episode that the manifest describes")
  except (tf.errors.OpError, ValueError, CorruptShardError):
    check_records(folder, shard)
    raise
  return episode, info


def _parsed(
  record: bytes, manifest: Manifest, path: Path, index: int, offset: int
) -> tuple[Episode, EpisodeInfo]:
  try:
    return _to_numpy(*parse_episode(tf.constant(record), manifest))
  # A name, or a message of TensorFlow's that quotes the record, may be no text.
  except (tf.errors.InvalidArgumentError, tf.errors.DataLossError, UnicodeError) as error:
    raise CorruptShardError(path, index, offset, f"not an episode ({error})") from error


def _to_numpy(episode: Episode, info: EpisodeInfo) -> tuple[Episode, EpisodeInfo]:
  episode = Episode(*(tensor.numpy() for tensor in episode))
  values = [tensor.numpy().item() for tensor in info[:1] + info[2:]]
  return episode, EpisodeInfo(values[0], info.policy.numpy().decode(), *values[1:])


def check_size(folder: str | os.PathLike, shard: Shard) -> None:
  """Checks cheaply that a shard is there and as long as the manifest says.

  Raises:
    CorruptShardError: if not.
  """
  path = Path(folder) / shard.file
  if not path.exists():
    raise CorruptShardError(path, 0, 0, "the file is missing")
  size = path.stat().st_size
  if size != shard.bytes:
    end, count = 0, 0
    for offset, record in () if rows.is_rows(shard) else _read_records(path):
      end, count = offset + len(record) + 16, count + 1  # Raised where a record is cut.
    raise CorruptShardError(path, count, end, f"the file has {size} bytes, not {shard.bytes}")
  if size < shard.num_steps:
    raise CorruptShardError(path, 0, 0, f"{size} bytes cannot be {shard.num_steps} steps")


def shards_there(folder: str | os.PathLike, manifest: Manifest) -> tuple[Shard, ...]:
  """Those of the shards whose files have not been removed.

  Raises:
    CorruptShardError: if one has not the size that the manifest says.
  """
  there = tuple(shard for shard in manifest.shards if (Path(folder) / shard.file).exists())
  for shard in there:
    check_size(folder, shard)
  return there


def check_records(folder: str | os.PathLike, shard: Shard) -> None:
  """Reads a shard whole and checks every record and the checksum.

  Raises:
    CorruptShardError: at the first bad record.
  """
  path = Path(folder) / shard.file
  check_size(folder, shard)
  if rows.is_rows(shard):
    rows.check(folder, shard, load_manifest(folder))
    return
  infos = tuple(info for _, info in read_episodes(folder, [shard]))
  if infos != shard.episodes or files.checksum(path) != shard.sha256:
    raise CorruptShardError(path, 0, 0, "the file is not the one that the manifest describes")


def find_corrupt(folder: str | os.PathLike) -> list[CorruptShardError]:
  """Reads a dataset folder whole; returns what is wrong with it, one error per bad shard."""
  errors = []
  for shard in load_manifest(folder).shards:
    try:
      check_records(folder, shard)
    except CorruptShardError as error:
      errors.append(error)
  return errors


def verify(folder: str | os.PathLike) -> Manifest:
  """Reads a dataset folder whole and returns its manifest.

  Raises:
    CorruptShardError: at the first bad record.
  """
  manifest = load_manifest(folder)
  for shard in manifest.shards:
    check_records(folder, shard)
  return manifest


def repair(folder: str | os.PathLike) -> list[CorruptShardError]:
  """Drops the bad shards of a dataset folder and keeps the good ones; returns what was wrong."""
  with locked(folder):
    errors = find_corrupt(folder)
    bad = {error.path.name for error in errors}
    manifest = load_manifest(folder)
    shards = tuple(shard for shard in manifest.shards if shard.file not in bad)
    if bad:
      save_manifest(folder, manifest._replace(shards=shards))
    remove_orphans(folder, manifest._replace(shards=shards))
    return errors


def _read_records(path: Path) -> Iterator[tuple[int, bytes]]:
  """Yields `(offset, record)`; 12 bytes of length and its checksum before, 4 of checksum after."""
  offset, index = 0, 0
  try:
    for record in tf.data.TFRecordDataset(str(path), buffer_size=1 << 20).as_numpy_iterator():
      yield offset, record
      offset, index = offset + 12 + len(record) + 4, index + 1
  except tf.errors.DataLossError as error:
    reason = "truncated" if "truncated" in error.message else "its checksum does not match"
    raise CorruptShardError(path, index, offset, reason) from error


@contextlib.contextmanager
def locked(folder: str | os.PathLike) -> Iterator[None]:
  """Keeps other processes from writing to a folder.

  Raises:
    RuntimeError: if one is writing.
  """
  lock = _lock(Path(folder))
  try:
    yield
  finally:
    os.close(lock)


def _lock(folder: Path) -> int:
  """Takes the folder's lock, which ends with the process however that ends."""
  descriptor = os.open(folder, os.O_RDONLY)
  try:
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
  except BlockingIOError:
    os.close(descriptor)
    raise RuntimeError(f"Another process is writing to {folder}; wait for it, or end it.") from None
  return descriptor


def remove_orphans(folder: str | os.PathLike, manifest: Manifest) -> None:
  """Removes what a killed writer left behind."""
  folder = Path(folder)
  known = {shard.file for shard in manifest.shards}
  for path in [*folder.glob("shard-*"), *folder.glob(".*.tmp")]:
    if path.name not in known:
      path.unlink()
