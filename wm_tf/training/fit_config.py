"""The settings of `fit`."""

from __future__ import annotations

import dataclasses

from wm_tf.checks import check_choice
from wm_tf.training.precision import PRECISIONS


@dataclasses.dataclass(frozen=True)
class FitConfig:
  """Settings of `fit`.

  Attributes:
    learning_rate: of Adam.
    end_learning_rate: learning rate at the end of the last epoch, reached linearly; None for a
      constant rate.
    clip_norm: gradients are scaled down to this global norm.
    num_epochs: largest number of epochs. Each ends with an evaluation, if there is held-out data.
    steps_per_epoch: largest number of batches in an epoch; None for the whole dataset.
    patience: evaluations in a row without a lower held-out loss before stopping; None for never.
    checkpoint_every: steps between checkpoints within an epoch; None for one per epoch.
    log_every: number of steps that a line of training metrics averages over.
    max_bad_steps: skipped steps in a row (loss or gradient not finite) that are an error.
    precision: of the products in training steps: `float32`, or `bfloat16` where the processor has
      instructions for it (see `precision.computing_in`). Evaluations are in float32.
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
