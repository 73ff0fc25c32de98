"""What there is to read: the episodes of a split, in the shards of dataset folders."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from wm_tf.data import rollouts
from wm_tf.data.rollouts import EpisodeInfo, Manifest, Shard
from wm_tf.data.rows import is_rows

Folders = str | os.PathLike | Sequence[str | os.PathLike]


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


class Source(NamedTuple):
  """The shards of some folders, each with a mask of the episodes that belong to the split."""

  manifest: Manifest
  shards: list[tuple[Path, Shard, np.ndarray]]

  @classmethod
  def open(cls, folders: Folders, split: str, held_out_fraction: float) -> Source:
    if split not in ("train", "held_out", "all"):
      raise ValueError(f'split must be "train", "held_out" or "all", not {split!r}.')
    if isinstance(folders, (str, os.PathLike)):
      folders = [folders]
    loaded = {folder: rollouts.load_manifest(folder) for folder in dict.fromkeys(folders)}
    manifests = [loaded[folder] for folder in folders]
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
  def episodes(self) -> list[EpisodeInfo]:
    """Those of the split."""
    kept = [zip(shard.episodes, keep, strict=True) for _, shard, keep in self.shards]
    return [info for pairs in kept for info, keeps in pairs if keeps]

  @property
  def steps(self) -> np.ndarray:
    """Of every episode of the split, `int32[E]`."""
    return np.array([info.steps for info in self.episodes], np.int32)

  @property
  def decodes(self) -> bool:
    """Whether some of it must be decoded, an episode at a time."""
    return not all(is_rows(shard) for _, shard, _ in self.shards)
