"""Datasets that are computed once from rollouts: cached posteriors and decoded observations.

Both are dataset folders with a manifest and a file of rows (`rows`) for each shard.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from wm_tf import files
from wm_tf.core import Embedded, Episode, Nest
from wm_tf.data import observations, rollouts, rows
from wm_tf.data.manifest import CorruptManifestError, Manifest, Shard


def write_latents(
  folder_in: str | os.PathLike,
  folder_out: str | os.PathLike,
  encode_fn: Callable[[Nest], Any],
  *,
  fingerprint: str,
  batch_size: int = 128,
  on_progress: Callable[[int, int], None] | None = None,
) -> Manifest:
  """Copies a dataset folder with an encoder's posteriors instead of the observations.

  Shards in `folder_out` that the same encoder made from the same shards are kept. Other content is
  replaced, including files of the wrong size. An interrupted call continues after the last complete
  shard. The observations of one shard are in memory at a time.

  Args:
    folder_in: the dataset folder with raw observations.
    folder_out: the folder to write.
    encode_fn: maps observations `[batch_size, ...]`, such as `uint8[batch_size, 64, 64, 3]` or a
      dict of arrays, to `float32[batch_size, 2 Z]` (`loc` and `log_scale`, concatenated),
      optionally wrapped in `Embedded`.
    fingerprint: identifies the encoder's weights, for example by their checksum; not empty.
    batch_size: the number of observations in a call of `encode_fn`.
    on_progress: called with (episodes encoded, all episodes).

  Returns:
    The manifest of `folder_out`.

  Raises:
    ValueError: if `fingerprint` is empty, `folder_in` does not contain raw observations, or a
      posterior is not finite.
    CorruptShardError: at a bad record of `folder_in`.
  """
  if not fingerprint:
    raise ValueError("fingerprint must not be empty: it marks a folder of cached posteriors.")

  def encoded(episodes: Iterator[Episode]) -> Iterator[Episode]:
    episodes = list(episodes)
    everything = observations.map_arrays(
      lambda *arrays: np.concatenate(arrays), *(episode.observation for episode in episodes)
    )
    latents = _encode(encode_fn, everything, batch_size)
    if not np.isfinite(latents).all():
      raise ValueError(f"The encoder makes NaN or infinity of observations in {folder_in}.")
    ends = np.cumsum([len(episode.reward) for episode in episodes])[:-1]
    for episode, observation in zip(episodes, np.split(latents, ends), strict=True):
      yield episode._replace(observation=observation)

  return _write(folder_in, folder_out, encoded, fingerprint, on_progress)


def cache_frames(
  folder_in: str | os.PathLike,
  folder_out: str | os.PathLike,
  *,
  on_progress: Callable[[int, int], None] | None = None,
) -> Manifest:
  """Copies a dataset folder with decoded observations.

  A frame `uint8[64, 64, 3]` takes 12 KB, so that the copy should be removed after use.

  Args:
    folder_in: the dataset folder with raw observations.
    folder_out: the folder to write; existing content is treated as by `write_latents`.
    on_progress: called with (episodes decoded, all episodes).

  Returns:
    The manifest of `folder_out`.

  Raises:
    ValueError: if `folder_in` does not contain raw observations.
    CorruptShardError: at a bad record of `folder_in`.
  """
  return _write(folder_in, folder_out, lambda episodes: episodes, "", on_progress)


def _write(
  folder_in: str | os.PathLike,
  folder_out: str | os.PathLike,
  convert_fn: Callable[[Iterator[Episode]], Iterator[Episode]],
  fingerprint: str,
  on_progress: Callable[[int, int], None] | None,
) -> Manifest:
  """Copies a dataset folder as rows; `convert_fn` maps a shard's episodes to those to write."""
  source = rollouts.load_manifest(folder_in)
  if source.is_embedded or any(map(rows.is_rows, source.shards)):
    raise ValueError(
      f"{folder_in} does not hold observations as they were collected: nothing to encode."
    )
  folder_out = files.user_path(folder_out)
  folder_out.mkdir(parents=True, exist_ok=True)
  with files.locked(folder_out):
    kept = _to_keep(source, folder_out, fingerprint)
    made = source._replace(fingerprint=fingerprint, shards=kept, skipped=())
    rollouts.remove_orphans(folder_out, made)
    for shard in source.shards[len(made.shards) :]:
      episodes = convert_fn(episode for episode, _ in rollouts.read_episodes(folder_in, [shard]))
      first = next(episodes)
      if fingerprint:
        shape = first.observation.shape[1:]
        made = made._replace(
          observation_shape=shape, observation_dtype="float32", observation_parts={}
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
  """Returns the shards of `folder` to keep, and removes the others from its manifest."""
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


def _encode(encode_fn: Callable[[Nest], Any], observation: Nest, batch_size: int) -> np.ndarray:
  """Encodes in batches of one size, so that `encode_fn` is traced once; the last one is padded.

  Args:
    encode_fn: see `write_latents`.
    observation: `[N, ...]`.
    batch_size: the number of observations in a call.

  Returns:
    `float32[N, 2 Z]`.
  """
  num = len(next(iter(observations.unpack(observation).values())))
  latents = []
  for start in range(0, num, batch_size):
    count = min(batch_size, num - start)

    def padded(array, start=start, count=count):
      padding = np.zeros((batch_size - count, *array.shape[1:]), array.dtype)
      return np.concatenate([array[start : start + count], padding])

    found = encode_fn(observations.map_arrays(padded, observation))
    if isinstance(found, Embedded):
      found = found.value
    latents.append(np.asarray(found, np.float32)[:count])
  return np.concatenate(latents)
