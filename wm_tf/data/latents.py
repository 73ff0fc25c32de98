"""Datasets of what an encoder makes of the frames, so that each frame is encoded once."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from wm_tf.data import rollouts
from wm_tf.data.manifest import CorruptManifestError
from wm_tf.data.rollouts import Manifest


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
    ValueError: if `folder_in` does not hold frames.
    CorruptShardError: at a bad record of `folder_in`.
  """
  manifest = rollouts.load_manifest(folder_in)
  if manifest.observation_dtype != "uint8":
    raise ValueError(f"{folder_in} does not hold frames: nothing to encode.")
  kept = _latents_to_keep(manifest, Path(folder_out), fingerprint)
  num_done = sum(len(shard.episodes) for shard in manifest.shards[:kept])
  writer = None
  try:
    for shard in manifest.shards[kept:]:
      episodes = list(rollouts.read_episodes(folder_in, [shard]))
      frames = np.concatenate([episode.observation for episode, _ in episodes])
      latents = _encode(encode_fn, frames, batch_size)
      if writer is None:
        header = manifest._replace(
          observation_shape=latents.shape[1:], observation_dtype="float32", fingerprint=fingerprint
        )
        # More than there are, so that shards are cut where those of `folder_in` are.
        limit = len(manifest.episodes) + 1
        writer = rollouts.ShardWriter(folder_out, header, episodes_per_shard=limit)
      rows = np.cumsum([info.steps for _, info in episodes])[:-1]
      for (episode, info), observation in zip(episodes, np.split(latents, rows), strict=True):
        writer.add(episode._replace(observation=observation), info)
      writer.flush(source=shard.sha256)
      num_done += len(episodes)
      if on_progress:
        on_progress(num_done, len(manifest.episodes))
  finally:
    if writer is not None:
      writer.close(discard=True)
  return rollouts.load_manifest(folder_out)


def _latents_to_keep(manifest: Manifest, folder: Path, fingerprint: str) -> int:
  """Returns how many shards of `folder` can stay, and forgets the rest of it."""
  if not (folder / rollouts.MANIFEST).exists():
    return 0
  try:
    found = rollouts.load_manifest(folder)
  except CorruptManifestError:
    found = None
  if found is None or found.fingerprint != fingerprint:
    (folder / rollouts.MANIFEST).unlink()
    return 0
  kept = 0
  for shard, latents in zip(manifest.shards, found.shards, strict=False):
    try:
      rollouts.check_size(folder, latents)
    except rollouts.CorruptShardError:
      break
    if latents.source != shard.sha256:
      break
    kept += 1
  if kept < len(found.shards):
    rollouts.save_manifest(folder, found._replace(shards=found.shards[:kept]))
  return kept


def _encode(encode_fn, frames: np.ndarray, batch_size: int) -> np.ndarray:
  """Encodes in batches of one size, the last one padded, so that `encode_fn` is traced once."""
  latents = []
  for start in range(0, len(frames), batch_size):
    batch = frames[start : start + batch_size]
    padded = np.concatenate([batch, np.zeros((batch_size - len(batch), *batch.shape[1:]), "u1")])
    latents.append(np.asarray(encode_fn(padded), np.float32)[: len(batch)])
  return np.concatenate(latents)
