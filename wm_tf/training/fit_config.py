"""The settings of `fit`."""

from __future__ import annotations

import dataclasses

from wm_tf.checks import check_choice
from wm_tf.training.precision import PRECISIONS


@dataclasses.dataclass(frozen=True)
class FitConfig:
  """Settings of `fit`.

  Attributes:
    learning_rate: learning rate of Adam.
    end_learning_rate: learning rate at the end of the last epoch, reached linearly; None for a
      constant rate.
    clip_norm: global norm to which larger gradients are scaled down.
    num_epochs: largest number of epochs. Each ends with an evaluation, if there is held-out data.
    steps_per_epoch: largest number of batches in an epoch; None for the whole dataset.
    patience: number of consecutive evaluations without a lower held-out loss after which training
      stops; None for never.
    checkpoint_every: steps between checkpoints within an epoch; None for one per epoch.
    log_every: steps between two lines of training metrics, which are averaged over them.
    max_bad_steps: number of consecutive skipped steps (loss or gradient not finite) that is an
      error.
    precision: dtype of the products in training steps: `float32`, or `bfloat16` if the processor
      computes it faster (see `precision.computing_in`). Evaluations are in float32.
  """

  learning_rate: float = 1e-3
  end_learning_rate: float | None = None
  clip_norm: float = 100.0
  num_epochs: int = 10
  steps_per_epoch: int | None = None
  patience: int | None = None
  checkpoint_every: int | None = 500
  log_every: int = 50
  max_bad_steps: int = 10
  precision: str = "float32"

  def __post_init__(self):
    check_choice(self, "precision", PRECISIONS, group="FitConfig.")
    for field in dataclasses.fields(self):
      value = getattr(self, field.name)
      if not isinstance(value, str | None) and not value > 0:
        raise ValueError(f"FitConfig.{field.name} must be positive, not {value}.")
