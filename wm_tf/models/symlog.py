"""The symmetric logarithm of Hafner et al. 2023, and its inverse."""

from __future__ import annotations

import tensorflow as tf


def symlog(x: tf.Tensor) -> tf.Tensor:
  """Computes `sign(x) log(1 + |x|)`, which is close to `x` near 0 and logarithmic far from it.

  Args:
    x: `float32[...]`.

  Returns:
    `float32[...]`.

  References:
    Hafner et al. 2023, arXiv:2301.04104, equation 9.
  """
  return tf.sign(x) * tf.math.log1p(tf.abs(x))


def symexp(x: tf.Tensor) -> tf.Tensor:
  """Computes `sign(x) (exp(|x|) - 1)`, the inverse of `symlog`.

  Args:
    x: `float32[...]`.

  Returns:
    `float32[...]`.
  """
  return tf.sign(x) * tf.math.expm1(tf.abs(x))
