"""Collects episodes into a dataset folder."""

from __future__ import annotations

import collections
import functools
import os
from collections.abc import Callable, Iterable
from typing import Any

from wm_tf import files
from wm_tf.core import Episode
from wm_tf.data import rollouts
from wm_tf.data.env_pool import EnvPool as EnvPool
from wm_tf.data.play import Actor, name_of_policy
from wm_tf.data.play import run_episodes as run_episodes
from wm_tf.data.recording import distinct_seeds, natural, new_manifest, recorded_options
from wm_tf.data.rollouts import EpisodeInfo, Manifest


def _check_existing(
  folder: str | os.PathLike,
  manifest: Manifest,
  options: dict[str, Any],
  seeds: set[int],
  policy_name: str | Callable[[int], str],
  iteration: int,
) -> None:
  """Raises an error if the folder's episodes differ from those that would be collected."""
  if manifest.environment["options"] != options:
    raise ValueError(
      f"{folder} holds rollouts of environment {manifest.environment}, not with options {options}; "
      "collect into another folder or delete this one."
    )
  for info in manifest.episodes:
    if info.seed in seeds:
      expected = name_of_policy(policy_name, info.seed), iteration
      if (info.policy, info.iteration) != expected:
        raise ValueError(
          f"{folder} holds an episode of seed {info.seed} by (policy, iteration) "
          f"{(info.policy, info.iteration)}, not {expected}; use other seeds or another folder."
        )


def collect(
  folder: str | os.PathLike,
  make_env_fn: Callable[[], Any],
  actor: Actor,
  seeds: Iterable[int],
  *,
  policy_name: str | Callable[[int], str],
  iteration: int = 0,
  num_workers: int | None = None,
  episodes_per_shard: int = 16,
  min_decisions: int = 0,
  max_decisions: int | None = None,
  on_progress: Callable[[int, int, EpisodeInfo], None] | None = None,
  timeout: float = 60.0,
) -> Manifest:
  """Plays one episode for each seed that a dataset folder lacks, and adds it to the folder.

  If a call is interrupted, the next call continues after the last complete shard, and the final
  files are the same, byte for byte. A shard whose file was removed is played again and gets the
  same content. At most `episodes_per_shard` (or `num_workers`, if larger) finished episodes are in
  memory.

  Args:
    folder: the dataset folder; created if needed.
    make_env_fn: picklable; builds an environment with `spec_` (see `EnvPool`). If it is a
      `functools.partial`, its keywords are recorded in the manifest as the environment's options.
    actor: chooses the actions.
    seeds: distinct seeds, from 0; episodes are written in this order.
    policy_name: recorded with each episode; may be a function of the seed.
    iteration: recorded with each episode.
    num_workers: the number of environments, each in its own process; None for one for each core.
    episodes_per_shard: episodes in a shard; the last shard may have fewer.
    min_decisions: shorter episodes are not kept; their seeds are added to `Manifest.skipped`.
    max_decisions: see `run_episodes`.
    on_progress: see `run_episodes`.
    timeout: seconds after which a step counts as hung.

  Returns:
    The folder's manifest.

  Raises:
    CorruptShardError: if a shard of the folder is truncated, or is missing and has other seeds.
    ValueError: if the folder contains rollouts of another environment, or episodes of these seeds
      by another policy or iteration; if an option or a seed cannot be recorded; see also
      `run_episodes`.
    WorkerError: if workers keep dying.
  """
  folder, seeds = files.user_path(folder), distinct_seeds(seeds)
  iteration = natural(iteration, "iteration")
  options = recorded_options(getattr(make_env_fn, "keywords", {}))
  done: set[int] = set()
  lost: list[rollouts.Shard] = []
  if (folder / rollouts.MANIFEST).exists():
    manifest = rollouts.load_manifest(folder)
    _check_existing(folder, manifest, options, set(seeds), policy_name, iteration)
    done = {info.seed for info in manifest.episodes} | set(manifest.skipped)
    existing = rollouts.existing_shards(folder, manifest)
    lost = [shard for shard in manifest.shards if shard not in existing]
    for shard in lost:
      if not {info.seed for info in shard.episodes}.issubset(seeds):
        rollouts.check_size(folder, shard)  # Raises an error, because the file is missing.
    if done.issuperset(seeds) and not lost:
      return manifest
  with EnvPool(make_env_fn, num_workers or os.cpu_count() or 1, timeout=timeout) as pool:
    header = new_manifest(pool.spec, options)
    play = functools.partial(
      run_episodes,
      pool,
      actor,
      seeds,
      policy_name=policy_name,
      iteration=iteration,
      max_decisions=max_decisions,
      on_progress=on_progress,
      max_ahead=max(episodes_per_shard, pool.num_workers),
    )
    with rollouts.ShardWriter(folder, header, episodes_per_shard=episodes_per_shard) as writer:
      for shard in lost:
        wanted = [info.seed for info in shard.episodes]
        found = {info.seed: (episode, info) for episode, info in play(done={*seeds} - {*wanted})}
        writer.restore(shard, [found[seed] for seed in wanted])
      order = collections.deque(seed for seed in seeds if seed not in done)
      early: dict[int, tuple[Episode, EpisodeInfo]] = {}
      for episode, info in play(done=done):
        early[info.seed] = (episode, info)
        while order and order[0] in early:
          episode, info = early.pop(order.popleft())
          if info.steps > min_decisions:
            writer.add(episode, info)
          else:
            writer.skip(info.seed)
    return writer.manifest
