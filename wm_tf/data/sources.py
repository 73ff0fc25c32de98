"""Chooses the episodes of a split in dataset folders, and checks that there are enough of them."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from wm_tf import files
from wm_tf.data import rollouts
from wm_tf.data.rollouts import EpisodeInfo, Manifest, Shard
from wm_tf.data.rows import is_rows

Folders = str | os.PathLike | Sequence[str | os.PathLike]
SPLITS = ("train", "held_out", "all")
_MUST_AGREE = (
  "action_size", "observation_shape", "observation_dtype", "observation_parts", "fingerprint",
)  # fmt: skip


def held_out_seeds(seeds: Iterable[int], fraction: float) -> set[int]:
  """Chooses the episodes to hold out, by a hash of their seeds.

  An episode stays in its split when data is added or removed, independent of its folder. There are
  two exceptions if there are at least two episodes and the fraction is between 0 and 1: if no hash
  is below `fraction`, the episode with the lowest hash is held out; if all are, the one with the
  highest hash is not.

  Args:
    seeds: the seeds of all episodes.
    fraction: the expected share to hold out; 0 holds out none, 1 all.

  Returns:
    The seeds that are held out.
  """
  hashes = {
    seed: int.from_bytes(hashlib.sha256(str(seed).encode()).digest()[:8], "big") / 2**64
    for seed in seeds
  }
  chosen = {seed for seed, value in hashes.items() if value < fraction}
  if len(hashes) > 1 and 0 < fraction < 1:
    if not chosen:
      chosen = {min(hashes, key=hashes.get)}
    elif len(chosen) == len(hashes):
      chosen.remove(max(hashes, key=hashes.get))
  return chosen


def num_sequences(steps: int, sequence_length: int) -> int:
  """Returns the largest number of sequences that an episode can be cut into.

  Args:
    steps: the number of rows of the episode.
    sequence_length: T, at least 2.
  """
  return 1 + -(-max(0, steps - 2) // (sequence_length - 1))


def check_amounts(
  seeds: Iterable[int],
  max_steps: int,
  *,
  batch_size: int,
  sequence_length: int | None = None,
  held_out_fraction: float = 0.1,
  episodes_name: str = "num_episodes",
  batch_size_name: str = "batch_size",
  held_out_name: str = "held_out_fraction",
) -> None:
  """Checks before collection that the episodes can be split and can fill a training batch.

  It rejects only settings that must fail: episodes may be shorter than `max_steps`.

  Args:
    seeds: the seeds of all episodes to collect.
    max_steps: the number of rows of the longest possible episode: decisions + 1.
    batch_size: B of training.
    sequence_length: T of training on sequences; None for single observations.
    held_out_fraction: see `held_out_seeds`.
    episodes_name: the name of the number of episodes in error messages.
    batch_size_name: the name of `batch_size` in error messages.
    held_out_name: the name of `held_out_fraction` in error messages.

  Raises:
    ValueError: if no episode is left to train on or to hold out, or if the longest possible
      episodes hold less than one batch.
  """
  seeds = list(seeds)
  held_out = held_out_seeds(seeds, held_out_fraction)
  if len(seeds) < 2:
    raise ValueError(
      f"{episodes_name} = {len(seeds)} leaves no episode to train on beside one that is held out; "
      f"set {episodes_name} to at least 2."
    )
  if not 0 < len(held_out) < len(set(seeds)):
    raise ValueError(
      f"{held_out_name} = {held_out_fraction} holds out {len(held_out)} of {len(seeds)} episodes; "
      f"set {held_out_name} above 0 and below 1."
    )
  num_train = len(seeds) - len(held_out)
  found, kind = num_train * max_steps, "observations"
  if sequence_length is not None:
    kind = f"sequences of {sequence_length} steps"
    found = num_train * num_sequences(max_steps, sequence_length)
  if found < batch_size:
    raise ValueError(
      f"{num_train} episodes to train on, of at most {max_steps - 1} decisions, hold at most "
      f"{found} {kind}, fewer than {batch_size_name} = {batch_size}; lower {batch_size_name} to at "
      f"most {found}, or raise {episodes_name}."
    )


class Source(NamedTuple):
  """The shards of some folders, each with a mask of the episodes that belong to the split.

  Attributes:
    manifest: the manifest of the first folder; all folders agree on shapes and dtypes.
    shards: `(folder, shard, bool[episodes of the shard])`.
    split: one of `SPLITS`.
  """

  manifest: Manifest
  shards: list[tuple[Path, Shard, np.ndarray]]
  split: str

  @classmethod
  def open(cls, folders: Folders, split: str, held_out_fraction: float) -> Source:
    """Reads the manifests of folders and chooses the episodes of a split.

    Args:
      folders: one or several dataset folders.
      split: `"train"`, `"held_out"` or `"all"`.
      held_out_fraction: see `held_out_seeds`.

    Returns:
      The source.

    Raises:
      ValueError: if the folders differ in kind, or have no episode in the split.
      CorruptShardError: if a shard is missing or truncated.
    """
    if split not in SPLITS:
      raise ValueError(f'split must be "train", "held_out" or "all", not {split!r}.')
    if isinstance(folders, (str, os.PathLike)):
      folders = [folders]
    folders = [files.user_path(folder) for folder in folders]
    loaded = {folder: rollouts.load_manifest(folder) for folder in dict.fromkeys(folders)}
    manifests = [loaded[folder] for folder in folders]
    for folder, manifest in zip(folders, manifests, strict=True):
      for name in _MUST_AGREE:
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
          shards.append((folder, shard, np.array(keep)))
    if not shards:
      raise ValueError(
        f"No episodes for split {split!r} among the {len(everything)} of "
        f"{', '.join(map(str, folders)) or 'no folders'}; collect more, or change "
        f"held_out_fraction = {held_out_fraction}."
      )
    return cls(manifests[0], shards, split)

  @property
  def episodes(self) -> list[EpisodeInfo]:
    """The episodes of the split."""
    kept = [zip(shard.episodes, keep, strict=True) for _, shard, keep in self.shards]
    return [info for pairs in kept for info, keeps in pairs if keeps]

  @property
  def steps(self) -> np.ndarray:
    """`int32[E]`, the number of steps of every episode of the split."""
    return np.array([info.steps for info in self.episodes], np.int32)

  @property
  def decodes(self) -> bool:
    """Whether some of the shards are records, which must be decoded one episode at a time."""
    return not all(is_rows(shard) for _, shard, _ in self.shards)
