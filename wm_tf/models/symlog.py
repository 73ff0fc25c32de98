"""A logarithm for numbers of any size and sign, and its inverse."""

from __future__ import annotations

import tensorflow as tf


def symlog(x: tf.Tensor) -> tf.Tensor:
  """Returns `sign(x) log(1 + |x|)`: about x near 0, logarithmic far from it.

  References:
    Hafner et al. 2023, arXiv:2301.04104, equation 9.
  """
  return tf.sign(x) * tf.math.log1p(tf.abs(x))


def symexp(x: tf.Tensor) -> tf.Tensor:
  """Returns `sign(x) (exp(|x|) - 1)`, the inverse of `symlog`."""
  return tf.sign(x) * tf.math.expm1(tf.abs(x))
