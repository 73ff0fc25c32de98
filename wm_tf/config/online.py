"""The configuration of online training."""

from __future__ import annotations

import dataclasses

from wm_tf.checks import check_at_least, check_positive


@dataclasses.dataclass(frozen=True)
class OnlineConfig:
  """How a world model and a controller are trained together while the controller collects data.

  Steps are decisions: with `action_repeat` 4, a step is 4 frames of the environment.

  Attributes:
    num_steps: number of steps to collect; 0 for training by iterations instead.
    collect: whether steps are collected. Otherwise training uses only the episodes that are
      recorded in the run's folder, and `num_steps` determines the number of updates:
      `pretrain_updates + train_ratio * num_steps`.
    prefill: number of first steps, which the exploration policies of `collect` take. No update is
      made before them. If all their rewards are equal, exploration goes on until they differ, for
      at most half of `num_steps`.
    pretrain_updates: number of updates on these steps before the controller acts.
    train_ratio: number of updates for each later step; None for 1, or 0.4 with images, whose
      updates cost several times as much.
    num_environments: number of episodes that are played side by side, each in its own process.
    decisions_per_round: decisions in each environment between two copies of the learned weights to
      the controller that plays.
    capacity: largest number of steps that are kept in memory to learn from.
    batch_size: number of sequences of an update; None for 16, or 8 with images.
    sequence_length: length of these sequences.
    learning_rate: learning rate of the world model.
    clip_norm: bound on the norm of the world model's gradient.
    warmup_updates: updates in which the world model's learning rate increases from 0.
    evaluate_every: number of steps between evaluations on validation seeds, which choose the agent;
      None for an eighth of `num_steps`.
    evaluate_episodes: number of episodes of each of these evaluations.
    patience: number of evaluations without a better one after which training ends; None for never.
    max_updates: number of updates after which training ends; None for no limit.
    max_minutes: minutes of training after which training ends; None for no limit. The end then
      depends on the machine's speed.
    checkpoint_every: number of updates between checkpoints.
  """

  num_steps: int = 0
  collect: bool = True
  prefill: int = 1000
  pretrain_updates: int = 100
  train_ratio: float | None = None
  num_environments: int = 2
  decisions_per_round: int = 16
  capacity: int = 100_000
  batch_size: int | None = None
  sequence_length: int = 32
  learning_rate: float = 6e-4
  clip_norm: float = 100.0
  warmup_updates: int = 200
  evaluate_every: int | None = None
  evaluate_episodes: int = 8
  patience: int | None = None
  max_updates: int | None = None
  max_minutes: float | None = None
  checkpoint_every: int = 500

  def __post_init__(self):
    check_at_least(0, self, "num_steps", "pretrain_updates", "warmup_updates")
    check_at_least(1, self, "prefill", "num_environments", "batch_size", "evaluate_every")
    check_at_least(1, self, "decisions_per_round")
    check_at_least(1, self, "evaluate_episodes", "patience", "max_updates", "checkpoint_every")
    check_at_least(2, self, "sequence_length")
    check_positive(self, "learning_rate", "clip_norm")
    if self.train_ratio is not None:
      check_positive(self, "train_ratio")
    if self.max_minutes is not None:
      check_positive(self, "max_minutes")
    if self.capacity < self.sequence_length:
      raise ValueError(
        f"capacity={self.capacity} must be at least sequence_length={self.sequence_length}."
      )

  def derived(self, has_images: bool) -> OnlineConfig:
    """Returns the settings with the values that None stands for.

    Args:
      has_images: whether observations have images.
    """
    batch_size, train_ratio = (8, 0.4) if has_images else (16, 1.0)
    return dataclasses.replace(
      self,
      batch_size=self.batch_size or batch_size,
      train_ratio=train_ratio if self.train_ratio is None else self.train_ratio,
      evaluate_every=self.evaluate_every or max(1, self.num_steps // 8),
    )

  def num_updates(self) -> int:
    """Returns the number of updates of a whole training, of settings without None."""
    first = self.prefill if self.collect else 0  # Steps that no update is made for.
    num = self.pretrain_updates + round(self.train_ratio * max(0, self.num_steps - first))
    return max(1, min(num, self.max_updates or num))
