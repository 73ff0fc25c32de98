"""Plays episodes with environments in worker processes and a batched actor in this process."""

from __future__ import annotations

import collections
import copy
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np

from wm_tf.core import Episode, Nest
from wm_tf.data import observations
from wm_tf.data.env_pool import EnvPool, Reply, WorkerError
from wm_tf.data.manifest import EpisodeInfo
from wm_tf.data.recording import distinct_seeds

_logger = logging.getLogger(__name__)


class Actor(Protocol):
  """Chooses actions for several environments at once: an agent, a scripted policy, a server.

  `run_episodes` plays two groups of rows, so that one group's actions are computed while the other
  group's environments step. Each group has its own `copy.copy` of the actor, on which `begin` is
  called. `begin` must therefore create all per-row state. An actor that wraps another one must copy
  it and call its `begin` too.

  The actions of a row may depend only on its own observations and its episode's seed.
  """

  def begin(self, rows: int) -> None:
    """Resets the actor's state.

    Args:
      rows: B, the number of environments.
    """

  def act(
    self,
    observation: Nest,
    is_first: np.ndarray,
    seeds: np.ndarray,
    infos: list[dict[str, Any]],
  ) -> np.ndarray:
    """Chooses the next action of every row.

    Args:
      observation: in the format of the environment's `ObservationSpec`, with a leading B, such as
        `uint8[B, 64, 64, 3]` or a dict of arrays.
      is_first: `bool[B]`, true where an episode begins with this observation.
      seeds: `int64[B]`, the seed of each row's episode: the only source of randomness.
      infos: the environment's `info` of each row; `"privileged"` is for scripted policies.

    Returns:
      `float32[B, A]` in [-1, 1], or a score for each choice of a categorical action.
    """


class Row:
  """One row of a pool: its queue of episodes and its current episode.

  Attributes:
    index: the index of the environment in the pool; -1 for an idle row that fills a batch.
    queue: the positions and seeds of the episodes to come.
    position, seed: those of the current episode; the seed is None while there is none.
    waiting: whether a request is open.
    failures: number of worker deaths in the current episode.
    observations, actions, rewards: the current episode so far.
    observation, info, terminated: the last reply.
  """

  def __init__(self, index: int):
    """Makes an idle row.

    Args:
      index: the index of the environment in the pool.
    """
    self.index = index
    self.queue: collections.deque[tuple[int, int]] = collections.deque()  # (position, seed)
    self.seed: int | None = None  # None while idle.
    self.position = -1
    self.waiting = False
    self.failures = 0

  def begin(self, pool: EnvPool) -> None:
    """Begins the next episode of the queue.

    Args:
      pool: the environments.
    """
    self.position, self.seed = self.queue.popleft()
    self.failures = 0
    self.restart(pool)

  def restart(self, pool: EnvPool) -> None:
    """Begins the current episode again.

    Args:
      pool: the environments.
    """
    self.observations, self.actions, self.rewards = [], [], []
    self.waiting = True
    pool.reset(self.index, self.seed)

  def receive(self, reply: Reply, pool: EnvPool, keep: bool, max_decisions: int | None) -> bool:
    """Stores the reply to `reset` or `step`.

    Args:
      reply: the reply.
      pool: the environments.
      keep: whether to keep the observation.
      max_decisions: the number of decisions after which the episode is over; None for no limit.

    Returns:
      Whether the episode is over.

    Raises:
      ValueError: if the reply does not fit the environment's specification or is not finite.
    """
    self.waiting = False
    if problem := _problem(reply, pool):
      raise ValueError(
        f"{pool.spec.name}: at decision {len(self.actions)} of the episode of seed {self.seed}, "
        f"{problem}. Fix the environment."
      )
    self.observation, self.info, self.terminated = reply.observation, reply.info, reply.terminated
    if self.actions:
      self.rewards.append(reply.reward)
    if keep:
      self.observations.append(reply.observation)
    return reply.terminated or reply.truncated or len(self.actions) == max_decisions

  def fail(self, error: WorkerError, max_failures: int) -> None:
    """Counts a death of the current episode's worker.

    Args:
      error: the error that reported it.
      max_failures: the number of deaths after which an error is raised.

    Raises:
      WorkerError: if that number is reached.
    """
    self.failures += 1
    if self.failures >= max_failures:
      raise WorkerError(
        f"The episode of seed {self.seed} failed {self.failures} times in a row. {error}"
      ) from error

  def act(self, pool: EnvPool, action: np.ndarray) -> None:
    """Sends an action to the environment.

    Args:
      pool: the environments.
      action: `float32[A]`.
    """
    self.actions.append(action)
    self.waiting = True
    pool.step(self.index, action)

  def finish(self, policy: str, iteration: int) -> tuple[Episode | None, EpisodeInfo]:
    """Ends the current episode and makes the row idle.

    Args:
      policy: recorded with the episode.
      iteration: recorded with the episode.

    Returns:
      The episode (None if observations are not kept) and its information.
    """
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
    if not self.observations:
      return None, info
    first, last = np.arange(steps) == 0, np.arange(steps) == steps - 1
    return Episode(
      observation=observations.stack(self.observations),
      action=np.stack([*self.actions, np.zeros_like(self.actions[0])]).astype(np.float32),
      reward=np.array([*self.rewards, 0.0], np.float32),
      is_first=first,
      is_last=last,
      is_terminal=last & self.terminated,
    ), info


def _problem(reply: Reply, pool: EnvPool) -> str:
  """Returns what is wrong with an environment's reply; empty if nothing is."""
  if problem := observations.mismatch(reply.observation, pool.array_specs):
    return f"its observation {problem}"
  if not np.isfinite(reply.reward):
    return f"its reward is {reply.reward}"
  for name in ("frames", "episode_return"):
    if name not in reply.info:
      return f"its info has no {name!r}"
    if not np.isfinite(reply.info[name]):
      return f"its info says {name} = {reply.info[name]}"
  return ""


def decide(pool: EnvPool, actor: Actor, rows: Sequence[Row]) -> None:
  """Asks an actor for the actions of all rows and sends the actions of the playing rows.

  Args:
    pool: the environments.
    actor: the actor, after `begin(len(rows))`.
    rows: the rows; at least one is playing.

  Raises:
    ValueError: if an action is not finite or has the wrong shape.
  """
  playing = [row for row in rows if row.seed is not None]
  # An idle row gets a playing row's observation with `is_first`. The batch then keeps its size, so
  # that a compiled actor is not traced again, and every observation is a real one.
  shown = [playing[0] if row.seed is None else row for row in rows]
  action = np.asarray(
    actor.act(
      observations.stack([row.observation for row in shown]),
      np.array([row.seed is None or not row.actions for row in rows]),
      np.array([row.seed for row in shown], np.int64),
      [row.info for row in shown],
    ),
    np.float32,
  )
  expected = (len(rows), pool.spec.action_size)
  if action.shape != expected or not np.isfinite(action).all():
    found = list(action.shape)
    if action.shape == expected:
      row, values = next((r, a) for r, a in zip(shown, action, strict=True) if not _finite(a))
      found = f"{values.tolist()} at decision {len(row.actions)} of the episode of seed {row.seed}"
    raise ValueError(
      f"{type(actor).__name__}.act returned {found} for the episodes of seeds "
      f"{[row.seed for row in shown]}; it must return finite numbers of shape {list(expected)}."
    )
  canonical = pool.spec.action_space.canonical(action)
  for row, row_action in zip(rows, canonical, strict=True):
    if row.seed is not None:
      row.act(pool, row_action)


def _finite(values: np.ndarray) -> bool:
  return bool(np.isfinite(values).all())


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
  """Plays one episode for each seed and yields the episodes as they finish.

  The rows step in lockstep in two groups: while one group's environments step, the actor chooses
  actions for all rows of the other group. Seed i is played in row i modulo B, so that an episode
  depends on its seed, the actor and B, but not on timing.

  Args:
    pool: the environments.
    actor: chooses the actions.
    seeds: distinct seeds, from 0.
    policy_name: recorded with each episode; may be a function of the seed.
    iteration: recorded with each episode.
    max_decisions: the number of decisions after which an episode ends; its return is then not the
      official one. None for no limit.
    keep_frames: whether to keep observations and yield episodes; otherwise None is yielded instead
      of each episode.
    on_progress: called with (episodes finished, all episodes, the `EpisodeInfo` of the last one).
    done: the seeds that are not played.
    max_ahead: the number of seeds by which an episode may be ahead of the first unfinished one;
      None for no limit.
    max_failures: the number of worker deaths within one episode after which an error is raised.

  Yields:
    `(episode, info)`, in the order in which they finish.

  Raises:
    WorkerError: if an episode's worker died `max_failures` times.
    ValueError: if an action, observation or reward is not finite or does not fit the specification,
      or a seed is negative or repeated.
  """
  seeds, done = distinct_seeds(seeds), {int(seed) for seed in done}
  rows = [Row(index) for index in range(pool.num_workers)]
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
      # If the number of rows is odd, add an idle row to the second group.
      members = [*members, *(Row(-1) for _ in range(size - len(members)))]
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
        decide(pool, group_actor, members)
    for index, answer in pool.poll():
      row = rows[index]
      if isinstance(answer, WorkerError):
        row.fail(answer, max_failures)
        _logger.warning("The episode of seed %d begins again. %s", row.seed, answer)
        row.restart(pool)
      elif row.receive(answer, pool, keep_frames, max_decisions):
        name = name_of_policy(policy_name, row.seed)
        unfinished.discard(row.position)
        num_finished += 1
        episode, info = row.finish(name, iteration)
        if on_progress:
          on_progress(num_finished, total, info)
        yield episode, info


def name_of_policy(policy_name: str | Callable[[int], str], seed: int) -> str:
  """Returns the name that is recorded with an episode.

  Args:
    policy_name: the name, or a function from the seed to the name.
    seed: the episode's seed.
  """
  return policy_name(seed) if callable(policy_name) else policy_name
