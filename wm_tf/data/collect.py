"""Playing episodes: environments in worker processes, a batched actor in this one."""

from __future__ import annotations

import collections
import copy
import functools
import json
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from wm_tf.core import Episode
from wm_tf.data import rollouts
from wm_tf.data.env_pool import EnvPool, Reply, WorkerError
from wm_tf.data.rollouts import EpisodeInfo, Manifest

_logger = logging.getLogger(__name__)


class Actor(Protocol):
  """Chooses actions for several environments at once: an agent, a scripted policy, a server.

  `begin` must make all per-row state anew: `run_episodes` plays several groups of rows, each with
  its own `copy.copy` of the actor that has begun, so that one group's actions are computed while
  another's environments move. (A wrapper does the same to the actor inside it, in its `begin`.)

  What a row does may depend on its own observations and its episode's seed, on nothing else.
  """

  def begin(self, rows: int) -> None:
    """Forgets everything and makes ready for `rows` rows."""

  def act(
    self,
    observation: np.ndarray,
    is_first: np.ndarray,
    seeds: np.ndarray,
    infos: list[dict[str, Any]],
  ) -> np.ndarray:
    """Chooses the next action of every row.

    Args:
      observation: `uint8[B, 64, 64, 3]`.
      is_first: `bool[B]`, true where an episode begins with this frame.
      seeds: `int64[B]`, the seed of each row's episode: the only source of random numbers.
      infos: what the environment said with the frame; `"privileged"` is for scripted policies.

    Returns:
      `float32[B, A]`, in [-1, 1].
    """


class _Row:
  """One row of the pool: the episodes it is to play, and the one that it plays."""

  def __init__(self, index: int):
    self.index = index
    self.queue: collections.deque[tuple[int, int]] = collections.deque()  # (position, seed)
    self.seed: int | None = None  # None while idle.
    self.position = -1
    self.waiting = False
    self.failures = 0

  def begin(self, pool: EnvPool) -> None:
    """Begins the next episode of the queue."""
    self.position, self.seed = self.queue.popleft()
    self.failures = 0
    self.restart(pool)

  def restart(self, pool: EnvPool) -> None:
    """Begins the current episode again."""
    self.frames, self.actions, self.rewards = [], [], []
    self.waiting = True
    pool.reset(self.index, self.seed)

  def receive(self, reply: Reply, keep_frames: bool, max_decisions: int | None) -> bool:
    """Takes the answer to `reset` or `step`; returns whether the episode is over."""
    self.waiting = False
    self.observation, self.info, self.terminated = reply.observation, reply.info, reply.terminated
    if self.actions:
      self.rewards.append(reply.reward)
    if keep_frames:
      self.frames.append(reply.observation)
    return reply.terminated or reply.truncated or len(self.actions) == max_decisions

  def act(self, pool: EnvPool, action: np.ndarray) -> None:
    self.actions.append(action)
    self.waiting = True
    pool.step(self.index, action)

  def finish(self, policy: str, iteration: int) -> tuple[Episode | None, EpisodeInfo]:
    """Returns the episode (None without frames), and becomes idle."""
    steps = len(self.actions) + 1
    info = EpisodeInfo(
      seed=self.seed,
      policy=policy,
      iteration=iteration,
      episode_return=float(self.info["episode_return"]),
      frames=int(self.info["frames"]),
      steps=steps,
    )
    self.seed = None
    if not self.frames:
      return None, info
    first, last = np.arange(steps) == 0, np.arange(steps) == steps - 1
    return Episode(
      observation=np.stack(self.frames),
      action=np.stack([*self.actions, np.zeros_like(self.actions[0])]).astype(np.float32),
      reward=np.array([*self.rewards, 0.0], np.float32),
      is_first=first,
      is_last=last,
      is_terminal=last & self.terminated,
    ), info


def _decide(pool: EnvPool, actor: Actor, rows: Sequence[_Row]) -> None:
  """Lets the actor choose for all rows, and sends the actions of those that play."""
  playing = [row for row in rows if row.seed is not None]
  # Idle rows show what another one sees, as if an episode began there each time: the batch keeps
  # its size (and a compiled actor its trace), and an actor never sees anything unreal.
  shown = [playing[0] if row.seed is None else row for row in rows]
  action = np.asarray(
    actor.act(
      np.stack([row.observation for row in shown]),
      np.array([row.seed is None or not row.actions for row in rows]),
      np.array([row.seed for row in shown], np.int64),
      [row.info for row in shown],
    ),
    np.float32,
  )
  expected = (len(rows), pool.spec.action_size)
  if action.shape != expected or not np.isfinite(action).all():
    raise ValueError(
      f"{type(actor).__name__}.act returned {list(action.shape)} for the episodes of seeds "
      f"{[row.seed for row in shown]}; it must return finite numbers of shape {list(expected)}."
    )
  for row, row_action in zip(rows, np.clip(action, -1.0, 1.0), strict=True):
    if row.seed is not None:
      row.act(pool, row_action)


def run_episodes(
  pool: EnvPool,
  actor: Actor,
  seeds: Iterable[int],
  *,
  policy_name: str | Callable[[int], str] = "",
  iteration: int = 0,
  max_decisions: int | None = None,
  keep_frames: bool = True,
  on_progress: Callable[[int, int, EpisodeInfo], None] | None = None,
  done: Iterable[int] = (),
  max_ahead: int | None = None,
  max_failures: int = 3,
) -> Iterator[tuple[Episode | None, EpisodeInfo]]:
  """Plays one episode for each seed and yields them as they finish.

  The rows move in lockstep in two groups: while one group's environments move, the actor chooses
  for the other, always for all rows of a group. Seed i is played in row i modulo B, so an episode
  depends on its seed, the actor and B, never on timing.

  Args:
    pool: the environments.
    actor: chooses the actions.
    seeds: distinct seeds.
    policy_name: recorded with each episode; may be a function of the seed.
    iteration: recorded with each episode.
    max_decisions: ends an episode after so many decisions; its return is then not the official one.
    keep_frames: whether to yield episodes; else None stands in their place.
    on_progress: called with (episodes finished, episodes in all, the one that finished).
    done: those of the seeds that are not to be played.
    max_ahead: no episode begins while one so many seeds before it has not finished.
    max_failures: worker deaths in a row, within one episode, after which to give up.

  Yields:
    `(episode, info)`, in the order in which they finish.

  Raises:
    WorkerError: if an episode's worker died `max_failures` times.
    ValueError: if the actor's actions are not finite and of shape [B, A], or a seed is repeated.
  """
  seeds, done = [int(seed) for seed in seeds], {int(seed) for seed in done}
  if len(set(seeds)) != len(seeds):
    raise ValueError("The seeds of a collection must be distinct.")
  rows = [_Row(index) for index in range(pool.num_workers)]
  unfinished = []
  for position, seed in enumerate(seeds):
    if seed not in done:
      rows[position % len(rows)].queue.append((position, seed))
      unfinished.append(position)
  total, num_finished = len(unfinished), 0
  unfinished = set(unfinished)
  groups = []
  size = -(-len(rows) // 2)
  for members in (rows[:size], rows[size:]):
    if members:
      # With an odd number, the second group has a row that is always idle: one batch size for all.
      members = [*members, *(_Row(-1) for _ in range(size - len(members)))]
      groups.append((copy.copy(actor), members))
      groups[-1][0].begin(size)

  pool.drain()
  while unfinished:
    horizon = min(unfinished) + (max_ahead or len(seeds))
    for row in rows:
      if row.seed is None and row.queue and row.queue[0][0] < horizon:
        row.begin(pool)
    for group_actor, members in groups:
      if any(row.seed is not None for row in members) and not any(row.waiting for row in members):
        _decide(pool, group_actor, members)
    for index, answer in pool.poll():
      row = rows[index]
      if isinstance(answer, WorkerError):
        row.failures += 1
        if row.failures >= max_failures:
          raise WorkerError(
            f"The episode of seed {row.seed} failed {row.failures} times in a row. {answer}"
          ) from answer
        _logger.warning("The episode of seed %d begins again. %s", row.seed, answer)
        row.restart(pool)
      elif row.receive(answer, keep_frames, max_decisions):
        name = _name(policy_name, row.seed)
        unfinished.discard(row.position)
        num_finished += 1
        episode, info = row.finish(name, iteration)
        if on_progress:
          on_progress(num_finished, total, info)
        yield episode, info


def _check_there(
  folder: str | os.PathLike,
  manifest: Manifest,
  options: dict[str, Any],
  seeds: set[int],
  policy_name: str | Callable[[int], str],
  iteration: int,
) -> None:
  """Checks that what a folder holds already is what would have been collected."""
  if manifest.environment["options"] != options:
    raise ValueError(
      f"{folder} holds rollouts of environment {manifest.environment}, not with options {options}; "
      "collect into another folder or delete this one."
    )
  for info in manifest.episodes:
    if info.seed in seeds:
      expected = _name(policy_name, info.seed), iteration
      if (info.policy, info.iteration) != expected:
        raise ValueError(
          f"{folder} holds an episode of seed {info.seed} by (policy, iteration) "
          f"{(info.policy, info.iteration)}, not {expected}; use other seeds or another folder."
        )


def _name(policy_name: str | Callable[[int], str], seed: int) -> str:
  return policy_name(seed) if callable(policy_name) else policy_name


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
  """Plays one episode for each seed that a dataset folder does not have yet, and adds them to it.

  Killed and called again, it goes on after the last whole shard, and the folder ends up the same,
  byte for byte, as if it had not been killed. A shard whose file was removed is played again, and
  is the same again. No more than `episodes_per_shard` (or `num_workers`)
  finished episodes are in memory.

  Args:
    folder: the dataset folder; created if need be.
    make_env_fn: picklable, builds a `PixelEnv`; a `functools.partial` with the options as keywords,
      which go into the manifest.
    actor: chooses the actions.
    seeds: distinct seeds; episodes are written in this order.
    policy_name: recorded with each episode; may be a function of the seed.
    iteration: recorded with each episode.
    num_workers: environments, each in a process; by default one for each core.
    episodes_per_shard: episodes in a shard; the last one may have fewer.
    min_decisions: shorter episodes are not kept (their seeds go to `Manifest.skipped`).
    max_decisions: as in `run_episodes`.
    on_progress: as in `run_episodes`.
    timeout: seconds after which a step counts as hung.

  Returns:
    The folder's manifest.

  Raises:
    CorruptShardError: if a shard of the folder is truncated, or missing and not of these seeds.
    ValueError: if the folder holds rollouts of another environment, or of these seeds but by
      another policy or iteration.
    WorkerError: if workers keep dying.
  """
  seeds = [int(seed) for seed in seeds]
  options = json.loads(json.dumps(dict(getattr(make_env_fn, "keywords", {}))))
  done: set[int] = set()
  lost: list[rollouts.Shard] = []
  if (Path(folder) / rollouts.MANIFEST).exists():
    manifest = rollouts.load_manifest(folder)
    _check_there(folder, manifest, options, set(seeds), policy_name, iteration)
    done = {info.seed for info in manifest.episodes} | set(manifest.skipped)
    there = rollouts.shards_there(folder, manifest)
    lost = [shard for shard in manifest.shards if shard not in there]
    for shard in lost:
      if not {info.seed for info in shard.episodes}.issubset(seeds):
        rollouts.check_size(folder, shard)  # Says that it is missing.
    if done.issuperset(seeds) and not lost:
      return manifest
  with EnvPool(make_env_fn, num_workers or os.cpu_count() or 1, timeout=timeout) as pool:
    header = Manifest(
      environment={"name": pool.spec.name, "options": options},
      action_size=pool.spec.action_size,
      observation_shape=pool.spec.observation.parts[0].shape,
    )
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
