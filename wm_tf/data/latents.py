"""What is made of rollouts once and read in every epoch: posteriors, and decoded frames.

Both are dataset folders of their own, with a manifest, and a file of rows (`rows`) for each shard.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from wm_tf.core import Episode
from wm_tf.data import rollouts, rows
from wm_tf.data.manifest import CorruptManifestError, Manifest, Shard


def write_latents(
  folder_in: str | os.PathLike,
  folder_out: str | os.PathLike,
  encode_fn: Callable[[np.ndarray], Any],
  *,
  fingerprint: str,
  batch_size: int = 128,
  on_progress: Callable[[int, int], None] | None = None,
) -> Manifest:
  """Copies a dataset folder with the encoder's posteriors in place of the frames.

  What was encoded before, by the same encoder from the same shards, is kept; anything else in
  `folder_out`, damaged files too as far as their sizes tell, is made anew. A killed call goes on
  after the last whole shard. A shard's frames are in memory at a time.

  Args:
    folder_in: dataset folder with frames.
    folder_out: where to write.
    encode_fn: maps `uint8[batch_size, 64, 64, 3]` to `float32[batch_size, 2 Z]` (`loc` and
      `log_scale`, concatenated).
    fingerprint: names the encoder's weights, such as their checksum.
    batch_size: frames in a call of `encode_fn`.
    on_progress: called with (episodes encoded, episodes in all).

  Returns:
    The manifest of `folder_out`.

  Raises:
    ValueError: if `folder_in` does not hold frames, or a posterior is not finite.
    CorruptShardError: at a bad record of `folder_in`.
  """

  def encoded(episodes: Iterator[Episode]) -> Iterator[Episode]:
    episodes = list(episodes)
    frames = np.concatenate([episode.observation for episode in episodes])
    latents = _encode(encode_fn, frames, batch_size)
    if not np.isfinite(latents).all():
      raise ValueError(f"The encoder makes NaN or infinity of frames in {folder_in}.")
    ends = np.cumsum([len(episode.observation) for episode in episodes])[:-1]
    for episode, observation in zip(episodes, np.split(latents, ends), strict=True):
      yield episode._replace(observation=observation)

  return _write(folder_in, folder_out, encoded, fingerprint, on_progress)


def cache_frames(
  folder_in: str | os.PathLike,
  folder_out: str | os.PathLike,
  *,
  on_progress: Callable[[int, int], None] | None = None,
) -> Manifest:
  """Copies a dataset folder with its frames decoded: 12 KB each, to be removed after use.

  Args:
    folder_in: dataset folder with frames.
    folder_out: where to write; what it holds is treated as by `write_latents`.
    on_progress: called with (episodes decoded, episodes in all).

  Returns:
    The manifest of `folder_out`.

  Raises:
    ValueError, CorruptShardError: as `write_latents`.
  """
  return _write(folder_in, folder_out, lambda episodes: episodes, "", on_progress)


def _write(
  folder_in: str | os.PathLike,
  folder_out: str | os.PathLike,
  convert_fn: Callable[[Iterator[Episode]], Iterator[Episode]],
  fingerprint: str,
  on_progress: Callable[[int, int], None] | None,
) -> Manifest:
  """Copies a dataset folder as rows; `convert_fn` makes of a shard's episodes what is written."""
  source = rollouts.load_manifest(folder_in)
  if source.observation_dtype != "uint8" or any(map(rows.is_rows, source.shards)):
    raise ValueError(f"{folder_in} does not hold frames as they were collected: nothing to encode.")
  folder_out = Path(folder_out)
  folder_out.mkdir(parents=True, exist_ok=True)
  with rollouts.locked(folder_out):
    kept = _to_keep(source, folder_out, fingerprint)
    made = source._replace(fingerprint=fingerprint, shards=kept, skipped=())
    rollouts.remove_orphans(folder_out, made)
    for shard in source.shards[len(made.shards) :]:
      episodes = convert_fn(episode for episode, _ in rollouts.read_episodes(folder_in, [shard]))
      first = next(episodes)
      made = made._replace(
        observation_shape=first.observation.shape[1:],
        observation_dtype=str(first.observation.dtype),
      )
      written = rows.write_shard(
        folder_out / Path(shard.file).with_suffix(rows.SUFFIX),
        map(rows.align, itertools.chain([first], episodes)),
        made,
        shard._replace(source=shard.sha256),
      )
      made = made._replace(shards=(*made.shards, written))
      rollouts.save_manifest(folder_out, made)
      if on_progress:
        on_progress(len(made.episodes), len(source.episodes))
  return rollouts.load_manifest(folder_out)


def _to_keep(source: Manifest, folder: Path, fingerprint: str) -> tuple[Shard, ...]:
  """Returns the shards of `folder` that can stay, and forgets the rest of it."""
  try:
    found = rollouts.load_manifest(folder)
  except (FileNotFoundError, CorruptManifestError):
    found = source._replace(shards=())
  kept = []
  for shard, made in zip(source.shards, found.shards, strict=False):
    try:
      rollouts.check_size(folder, made)
    except rollouts.CorruptShardError:
      break
    if found.fingerprint != fingerprint or made.source != shard.sha256 or not rows.is_rows(made):
      break
    kept.append(made)
  if not kept:
    (folder / rollouts.MANIFEST).unlink(missing_ok=True)
  elif len(kept) < len(found.shards):
    rollouts.save_manifest(folder, found._replace(shards=tuple(kept)))
  return tuple(kept)


def _encode(encode_fn, frames: np.ndarray, batch_size: int) -> np.ndarray:
  """Encodes in batches of one size, the last one padded, so that `encode_fn` is traced once."""
  latents = []
  for start in range(0, len(frames), batch_size):
    batch = frames[start : start + batch_size]
    padded = np.concatenate([batch, np.zeros((batch_size - len(batch), *batch.shape[1:]), "u1")])
    latents.append(np.asarray(encode_fn(padded), np.float32)[: len(batch)])
  return np.concatenate(latents)
