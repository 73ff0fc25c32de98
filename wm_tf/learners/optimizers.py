"""The optimisers of gradient learners."""

from __future__ import annotations

from collections.abc import Sequence

import keras
import tensorflow as tf

# Learning rates fall to this share of what they were.
_FINAL_SHARE = 0.05


def cooled(step: tf.Tensor, num_steps: tf.Tensor | float, cooldown: float) -> tf.Tensor:
  """Computes the factor of a cooldown: 1, and at the end a linear decrease to 0.05.

  Args:
    step: number of steps that were taken, `float32[]`.
    num_steps: number of all steps.
    cooldown: share of the steps in which the factor decreases; 0 for a constant 1.

  Returns:
    `float32[]`.

  References:
    Hägele et al. 2024, arXiv:2405.18392 (a constant learning rate with cooldown).
  """
  if not cooldown:
    return tf.ones([])
  return tf.clip_by_value((1.0 - step / num_steps) / cooldown, _FINAL_SHARE, 1.0)


class Schedule(keras.optimizers.schedules.LearningRateSchedule):
  """A learning rate that increases linearly, stays constant, and may decrease at the end.

  The rate of step i = 0, 1, ... is `rate * min(1, (i + 1) / warmup) * cooled(i, ...)`.
  """

  def __init__(
    self,
    rate: float,
    warmup: int,
    num_steps: tf.Variable | float = 1.0,
    cooldown: float = 0.0,
  ):
    """Makes a schedule.

    Args:
      rate: the learning rate between warmup and cooldown.
      warmup: number of steps until then, at least 1.
      num_steps: number of all steps, for the cooldown.
      cooldown: share of the steps in which the rate decreases; see `cooled`.
    """
    self._rate, self._warmup = rate, warmup
    self._num_steps, self._cooldown = num_steps, cooldown

  def __call__(self, step):
    """Returns the rate `float32[]` of a step. See `LearningRateSchedule.__call__`."""
    step = tf.cast(step, tf.float32)
    rate = self._rate * tf.minimum(1.0, (step + 1.0) / self._warmup)
    return rate * cooled(step, tf.cast(self._num_steps, tf.float32), self._cooldown)

  def get_config(self):
    """Returns the arguments. See `LearningRateSchedule.get_config`."""
    num_steps = float(tf.cast(self._num_steps, tf.float32))
    return {
      "rate": self._rate,
      "warmup": self._warmup,
      "num_steps": num_steps,
      "cooldown": self._cooldown,
    }


def make_adam(
  weights: Sequence[keras.Variable],
  rate: float | keras.optimizers.schedules.LearningRateSchedule,
  clip_norm: float | None,
  adam_class: type[keras.optimizers.Adam] = keras.optimizers.Adam,
) -> keras.optimizers.Adam:
  """Makes Adam for the weights of a network.

  Args:
    weights: the weights.
    rate: the learning rate, or a `Schedule`.
    clip_norm: bound on the norm of the gradient; None for none.
    adam_class: `Adam`, or a subclass.

  Returns:
    The optimiser, built.
  """
  optimizer = adam_class(rate, global_clipnorm=clip_norm)
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
