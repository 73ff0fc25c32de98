"""Normalisation layers."""

from __future__ import annotations

import keras
import tensorflow as tf

_EPSILON = 1e-4


class RMSNorm(keras.layers.Layer):
  """Divides by the root mean square over the last axis, and multiplies by a learned gain.

  References:
    Zhang & Sennrich 2019, arXiv:1910.07467, equation 4.
  """

  def __init__(self, size: int):
    """Initializes the gain with ones.

    Args:
      size: size of the last axis.
    """
    super().__init__()
    self.gain = self.add_weight(name="gain", shape=(size,), initializer="ones")
    self.built = True

  def call(self, x: tf.Tensor) -> tf.Tensor:
    """Normalises `float32[..., size]`. See `keras.Layer.call`."""
    return rms_norm(x, self.gain)


def rms_norm(x: tf.Tensor, gain: tf.Tensor) -> tf.Tensor:
  """Computes what `RMSNorm` does.

  Args:
    x: `float32[..., size]`.
    gain: `float32[size]`.

  Returns:
    `float32[..., size]`.
  """
  mean_square = tf.reduce_mean(tf.square(x), axis=-1, keepdims=True)
  return x * tf.math.rsqrt(mean_square + _EPSILON) * gain
