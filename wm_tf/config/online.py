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
    prefill: number of first steps, which the exploration policies of `collect` take. No update is
      made before them.
    pretrain_updates: number of updates on these steps before the controller acts.
    train_ratio: number of updates for each later step.
    num_environments: number of episodes that are played side by side, each in its own process.
    capacity: largest number of steps that are kept in memory to learn from.
    batch_size, sequence_length: number and length of the sequences of an update.
    learning_rate: learning rate of the world model.
    clip_norm: bound on the norm of the world model's gradient.
    warmup_updates: updates in which the world model's learning rate increases from 0.
    evaluate_every: number of steps between evaluations on validation seeds, which choose the agent.
    evaluate_episodes: number of episodes of each of these evaluations.
    patience: number of evaluations without a better one after which training ends; None for never.
    max_updates: number of updates after which training ends; None for no limit.
    max_minutes: minutes of training after which training ends; None for no limit. The end then
      depends on the machine's speed.
    checkpoint_every: number of updates between checkpoints.
  """

  num_steps: int = 0
  prefill: int = 1000
  pretrain_updates: int = 100
  train_ratio: float = 0.5
  num_environments: int = 2
  capacity: int = 100_000
  batch_size: int = 16
  sequence_length: int = 32
  learning_rate: float = 6e-4
  clip_norm: float = 100.0
  warmup_updates: int = 200
  evaluate_every: int = 2500
  evaluate_episodes: int = 8
  patience: int | None = None
  max_updates: int | None = None
  max_minutes: float | None = None
  checkpoint_every: int = 500

  def __post_init__(self):
    check_at_least(0, self, "num_steps", "pretrain_updates", "warmup_updates")
    check_at_least(1, self, "prefill", "num_environments", "batch_size", "evaluate_every")
    check_at_least(1, self, "evaluate_episodes", "patience", "max_updates", "checkpoint_every")
    check_at_least(2, self, "sequence_length")
    check_positive(self, "train_ratio", "learning_rate", "clip_norm")
    if self.max_minutes is not None:
      check_positive(self, "max_minutes")
    if self.capacity < self.sequence_length:
      raise ValueError(
        f"capacity={self.capacity} must be at least sequence_length={self.sequence_length}."
      )
