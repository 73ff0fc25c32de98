"""Converts episodes to records (`tf.train.Example`) and back, and reads files of records.

An observation of one array has the keys `observation` (its bytes, zlib level 1) and
`observation_shape`. An observation of several parts has `observation/<name>` and
`observation_shape/<name>` for each part.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import tensorflow as tf

from wm_tf import files
from wm_tf.core import Episode
from wm_tf.data import rows
from wm_tf.data.manifest import CorruptShardError, EpisodeInfo, Manifest, Shard
from wm_tf.data.observations import map_arrays, pack, unpack


def _keys(name: str) -> tuple[str, str]:
  """Returns the keys of an array of an observation: for its bytes and for its shape."""
  suffix = f"/{name}" if name else ""
  return f"observation{suffix}", f"observation_shape{suffix}"


def _floats(values) -> tf.train.Feature:
  values = np.asarray(values, np.float32).ravel()
  return tf.train.Feature(float_list=tf.train.FloatList(value=values))


def _ints(values) -> tf.train.Feature:
  values = np.asarray(values, np.int64).ravel()
  return tf.train.Feature(int64_list=tf.train.Int64List(value=values))


def _bytes(value: bytes) -> tf.train.Feature:
  return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))


def encode_episode(episode: Episode, info: EpisodeInfo) -> bytes:
  """Serializes an episode; the inverse of `decode_episode`.

  Args:
    episode: NumPy arrays `[T, ...]`.
    info: the episode's information.

  Returns:
    A serialized `tf.train.Example`.
  """
  features = {}
  for name, array in unpack(episode.observation).items():
    data_key, shape_key = _keys(name)
    array = np.ascontiguousarray(array)
    features[data_key] = _bytes(zlib.compress(array, 1))
    features[shape_key] = _ints(array.shape)
  features |= {
    "action": _floats(episode.action),
    "reward": _floats(episode.reward),
    "is_first": _ints(episode.is_first),
    "is_last": _ints(episode.is_last),
    "is_terminal": _ints(episode.is_terminal),
    "seed": _ints(info.seed),
    "policy": _bytes(info.policy.encode()),
    "iteration": _ints(info.iteration),
    "episode_return": _floats(info.episode_return),
    "frames": _ints(info.frames),
  }
  example = tf.train.Example(features=tf.train.Features(feature=features))
  return example.SerializeToString(deterministic=True)


def parse_episode(record: tf.Tensor, manifest: Manifest) -> tuple[Episode, EpisodeInfo]:
  """Parses a record into tensors. Can be used in a graph.

  Args:
    record: `string[]`, a serialized `tf.train.Example`.
    manifest: the manifest of the record's folder; gives the shapes and dtypes.

  Returns:
    An episode `[T, ...]` and its information, as tensors.
  """

  def one(dtype):
    return tf.io.FixedLenFeature([], dtype)

  def per_step(dtype, *shape):
    return tf.io.FixedLenSequenceFeature(shape, dtype, allow_missing=True)

  observation_features = {}
  for name in manifest.arrays:
    data_key, shape_key = _keys(name)
    observation_features |= {data_key: one(tf.string), shape_key: per_step(tf.int64)}
  example = tf.io.parse_single_example(
    record,
    observation_features
    | {
      "action": per_step(tf.float32, manifest.action_size),
      "reward": per_step(tf.float32),
      "is_first": per_step(tf.int64),
      "is_last": per_step(tf.int64),
      "is_terminal": per_step(tf.int64),
      "seed": one(tf.int64),
      "policy": one(tf.string),
      "iteration": one(tf.int64),
      "episode_return": one(tf.float32),
      "frames": one(tf.int64),
    },
  )
  observation = {}
  for name, (shape, dtype) in manifest.arrays.items():
    data_key, shape_key = _keys(name)
    raw = tf.io.decode_compressed(example[data_key], "ZLIB")
    values = tf.reshape(tf.io.decode_raw(raw, tf.as_dtype(dtype)), example[shape_key])
    observation[name] = tf.ensure_shape(values, [None, *shape])
  episode = Episode(
    observation=pack(observation),
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


def decode_episode(
  record: bytes, manifest: Manifest, path: Path, index: int, offset: int
) -> tuple[Episode, EpisodeInfo]:
  """Parses a record into NumPy arrays and Python numbers.

  Args:
    record: a serialized `tf.train.Example`.
    manifest: the manifest of the record's folder.
    path: the file that contains the record, for error messages.
    index: the record's index in the file, for error messages.
    offset: the record's position in bytes, for error messages.

  Returns:
    An episode `[T, ...]` and its information.

  Raises:
    CorruptShardError: if the record is not an episode of such a folder.
  """
  try:
    episode, info = parse_episode(tf.constant(record), manifest)
    policy = info.policy.numpy().decode()
  # The policy's name, or the record that TensorFlow's message quotes, may not be valid UTF-8.
  except (tf.errors.InvalidArgumentError, tf.errors.DataLossError, UnicodeError) as error:
    raise CorruptShardError(path, index, offset, f"not an episode ({error})") from error
  observation = map_arrays(lambda tensor: tensor.numpy(), episode.observation)
  episode = Episode(observation, *(tensor.numpy() for tensor in episode[1:]))
  seed, *others = (tensor.numpy().item() for tensor in info[:1] + info[2:])
  return episode, EpisodeInfo(seed, policy, *others)


def num_steps(episode: Episode) -> set[int]:
  """Returns the set of the lengths of an episode's arrays; a valid episode has one length.

  Args:
    episode: arrays `[T, ...]`.
  """
  observation = unpack(episode.observation).values()
  return {len(values) for values in (*observation, *episode[1:])}


def read_records(path: Path) -> Iterator[tuple[int, bytes]]:
  """Reads the records of a file.

  Args:
    path: a TFRecord file.

  Yields:
    `(offset, record)`, where `offset` is the record's position in bytes.

  Raises:
    CorruptShardError: at the first bad record.
  """
  offset, index = 0, 0
  try:
    for record in tf.data.TFRecordDataset(str(path), buffer_size=1 << 20).as_numpy_iterator():
      yield offset, record
      # The length and its checksum take 12 bytes before a record, the data's checksum 4 after it.
      offset, index = offset + 12 + len(record) + 4, index + 1
  except tf.errors.DataLossError as error:
    reason = "truncated" if "truncated" in error.message else "its checksum does not match"
    raise CorruptShardError(path, index, offset, reason) from error


def check_size(folder: str | os.PathLike, shard: Shard) -> None:
  """Checks that a shard exists and has the size in the manifest. A file of that size is not read.

  Args:
    folder: the dataset folder.
    shard: one of its shards.

  Raises:
    CorruptShardError: if the check fails.
  """
  path = files.user_path(folder) / shard.file
  if not path.exists():
    raise CorruptShardError(path, 0, 0, "the file is missing")
  size = path.stat().st_size
  if size != shard.bytes:
    end, count = 0, 0
    for offset, record in () if rows.is_rows(shard) else read_records(path):
      end, count = offset + len(record) + 16, count + 1  # `read_records` raises if one is cut off.
    raise CorruptShardError(path, count, end, f"the file has {size} bytes, not {shard.bytes}")
  if size < shard.num_steps:
    raise CorruptShardError(path, 0, 0, f"{size} bytes cannot be {shard.num_steps} steps")


def existing_shards(folder: str | os.PathLike, manifest: Manifest) -> tuple[Shard, ...]:
  """Returns the shards whose files have not been removed.

  Args:
    folder: the dataset folder.
    manifest: the folder's manifest.

  Raises:
    CorruptShardError: if the size of a file differs from the manifest.
  """
  folder = files.user_path(folder)
  existing = tuple(shard for shard in manifest.shards if (folder / shard.file).exists())
  for shard in existing:
    check_size(folder, shard)
  return existing
