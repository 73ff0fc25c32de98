"""The optimisers of gradient learners."""

from __future__ import annotations

from collections.abc import Sequence

import keras
import tensorflow as tf


class Warmup(keras.optimizers.schedules.LearningRateSchedule):
  """A learning rate that increases linearly and then stays constant.

  The rate of step i = 0, 1, ... is `rate * min(1, (i + 1) / num_steps)`.
  """

  def __init__(self, rate: float, num_steps: int):
    """Makes a schedule.

    Args:
      rate: the final learning rate.
      num_steps: number of steps until the final rate, at least 1.
    """
    self._rate, self._num_steps = rate, num_steps

  def __call__(self, step):
    """Returns the rate `float32[]` of a step. See `LearningRateSchedule.__call__`."""
    return self._rate * tf.minimum(1.0, (tf.cast(step, tf.float32) + 1.0) / self._num_steps)

  def get_config(self):
    """Returns the arguments. See `LearningRateSchedule.get_config`."""
    return {"rate": self._rate, "num_steps": self._num_steps}


def make_adam(
  weights: Sequence[keras.Variable],
  rate: float,
  clip_norm: float,
  warmup_updates: int = 0,
  adam_class: type[keras.optimizers.Adam] = keras.optimizers.Adam,
) -> keras.optimizers.Adam:
  """Makes Adam for the weights of a network.

  Args:
    weights: the weights.
    rate: the learning rate.
    clip_norm: bound on the norm of the gradient.
    warmup_updates: updates in which the learning rate increases from 0; 0 for a constant rate.
    adam_class: `Adam`, or a subclass.

  Returns:
    The optimiser, built.
  """
  schedule = Warmup(rate, warmup_updates) if warmup_updates else rate
  optimizer = adam_class(schedule, global_clipnorm=clip_norm)
  optimizer.build(weights)
  return optimizer


def apply_if(
  finite: tf.Tensor, optimizer: keras.optimizers.Optimizer, gradients: Sequence[tf.Tensor]
) -> None:
  """Takes a step of an optimiser, with zero gradients unless all are finite.

  Args:
    finite: `bool[]`, whether they are.
    optimizer: a built Keras optimiser.
    gradients: one for each of its weights.
  """
  optimizer.apply([tf.where(finite, gradient, tf.zeros_like(gradient)) for gradient in gradients])


def numbered(optimizer: keras.optimizers.Optimizer) -> dict[str, tf.Variable]:
  """Names an optimiser's variables by their position.

  Args:
    optimizer: a built Keras optimiser.

  Returns:
    Variables by name: `"0"`, `"1"` and so on.
  """
  return {f"{i}": variable.value for i, variable in enumerate(optimizer.variables)}
