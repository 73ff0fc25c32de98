"""Plays episodes one after another in every environment of a pool, some decisions at a time."""

from __future__ import annotations

import logging
import zlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from wm_tf.core import Batch, Episode
from wm_tf.data import observations
from wm_tf.data.env_pool import EnvPool, Reply, WorkerError
from wm_tf.data.manifest import EpisodeInfo
from wm_tf.data.play import Actor, Row, decide

_logger = logging.getLogger(__name__)
_MAX_FAILURES = 3  # In a row.


class RememberingActor(Actor, Protocol):
  """An actor whose state can be stored."""

  def memory(self) -> list[np.ndarray]:
    """Returns the state of all rows."""

  def recall(self, memory: Sequence[np.ndarray]) -> None:
    """Restores the state of all rows.

    Args:
      memory: a result of `memory`.
    """


class Piece(NamedTuple):
  """Consecutive steps of one episode.

  Attributes:
    row: the index of the environment.
    seed: the seed of the episode.
    steps: the steps in arrival alignment, NumPy arrays `[T, ...]`.
  """

  row: int
  seed: int
  steps: Batch


class Played(NamedTuple):
  """What was played in a number of decisions.

  Attributes:
    pieces: the steps; those of a row are in order.
    episodes: the episodes that ended, in the order of their ends.
  """

  pieces: list[Piece]
  episodes: list[tuple[Episode, EpisodeInfo]]

  def num_decisions(self) -> int:
    """Returns the number of decisions in the pieces."""
    return sum(int(np.sum(~piece.steps.is_first)) for piece in self.pieces)


class EnvStream:
  """Plays episodes one after another in every row of a pool, some decisions at a time.

  All rows step in lockstep, so that what is played depends on the seeds and the actor, and not on
  timing. `state` and `restore` continue a stream in another process: the actions of the episodes in
  progress are played again, which gives the same episodes if the environment is reproducible.

  Attributes:
    numbers: the number of the current episode of each row.
  """

  def __init__(
    self,
    pool: EnvPool,
    actor: RememberingActor,
    seed_of: Callable[[int, int], int],
    *,
    first_number: int = 0,
    policy_name: str = "",
    iteration: int = 0,
  ):
    """Makes a stream that has played nothing.

    Args:
      pool: the environments.
      actor: chooses the actions; nobody else may use it.
      seed_of: maps a row and the number of an episode in the row to the seed of the episode.
      first_number: the number of the first episode of every row.
      policy_name, iteration: recorded with each episode.
    """
    self._pool, self._actor, self._seed_of = pool, actor, seed_of
    self._policy_name, self._iteration = policy_name, iteration
    self._rows = [Row(index) for index in range(pool.num_workers)]
    self._taken = [0] * pool.num_workers  # Steps of the current episodes that were returned.
    self.numbers = [first_number] * pool.num_workers
    actor.begin(pool.num_workers)

  def play(self, num_decisions: int) -> Played:
    """Plays on in every row.

    Args:
      num_decisions: number of decisions of each row.

    Returns:
      The new steps and the episodes that ended.

    Raises:
      WorkerError: if the worker of an episode keeps dying.
      ValueError: if an action, observation or reward is not finite or does not fit the
        specification.
    """
    played = Played([], [])
    self._begin_idle()
    for _ in range(num_decisions):
      decide(self._pool, self._actor, self._rows)
      over = self._receive()
      for row in (row for row in self._rows if over[row.index]):
        played.pieces.extend(self._cut(row))
        played.episodes.append(row.finish(self._policy_name, self._iteration))
        self.numbers[row.index] += 1
        self._taken[row.index] = 0
      self._begin_idle()
    for row in self._rows:
      played.pieces.extend(self._cut(row))
    return played

  # --- Continuing in another process ----------------------------------------------------------

  def state(self) -> dict[str, Any]:
    """Returns what `restore` needs, between two calls of `play`.

    Returns:
      Lists with an entry for each row: `numbers`, `actions` (`float32[T, A]` of the episodes in
      progress, None before the first call of `play`), and `checksums` of what these led to; and
      `memory` of the actor.
    """
    return {
      "numbers": list(self.numbers),
      "actions": [
        None
        if row.seed is None
        else np.reshape(np.array(row.actions, np.float32), [-1, self._pool.spec.action_size])
        for row in self._rows
      ],
      "checksums": [0 if row.seed is None else _checksum(row) for row in self._rows],
      "memory": self._actor.memory(),
    }

  def restore(self, state: dict[str, Any]) -> list[Piece]:
    """Plays the episodes in progress again, up to where they were.

    Args:
      state: a result of `state`.

    Returns:
      The steps of these episodes. An episode that is not the same again is left out, with a
      warning, and the next one of its row is played.
    """
    self.numbers = list(state["numbers"])
    self._actor.recall(state["memory"])
    pieces = []
    for row, actions, checksum in zip(
      self._rows, state["actions"], state["checksums"], strict=True
    ):
      if actions is None:
        continue
      row.seed = self._seed_of(row.index, self.numbers[row.index])
      over = self._play_again(row, actions)
      if over or _checksum(row) != checksum:
        _logger.warning(
          "The environment is not reproducible: the episode of seed %d, which was in progress, is "
          "not the same again. It is left out.",
          row.seed,
        )
        row.seed = None
        self.numbers[row.index] += 1
      else:
        self._taken[row.index] = 0
        pieces.extend(self._cut(row))
    self._begin_idle()
    return pieces

  # --- One decision ---------------------------------------------------------------------------

  def _begin_idle(self) -> None:
    """Begins an episode in every row without one, and waits for the first observations."""
    for row in self._rows:
      if row.seed is None:
        row.queue.append((0, self._seed_of(row.index, self.numbers[row.index])))
        row.begin(self._pool)
    self._receive()

  def _receive(self) -> list[bool]:
    """Waits for the replies to all open requests; returns which rows' episodes are over."""
    over, dead = [False] * len(self._rows), []
    while any(row.waiting for row in self._rows):
      for index, answer in self._pool.poll():
        row = self._rows[index]
        if isinstance(answer, WorkerError):
          row.waiting = False
          dead.append((row, answer))
        else:
          over[index] = row.receive(answer, self._pool, True, None)
          row.failures = 0
    for row, error in dead:  # The pool has replaced the workers.
      over[row.index] = self._revive(row, error)
    return over

  def _revive(self, row: Row, error: WorkerError) -> bool:
    """Plays an episode again whose worker died; returns whether it is over.

    If it is not the same again, it ends where the worker died.
    """
    before = row.observations, row.actions, row.rewards, getattr(row, "observation", None)
    known, checksum = len(row.observations), _checksum(row)
    info = getattr(row, "info", None)
    while True:
      row.fail(error, _MAX_FAILURES)
      _logger.warning("The episode of seed %d is played again. %s", row.seed, error)
      try:
        over = self._play_again(row, list(before[1]))
        break
      except WorkerError as again:
        error = again
    if _checksum(row, known) == checksum:
      return over
    if known <= 1:  # Nothing had happened in it.
      self._taken[row.index] = 0
      return over
    _logger.warning(
      "The environment is not reproducible: the episode of seed %d ends at decision %d, where its "
      "worker died.",
      row.seed,
      known - 1,
    )
    row.observations, actions, row.rewards, row.observation = before
    row.actions, row.info, row.terminated = actions[: known - 1], info, False
    return True

  def _play_again(self, row: Row, actions: Sequence[np.ndarray]) -> bool:
    """Plays the current episode from its start; returns whether it is over at the end."""
    row.restart(self._pool)
    over = self._reply(row)
    for action in actions:
      if over:
        break
      row.act(self._pool, action)
      over = self._reply(row)
    return over

  def _reply(self, row: Row) -> bool:
    """Waits for the reply to the only open request."""
    ((_, answer),) = self._pool.poll()
    if not isinstance(answer, Reply):
      row.waiting = False
      raise answer
    return row.receive(answer, self._pool, True, None)

  def _cut(self, row: Row) -> list[Piece]:
    """Returns the steps of the current episode that were not returned yet, if there are any."""
    first, num = self._taken[row.index], len(row.observations)
    if first == num:
      return []
    self._taken[row.index] = num
    before = [np.zeros(self._pool.spec.action_size, np.float32), *row.actions]
    is_first = np.arange(first, num) == 0
    discount = np.ones(num - first, np.float32)
    discount[-1] = 0.0 if row.terminated else 1.0
    steps = Batch(
      observation=observations.stack(row.observations[first:]),
      prev_action=np.stack(before[first:num]).astype(np.float32),
      reward=np.array([0.0, *row.rewards][first:num], np.float32),
      discount=discount,
      is_first=is_first,
      mask=np.ones_like(is_first),
    )
    return [Piece(row.index, row.seed, steps)]


def _checksum(row: Row, num_steps: int | None = None) -> int:
  """Returns a checksum of the first observations and rewards of the current episode."""
  seen, rewards = row.observations[:num_steps], row.rewards
  rewards = rewards[: None if num_steps is None else max(0, num_steps - 1)]
  found = zlib.crc32(np.asarray(rewards, np.float64).tobytes())
  for observation in seen:
    for _, values in sorted(observations.unpack(observation).items()):
      found = zlib.crc32(np.ascontiguousarray(values).tobytes(), found)
  return found
