"""The data of online training: episodes in progress, recorded episodes, and the replay buffer."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow as tf

from wm_tf.core import Batch, Episode
from wm_tf.data import rollouts
from wm_tf.data.collect import run_episodes
from wm_tf.data.datasets import held_out_seeds
from wm_tf.data.env_pool import EnvPool
from wm_tf.data.replay import Replay
from wm_tf.data.rollouts import EpisodeInfo
from wm_tf.data.rows import align
from wm_tf.data.stream import EnvStream, Piece, Played, RememberingActor
from wm_tf.runs.playing import episode_seeds, explorers
from wm_tf.runs.workdir import WorkdirError, say

if TYPE_CHECKING:
  from wm_tf.runs.run import Run


class OnlineData:
  """Plays, records and replays the episodes of online training.

  Every environment has a stream of episodes: first whole episodes of the exploration policies, then
  those of the controller. Episode n of environment r has seed number n B + r of the run's seeds for
  collection. Recorded episodes are those that ended.

  Attributes:
    replay: the buffer of the steps to learn from.
  """

  def __init__(
    self, run: Run, pool: EnvPool, writer: rollouts.ShardWriter, controller: RememberingActor
  ):
    """Makes the data of a run that has played nothing; see `restore`.

    Args:
      run: the run.
      pool: the environments.
      writer: records the episodes.
      controller: plays after the exploration policies.
    """
    self._run, self._pool, self._writer, self._controller = run, pool, writer, controller
    self._settings = run.online_settings
    self._num = pool.num_workers
    self._seeds: list[int] = []
    self._recorded = {info.seed for info in writer.manifest.episodes}
    self._stream: EnvStream | None = None
    # What was learned from: steps of each stream, and ended episodes.
    self._learned, self._num_episodes = [0] * self._num, 0
    self.replay = Replay(self._settings.capacity, self._num)

  # --- Playing --------------------------------------------------------------------------------

  def prefill(self) -> Played:
    """Plays or reads the first episodes, by the exploration policies.

    While nothing tells good actions from bad ones, exploration goes on: up to half of all steps.
    """
    settings = self._settings
    say(f"train online: {settings.prefill} steps of exploration.")
    actor, folder = explorers(self._run.config), self._run.path("data", 0)
    recorded = {}
    if self._recorded:
      recorded = {info.seed: (episode, info) for episode, info in rollouts.read_episodes(folder)}
    played, number, steps, warned = Played([], []), 0, 0, False
    most = max(settings.prefill, settings.num_steps // 2)
    while steps < settings.prefill or (
      steps < most and not has_signal([episode for episode, _ in played.episodes])
    ):
      if steps >= settings.prefill and not warned:
        say(
          "train online: all rewards so far are equal, so exploration goes on until they differ, "
          f"for at most {most} steps."
        )
        warned = True
      seeds = [self._seed(row, number) for row in range(self._num)]
      found = {seed: recorded[seed] for seed in seeds if seed in recorded}
      if len(found) < len(seeds):
        new = run_episodes(self._pool, actor, seeds, policy_name=actor.choice, done=set(found))
        found |= {info.seed: (episode, info) for episode, info in new}
      for row, seed in enumerate(seeds):
        episode, info = found[seed]
        self._record(episode, info)
        played.episodes.append((episode, info))
        played.pieces.append(Piece(row, seed, align(episode)))
        steps += info.steps - 1
      number += 1
    self._stream = self._make_stream(number)
    return played

  def play(self) -> Played:
    """Plays on with the controller, and records the episodes that ended."""
    played = self._stream.play(self._settings.decisions_per_round)
    for episode, info in played.episodes:
      self._record(episode, info)
    return played

  def learn_from(self, played: Played) -> int:
    """Adds steps to the replay buffer, except those of held-out episodes.

    Args:
      played: what was played.

    Returns:
      The number of decisions.
    """
    for row, seed, steps in played.pieces:
      self._learned[row] += len(steps.reward)
      self._replay(row, seed, steps)
    self._num_episodes += len(played.episodes)
    return played.num_decisions()

  def flush(self) -> None:
    """Completes the shard of the episodes that were recorded so far."""
    self._writer.flush()

  # --- Continuing in another process ------------------------------------------------------------

  def state(self) -> dict[str, Any]:
    """Returns what `restore` needs, of values that JSON can hold."""
    return {
      "learned": self._learned,
      "num_episodes": self._num_episodes,
      "stream": {name: _to_json(value) for name, value in self._stream.state().items()},
    }

  def restore(self, state: dict[str, Any]) -> Played:
    """Fills the replay buffer from the recorded episodes and plays those in progress again.

    Args:
      state: a result of `state`.

    Returns:
      What was played and not learned from.

    Raises:
      WorkdirError: if recorded episodes are missing.
    """
    self._learned, self._num_episodes = list(state["learned"]), state["num_episodes"]
    stream = {name: _from_json(value) for name, value in state["stream"].items()}
    numbers, seen = stream["numbers"], [0] * self._num
    places = {
      self._seed(row, number): row for row, count in enumerate(numbers) for number in range(count)
    }
    folder = self._run.path("data", 0)
    if missing := set(places) - self._recorded:
      raise WorkdirError(
        f"{folder} has fewer episodes than the checkpoint was trained on: {len(missing)} of "
        f"{len(places)} are missing, such as that of seed {min(missing)}. Restore the folder, or "
        "remove it and the folder of the checkpoint to start over."
      )
    rest = Played([], [])

    def take(piece: Piece) -> None:
      """Adds the steps that were learned from to the buffer, and the others to `rest`."""
      row, seed, steps = piece
      num = min(max(self._learned[row] - seen[row], 0), len(steps.reward))
      seen[row] += len(steps.reward)
      if num:
        self._replay(row, seed, _slice(steps, 0, num))
      if num < len(steps.reward):
        rest.pieces.append(Piece(row, seed, _slice(steps, num, None)))

    index = 0
    for episode, info in rollouts.read_episodes(folder):
      if info.seed in places:
        take(Piece(places[info.seed], info.seed, align(episode)))
        if index >= self._num_episodes:
          rest.episodes.append((episode, info))
        index += 1
    self._stream = self._make_stream(0)
    for piece in self._stream.restore(stream):
      take(piece)
    return rest

  # --- Helpers ----------------------------------------------------------------------------------

  def _make_stream(self, first_number: int) -> EnvStream:
    return EnvStream(
      self._pool,
      self._controller,
      self._seed,
      first_number=first_number,
      policy_name="controller_000",
    )

  def _seed(self, row: int, number: int) -> int:
    index = number * self._num + row
    if index >= len(self._seeds):  # A longer draw starts with the same seeds.
      self._seeds = episode_seeds("collect", self._run.seed, 2 * index + 64)
    return self._seeds[index]

  def _replay(self, row: int, seed: int, steps: Batch) -> None:
    """Adds steps of an episode to the replay buffer, unless the episode is held out."""
    if not held_out_seeds([seed], self._run.config.collect.held_out):
      self.replay.add(steps, row)

  def _record(self, episode, info: EpisodeInfo) -> None:
    if info.seed not in self._recorded:
      self._recorded.add(info.seed)
      self._writer.add(episode, info)


def has_signal(episodes: Sequence[Episode]) -> bool:
  """Returns whether some actions of episodes can be told to be better than others.

  That is the case if two rewards differ, or if the reward is not 0 and an episode terminated.

  Args:
    episodes: the episodes.
  """
  rewards = np.unique(np.concatenate([episode.reward[:-1] for episode in episodes]))
  terminated = any(episode.is_terminal[-1] for episode in episodes)
  return len(rewards) > 1 or (terminated and rewards[0] != 0.0)


def _slice(steps, first: int, last: int | None):
  """Returns some of the steps of a `Batch` `[T, ...]`."""
  return tf.nest.map_structure(lambda x: x[first:last], steps)


def _to_json(values: list) -> list:
  """Writes the arrays of a list as text, exactly."""
  found = []
  for value in values:
    if isinstance(value, np.ndarray):
      file = io.BytesIO()
      np.save(file, value, allow_pickle=False)
      value = {"npy": base64.b64encode(file.getvalue()).decode()}
    found.append(value)
  return found


def _from_json(values: list) -> list:
  """Reads a result of `_to_json`."""
  return [
    np.load(io.BytesIO(base64.b64decode(value["npy"])), allow_pickle=False)
    if isinstance(value, dict)
    else value
    for value in values
  ]
