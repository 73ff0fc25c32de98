"""Streaming `tf.data` from dataset folders, and the time alignment that everything learns in.

On disk a row holds a frame and the action taken *at* it (`core.Episode`); a model learns from the
action that *led to* it (`core.Batch`). `align` turns one into the other, and nothing else does.

Each call makes one epoch. Its order depends on `(seed, epoch)` alone, so the rest of an epoch that
was interrupted after n batches is `dataset(..., epoch=epoch).skip(n)`. Frames are never all in
memory: a few shards are read at a time, and shuffle buffers have a size in bytes.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from wm_tf.core import Batch, Episode
from wm_tf.data import rollouts
from wm_tf.data.latents import write_latents as write_latents
from wm_tf.data.rollouts import EpisodeInfo, Manifest, Shard

Folders = str | os.PathLike | Sequence[str | os.PathLike]

_NUM_SHARDS_AT_ONCE = 4
_SHUFFLE_BYTES = 32 << 20


def align(episode: Episode) -> Batch:
  """Turns an episode (tensors, `[T, ...]`) into arrival alignment, `[T, ...]`, all of it valid."""
  shifted = lambda values: tf.concat([tf.zeros_like(values[:1]), values[:-1]], axis=0)
  return Batch(
    observation=episode.observation,
    prev_action=shifted(episode.action),
    reward=shifted(episode.reward),
    discount=1.0 - tf.cast(episode.is_terminal, tf.float32),
    is_first=episode.is_first,
    mask=tf.ones_like(episode.is_first),
  )


def held_out_seeds(seeds: Iterable[int], fraction: float) -> set[int]:
  """Chooses the episodes to hold out, by a hash of their seeds.

  An episode stays on its side as data is added to or taken away, and whichever folder it is in;
  except that when no hash falls below `fraction`, the lowest is held out all the same (if there are
  two episodes at least).
  """
  hashes = {
    seed: int.from_bytes(hashlib.sha256(str(seed).encode()).digest()[:8], "big") / 2**64
    for seed in seeds
  }
  chosen = {seed for seed, value in hashes.items() if value < fraction}
  if not chosen and fraction > 0 and len(hashes) > 1:
    chosen = {min(hashes, key=hashes.get)}
  return chosen


def select_episodes(
  folders: Folders, split: str = "all", held_out_fraction: float = 0.1
) -> list[EpisodeInfo]:
  """Returns what the manifests say of the episodes of a split: `"train"`, `"held_out"`, `"all"`."""
  source = _Source.open(folders, split, held_out_fraction)
  return [info for _, shard, keep in source.shards for info in _kept(shard, keep)]


def frames_dataset(
  folders: Folders,
  *,
  batch_size: int,
  seed: int | None,
  epoch: int = 0,
  split: str = "train",
  held_out_fraction: float = 0.1,
  shuffle_buffer: int | None = None,
  drop_remainder: bool = True,
) -> tf.data.Dataset:
  """Makes one epoch of single frames: every frame of the split once.

  Args:
    folders: dataset folders with frames; for the newest iterations only, pass only those.
    batch_size: B.
    seed: of the order; None for the order of the folders.
    epoch: number of the epoch.
    split: `"train"`, `"held_out"` or `"all"`.
    held_out_fraction: see `held_out_seeds`.
    shuffle_buffer: frames in the shuffle buffer; by default, as many as 32 MiB hold.
    drop_remainder: whether to drop a last batch that is smaller.

  Returns:
    A dataset of `uint8[B, 64, 64, 3]`, of known cardinality.

  Raises:
    ValueError: if the folders do not go together, or hold less than a batch.
    CorruptShardError: if a shard is missing or truncated; while iterating, if one is damaged.
  """
  source = _Source.open(folders, split, held_out_fraction)
  rng = None if seed is None else np.random.default_rng([seed, epoch])
  data = source.records(rng)
  data = data.map(lambda record, _: _parsed(record, source).observation, 2)
  return _batched(
    data.unbatch(), source, source.num_steps, 1, batch_size, rng, shuffle_buffer, drop_remainder
  )


def sequences_dataset(
  folders: Folders,
  *,
  sequence_length: int,
  batch_size: int,
  seed: int | None,
  epoch: int = 0,
  split: str = "train",
  held_out_fraction: float = 0.1,
  shuffle_buffer: int | None = None,
  drop_remainder: bool = True,
) -> tf.data.Dataset:
  """Makes one epoch of sequences, in arrival alignment.

  Episodes are cut at every `sequence_length - 1` steps, beginning at a random one, and the frame at
  a cut belongs to both sides; so every transition from a frame to the next is in exactly one
  sequence. Those at the ends of an episode can be shorter; they are padded and masked.

  Args:
    folders: dataset folders with frames or with cached posteriors (`write_latents`).
    sequence_length: T, at least 2.
    batch_size: B.
    seed: of the order and the cuts; None for the order of the folders, cut from the first frame.
    epoch: number of the epoch.
    split: `"train"`, `"held_out"` or `"all"`.
    held_out_fraction: see `held_out_seeds`.
    shuffle_buffer: sequences in the shuffle buffer; by default, as many as 32 MiB hold.
    drop_remainder: whether to drop a last batch that is smaller.

  Returns:
    A dataset of `Batch`, of known cardinality.

  Raises:
    ValueError: if the folders do not go together, or hold less than a batch.
    CorruptShardError: if a shard is missing or truncated; while iterating, if one is damaged.
  """
  if sequence_length < 2:
    raise ValueError(f"sequence_length must be at least 2, not {sequence_length}.")
  source = _Source.open(folders, split, held_out_fraction)
  rng = None if seed is None else np.random.default_rng([seed, epoch])
  stride = sequence_length - 1
  # One number for each record: its first cut, in [1, stride].
  cuts = [
    np.full(len(shard.episodes), stride)
    if rng is None
    else rng.integers(1, stride + 1, len(shard.episodes))
    for _, shard, _ in source.shards
  ]
  num_windows = sum(
    1 + max(0, -((cut - (info.steps - 1)) // stride))
    for (_, shard, keep), shard_cuts in zip(source.shards, cuts, strict=True)
    for info, cut in zip(_kept(shard, keep), shard_cuts[keep].tolist(), strict=True)
  )

  def windows(record, cut):
    batch = align(_parsed(record, source))
    last = tf.shape(batch.reward, tf.int64)[0] - 1
    inner = tf.range(tf.minimum(cut, last), last, stride)
    bounds = tf.concat([[0], inner, [last]], axis=0)
    return _windows(batch, bounds[:-1], bounds[1:], sequence_length)

  data = source.records(rng, cuts).map(windows, 2).unbatch()
  return _batched(
    data, source, num_windows, sequence_length, batch_size, rng, shuffle_buffer, drop_remainder
  )


def episodes_dataset(
  folders: Folders,
  *,
  batch_size: int = 1,
  num_steps: int | None = None,
  seed: int | None = None,
  epoch: int = 0,
  split: str = "all",
  held_out_fraction: float = 0.1,
) -> tf.data.Dataset:
  """Makes one epoch of whole episodes in arrival alignment, padded to one length and masked.

  Args:
    folders: dataset folders with frames or with cached posteriors.
    batch_size: B; the last batch may be smaller.
    num_steps: T; longer episodes are cut off there. By default that of the longest of the folders.
    seed: of the order; None for the order of the folders.
    epoch: number of the epoch.
    split: `"train"`, `"held_out"` or `"all"`.
    held_out_fraction: see `held_out_seeds`.

  Returns:
    A dataset of `Batch`, of known cardinality.

  Raises:
    ValueError: if the folders do not go together, or hold no such episode.
    CorruptShardError: if a shard is missing or truncated; while iterating, if one is damaged.
  """
  source = _Source.open(folders, split, held_out_fraction)
  rng = None if seed is None else np.random.default_rng([seed, epoch])
  length = num_steps or max(info.steps for _, shard, _ in source.shards for info in shard.episodes)

  def whole(record, _):
    batch = align(_parsed(record, source))
    last = tf.minimum(tf.shape(batch.reward, tf.int64)[0], length) - 1
    return _windows(batch, tf.zeros([1], tf.int64), last[None], length)

  data = source.records(rng).map(whole, 2).unbatch()
  total = sum(int(keep.sum()) for *_, keep in source.shards)
  return _batched(data, source, total, length, batch_size, rng, None, False)


class _Source(NamedTuple):
  """The shards of some folders, with a mask `bool[E]` of the episodes that belong to the split."""

  manifest: Manifest
  shards: list[tuple[Path, Shard, np.ndarray]]

  @classmethod
  def open(cls, folders: Folders, split: str, held_out_fraction: float) -> _Source:
    if split not in ("train", "held_out", "all"):
      raise ValueError(f'split must be "train", "held_out" or "all", not {split!r}.')
    if isinstance(folders, (str, os.PathLike)):
      folders = [folders]
    manifests = [rollouts.load_manifest(folder) for folder in folders]
    for folder, manifest in zip(folders, manifests, strict=True):
      for name in ("action_size", "observation_shape", "observation_dtype", "fingerprint"):
        one, other = getattr(manifests[0], name), getattr(manifest, name)
        if one != other:
          raise ValueError(
            f"{folders[0]} and {folder} cannot be used together: {name} is {one!r} and {other!r}."
          )
    everything = [info.seed for manifest in manifests for info in manifest.episodes]
    held_out = held_out_seeds(everything, held_out_fraction)
    shards = []
    for folder, manifest in zip(folders, manifests, strict=True):
      for shard in manifest.shards:
        keep = [
          split == "all" or (i.seed in held_out) == (split == "held_out") for i in shard.episodes
        ]
        if any(keep):
          rollouts.check_size(folder, shard)
          shards.append((Path(folder), shard, np.array(keep)))
    if not shards:
      raise ValueError(
        f"No episodes for split {split!r} among the {len(everything)} of "
        f"{', '.join(map(str, folders)) or 'no folders'}; collect more, or change "
        f"held_out_fraction = {held_out_fraction}."
      )
    return cls(manifests[0], shards)

  @property
  def num_steps(self) -> int:
    return sum(info.steps for _, shard, keep in self.shards for info in _kept(shard, keep))

  def records(
    self, rng: np.random.Generator | None, values: Sequence[np.ndarray] | None = None
  ) -> tf.data.Dataset:
    """Serialized episodes, in random order of shards, each with its number of `values` (int64)."""
    num_records = max(len(keep) for *_, keep in self.shards)
    table = np.full((len(self.shards), num_records), -1, np.int64)  # -1: not of this split.
    for i, (_, _, keep) in enumerate(self.shards):
      table[i, : len(keep)] = np.where(keep, 0 if values is None else values[i], -1)
    paths = np.array([str(folder / shard.file) for folder, shard, _ in self.shards])
    if rng is not None:
      order = rng.permutation(len(paths))
      paths, table = paths[order], table[order]

    def read(path, row):
      records = tf.data.TFRecordDataset(path, buffer_size=1 << 20)
      return tf.data.Dataset.zip((records, tf.data.Dataset.from_tensor_slices(row))).filter(
        lambda _, value: value >= 0
      )

    data = tf.data.Dataset.from_tensor_slices((paths, table))
    # In order without a seed; else several at once, for a better shuffle.
    return data.interleave(read, cycle_length=1 if rng is None else _NUM_SHARDS_AT_ONCE)


class _Located(tf.data.Dataset):
  """A dataset that names the record when reading one fails. `take` and `skip` keep that."""

  def __init__(self, dataset: tf.data.Dataset, source: _Source):
    self._dataset, self._source = dataset, source
    super().__init__(dataset._variant_tensor)

  def _inputs(self):
    return [self._dataset]

  @property
  def element_spec(self):
    return self._dataset.element_spec

  def take(self, count, name=None):
    return _Located(self._dataset.take(count, name), self._source)

  def skip(self, count, name=None):
    return _Located(self._dataset.skip(count, name), self._source)

  def __iter__(self) -> Iterator:
    if not tf.executing_eagerly():
      return iter(self._dataset)
    return self._iterate()

  def _iterate(self):
    try:
      yield from self._dataset
    except (
      tf.errors.DataLossError,
      tf.errors.InvalidArgumentError,
      tf.errors.NotFoundError,
      UnicodeError,  # A message of TensorFlow's that quotes a record may be no text.
    ):
      for folder, shard, _ in self._source.shards:
        rollouts.check_records(folder, shard)
      raise


def _kept(shard: Shard, keep: np.ndarray) -> list[EpisodeInfo]:
  return [info for info, kept in zip(shard.episodes, keep, strict=True) if kept]


def _parsed(record: tf.Tensor, source: _Source) -> Episode:
  return rollouts.parse_episode(record, source.manifest)[0]


def _windows(batch: Batch, first: tf.Tensor, last: tf.Tensor, length: int) -> Batch:
  """Cuts out `[first, last]` for each of N pairs (`int64[N]`); pads to `[N, length, ...]`."""
  index = first[:, None] + tf.range(length, dtype=tf.int64)
  mask = index <= last[:, None]
  index = tf.where(mask, index, 0)

  def cut(values, padding=0):
    values = tf.gather(values, index)
    wide = tf.reshape(mask, [-1, length] + [1] * (values.shape.rank - 2))
    return tf.where(wide, values, tf.cast(padding, values.dtype))

  return Batch(*map(cut, batch))._replace(discount=cut(batch.discount, 1))


def _batched(
  data: tf.data.Dataset,
  source: _Source,
  num_elements: int,
  length: int,
  batch_size: int,
  rng: np.random.Generator | None,
  shuffle_buffer: int | None,
  drop_remainder: bool,
) -> tf.data.Dataset:
  """Shuffles, batches, prefetches."""
  num_batches = num_elements // batch_size if drop_remainder else -(-num_elements // batch_size)
  if not num_batches:
    raise ValueError(
      f"{num_elements} elements are less than a batch of {batch_size}; collect more, lower "
      "batch_size, or pass drop_remainder=False."
    )
  if rng is not None:
    dtype = np.dtype(source.manifest.observation_dtype)
    size = length * int(np.prod(source.manifest.observation_shape)) * dtype.itemsize
    buffer = min(shuffle_buffer or max(1, _SHUFFLE_BYTES // size), num_elements)
    data = data.shuffle(buffer, seed=int(rng.integers(2**62)), reshuffle_each_iteration=False)
  data = data.batch(batch_size, drop_remainder=drop_remainder)
  data = data.apply(tf.data.experimental.assert_cardinality(num_batches)).prefetch(2)
  options = tf.data.Options()
  options.deterministic = True
  options.autotune.enabled = False  # It would let buffers grow to half of the memory.
  return _Located(data.with_options(options), source)
