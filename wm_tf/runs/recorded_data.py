"""The data of training on recorded episodes only: the replay buffer, filled once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from wm_tf.data import rollouts
from wm_tf.data.datasets import held_out_seeds
from wm_tf.data.recording import array_specs
from wm_tf.data.replay import Replay
from wm_tf.data.rows import align
from wm_tf.data.stream import Piece, Played
from wm_tf.runs.workdir import WorkdirError, say

if TYPE_CHECKING:
  from wm_tf.runs.run import Run


class RecordedData:
  """The recorded episodes of a run, in the place of `OnlineData`: nothing is played.

  A round counts as many steps as it would collect, so that `online.num_steps` and
  `online.train_ratio` determine the number of updates.

  Attributes:
    replay: the buffer of the steps to learn from.
  """

  def __init__(self, run: Run):
    """Makes the data of a run.

    Args:
      run: the run.
    """
    self._run, self._settings = run, run.online_settings
    self.replay = Replay(self._settings.capacity, newest=False)

  def prefill(self) -> Played:
    """Reads the recorded episodes into the buffer; the last ones, if not all of them fit.

    Returns:
      All of them without observations, for which the memory may not suffice.

    Raises:
      WorkdirError: if there are none, or they are of an environment with other spaces.
      CorruptShardError: if a shard is damaged.
    """
    run, played = self._run, Played([], [])
    folder = run.path("data", 0)
    if not (folder / rollouts.MANIFEST).exists():
      raise WorkdirError(
        f"online.collect=False learns from recorded episodes, and {folder} has none. Copy the data "
        "folder of another run there, or run trainers.collect with the same flags."
      )
    for folder in run.data_folders(0):
      manifest = rollouts.load_manifest(folder)
      found = manifest.action_size, manifest.arrays
      expected = run.spec.action_size, array_specs(run.spec)
      if found != expected:
        raise WorkdirError(
          f"{folder} has actions of size {found[0]} and observations {found[1]}, but "
          f"{run.spec.name} has actions of size {expected[0]} and observations {expected[1]}."
        )
      for episode, info in rollouts.read_episodes(folder):
        steps = align(episode)
        if not held_out_seeds([info.seed], run.config.collect.held_out):
          self.replay.add(steps)
        played.episodes.append((episode._replace(observation=()), info))
        played.pieces.append(Piece(0, info.seed, steps._replace(observation=())))
    return played

  def play(self) -> Played:
    """Returns nothing, because nothing is played."""
    return Played([], [])

  def learn_from(self, played: Played) -> int:
    """Counts the steps of a round.

    Args:
      played: the result of `prefill`, whose steps are in the buffer already, or of `play`.

    Returns:
      The number of decisions that the round stands for; 0 for recorded episodes.

    Raises:
      WorkdirError: if the episodes have too few steps for a sequence.
    """
    settings = self._settings
    if not played.pieces:
      return settings.decisions_per_round * settings.num_environments
    if len(self.replay) < settings.sequence_length:
      raise WorkdirError(
        f"{self._run.path('data', 0)} has {len(self.replay)} steps to learn from, fewer than "
        f"online.sequence_length={settings.sequence_length}. Record more, or lower "
        "collect.held_out."
      )
    num, episodes = played.num_decisions(), len(played.episodes)
    say(f"train online: {num} recorded steps of {episodes} episodes.")
    return 0

  def flush(self) -> None:
    """Does nothing: nothing is recorded."""

  def state(self) -> dict[str, Any]:
    """Returns nothing: `restore` reads the episodes again."""
    return {}

  def restore(self, state: dict[str, Any]) -> Played:
    """Fills the replay buffer again.

    Args:
      state: a result of `state`.

    Returns:
      What was played and not learned from, which is nothing.
    """
    del state
    self.learn_from(self.prefill())
    return self.play()
