"""The progress of online training."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

if TYPE_CHECKING:
  from wm_tf.config import OnlineConfig


@dataclasses.dataclass
class Progress:
  """What a checkpoint holds beside weights.

  Attributes:
    steps: number of decisions that were learned from.
    episodes: number of episodes that ended in them.
    updates: number of updates.
    budget: number of updates that are due; a fraction may remain.
    best, best_step: mean return of the best evaluation, and its step.
    evaluations: number of evaluations.
    since_best: number of evaluations since the best one.
    rows: number of rows of metrics.
    seconds: time spent.
    history: the metrics so far.
  """

  steps: int = 0
  episodes: int = 0
  updates: int = 0
  budget: float = 0.0
  best: float | None = None
  best_step: int = -1
  evaluations: int = 0
  since_best: int = 0
  rows: int = 0
  seconds: float = 0.0
  history: str = ""

  def end(self, settings: OnlineConfig, seconds: float) -> str:
    """Returns why training ends; empty if it goes on.

    Args:
      settings: the settings of the training.
      seconds: the time spent so far.
    """
    if self.steps >= settings.num_steps:
      return f"{self.steps} steps are done"
    if settings.max_updates is not None and self.updates >= settings.max_updates:
      return f"{self.updates} updates are done"
    if settings.max_minutes is not None and seconds >= 60 * settings.max_minutes:
      return f"{settings.max_minutes:g} minutes are over"
    return ""

  def out_of_patience(self, settings: OnlineConfig) -> str:
    """Returns why training ends after an evaluation; empty if it goes on.

    Args:
      settings: the settings of the training.
    """
    if settings.patience is None or self.since_best < settings.patience:
      return ""
    return f"{settings.patience} evaluations in a row were not better"
