"""`tf.data` datasets from dataset folders, in the time alignment used for learning.

On disk, a step contains an observation and the action taken *at* it (`core.Episode`). A model
learns from the action that *led to* the observation (`core.Batch`). Only `align` converts between
the two.

Observations are arrays, or dicts of arrays by part, as described by an `ObservationSpec`. Folders
of cached posteriors (`write_latents`) yield `core.Embedded` instead of observations.

Each call makes one epoch. Its order is drawn before any data is read and depends only on `(seed,
epoch)`. To continue an epoch that was interrupted after n batches, use `dataset(..., epoch=epoch)`
and `.skip(n)`, which does not read the first n batches. Folders of rows (`write_latents`,
`cache_frames`) are read in any order and shuffled as a whole. Collected rollouts are decoded one
episode at a time, and 32 MiB of them are shuffled at a time.
"""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from wm_tf.data.batches import Windows, batched
from wm_tf.data.latents import cache_frames as cache_frames
from wm_tf.data.latents import write_latents as write_latents
from wm_tf.data.rollouts import EpisodeInfo
from wm_tf.data.rows import align as align
from wm_tf.data.sources import Folders, Source
from wm_tf.data.sources import check_amounts as check_amounts
from wm_tf.data.sources import held_out_seeds as held_out_seeds


def select_episodes(
  folders: Folders, split: str = "all", held_out_fraction: float = 0.1
) -> list[EpisodeInfo]:
  """Returns the manifests' information about the episodes of a split.

  Args:
    folders: dataset folders.
    split: `"train"`, `"held_out"` or `"all"`.
    held_out_fraction: see `held_out_seeds`.
  """
  return Source.open(folders, split, held_out_fraction).episodes


def observations_dataset(
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
  """Makes one epoch of single observations: each observation of the split once.

  Args:
    folders: dataset folders, as collected or decoded (`cache_frames`).
    batch_size: B.
    seed: draws the order; None keeps the order of the folders.
    epoch: the number of the epoch.
    split: `"train"`, `"held_out"` or `"all"`.
    held_out_fraction: see `held_out_seeds`.
    shuffle_buffer: observations that are decoded and shuffled at a time; by default, as many as fit
      in 32 MiB. Decoded folders are shuffled as a whole.
    drop_remainder: whether to drop a last batch that is smaller, unless an epoch can hold less
      than B.

  Returns:
    A dataset of observations `[B, ...]`, such as `uint8[B, 64, 64, 3]` or a dict of arrays, with
    known cardinality.

  Raises:
    ValueError: if the folders differ in kind, or hold no episode of the split.
    CorruptShardError: if a shard is missing or truncated; while iterating, if one is damaged.
  """
  source = Source.open(folders, split, held_out_fraction)
  steps = source.steps
  episode = np.repeat(np.arange(len(steps), dtype=np.int32), steps)
  first = np.concatenate([np.arange(count, dtype=np.int32) for count in steps])
  windows = Windows(episode, first, np.ones_like(first))
  rng = None if seed is None else np.random.default_rng([seed, epoch])
  return batched(
    source,
    windows,
    None,
    batch_size=batch_size,
    rng=rng,
    shuffle_buffer=shuffle_buffer,
    drop_remainder=drop_remainder,
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
  """Makes one epoch of sequences in arrival alignment.

  Episodes are cut every `sequence_length - 1` steps, starting at a random first cut. The
  observation at a cut belongs to both sides, so that every transition is in exactly one sequence.
  Sequences at the ends of an episode can be shorter; they are padded and masked.

  Args:
    folders: dataset folders with observations or with cached posteriors (`write_latents`).
    sequence_length: T, at least 2.
    batch_size: B.
    seed: draws the order and the cuts; None keeps the order of the folders and cuts each episode
      from its first step.
    epoch: the number of the epoch.
    split: `"train"`, `"held_out"` or `"all"`.
    held_out_fraction: see `held_out_seeds`.
    shuffle_buffer: sequences that are decoded and shuffled at a time; by default, as many as fit in
      32 MiB. Folders of rows are shuffled as a whole.
    drop_remainder: whether to drop a last batch that is smaller, unless an epoch can hold less
      than B.

  Returns:
    A dataset of `Batch` `[B, T, ...]`, with known cardinality.

  Raises:
    ValueError: if the folders differ in kind, or hold no episode of the split.
    CorruptShardError: if a shard is missing or truncated; while iterating, if one is damaged.
  """
  if sequence_length < 2:
    raise ValueError(f"sequence_length must be at least 2, not {sequence_length}.")
  source = Source.open(folders, split, held_out_fraction)
  rng = None if seed is None else np.random.default_rng([seed, epoch])
  stride = sequence_length - 1
  last = source.steps - 1
  cut = np.full_like(last, stride) if rng is None else rng.integers(1, stride + 1, len(last))
  # The number of cuts before the last step, plus one.
  num_windows = 1 - np.minimum(0, (cut - last) // stride)
  fewest = int(np.sum(1 - np.minimum(0, (stride - last) // stride)))
  episode = np.repeat(np.arange(len(last)), num_windows)
  number = np.arange(len(episode)) - np.repeat(np.cumsum(num_windows) - num_windows, num_windows)
  begin = np.maximum(0, cut[episode] + (number - 1) * stride) * (number > 0)
  end = np.minimum(last[episode], cut[episode] + number * stride)
  windows = Windows(episode, begin, end - begin + 1)
  return batched(
    source,
    windows,
    sequence_length,
    batch_size=batch_size,
    rng=rng,
    shuffle_buffer=shuffle_buffer,
    drop_remainder=drop_remainder,
    fewest=fewest,
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
    folders: dataset folders with observations or with cached posteriors.
    batch_size: B; the last batch may be smaller.
    num_steps: T; longer episodes are truncated. None for the longest episode in the shards used.
    seed: draws the order; None keeps the order of the folders.
    epoch: the number of the epoch.
    split: `"train"`, `"held_out"` or `"all"`.
    held_out_fraction: see `held_out_seeds`.

  Returns:
    A dataset of `Batch` `[B, T, ...]`, with known cardinality.

  Raises:
    ValueError: if the folders differ in kind, or have no episode in the split.
    CorruptShardError: if a shard is missing or truncated; during iteration, if one is damaged.
  """
  source = Source.open(folders, split, held_out_fraction)
  rng = None if seed is None else np.random.default_rng([seed, epoch])
  length = num_steps or max(info.steps for _, shard, _ in source.shards for info in shard.episodes)
  episode = np.arange(len(source.steps), dtype=np.int32)
  windows = Windows(episode, np.zeros_like(episode), np.minimum(source.steps, length))
  return batched(source, windows, length, batch_size=batch_size, rng=rng)
