"""Categorical distributions over given values, which predict a number of any scale.

The values ("bins") are increasing numbers. A target between two of them is encoded as weights of
the two whose mean is the target, and the loss is the cross-entropy with these weights.

References:
  Bellemare et al. 2017, arXiv:1707.06887, equation 7, with a point mass (two-hot).
  Hafner et al. 2023, arXiv:2301.04104, section "Robust predictions" (symexp two-hot).
"""

from __future__ import annotations

import numpy as np
import tensorflow as tf

NUM_SYMEXP_BINS = 101


def symexp_bins(limit: float) -> np.ndarray:
  """Computes exponentially spaced values, `symexp(linspace(-symlog(limit), symlog(limit), 101))`.

  Args:
    limit: the largest value.

  Returns:
    `float64[101]`, symmetric around 0.
  """
  largest = np.log1p(limit)
  spaced = np.linspace(-largest, largest, NUM_SYMEXP_BINS)
  return np.sign(spaced) * np.expm1(np.abs(spaced))


def two_hot(x: tf.Tensor, bins: tf.Tensor) -> tf.Tensor:
  """Returns weights of the bins whose mean is `x`.

  Args:
    x: `float32[...]`, clipped to the range of the bins.
    bins: increasing numbers, `float32[num_bins]`.

  Returns:
    `float32[..., num_bins]`; at most two weights of each row are not 0, and they sum to 1.
  """
  x = tf.clip_by_value(x, bins[0], bins[-1])
  num_bins = bins.shape[0]
  above = tf.searchsorted(bins, tf.reshape(x, [-1]), side="right")
  above = tf.clip_by_value(tf.reshape(above, tf.shape(x)), 1, num_bins - 1)
  low, high = tf.gather(bins, above - 1), tf.gather(bins, above)
  weight = ((x - low) / (high - low))[..., tf.newaxis]
  return (1.0 - weight) * tf.one_hot(above - 1, num_bins) + weight * tf.one_hot(above, num_bins)


def cross_entropy(logits: tf.Tensor, x: tf.Tensor, bins: tf.Tensor) -> tf.Tensor:
  """Returns the cross-entropy of the two-hot targets, in nats.

  Args:
    logits: `float32[..., num_bins]`.
    x: the targets, `float32[...]`.
    bins: increasing numbers, `float32[num_bins]`.

  Returns:
    `float32[...]`.
  """
  return tf.nn.softmax_cross_entropy_with_logits(two_hot(x, bins), logits)


def mean(logits: tf.Tensor, bins: tf.Tensor) -> tf.Tensor:
  """Returns the mean of the distribution.

  Args:
    logits: `float32[..., num_bins]`.
    bins: `float32[num_bins]`.

  Returns:
    `float32[...]`.
  """
  weights = _exponentials(logits)
  return tf.reduce_sum(weights * bins, axis=-1) / tf.reduce_sum(weights, axis=-1)


def symmetric_mean(logits: tf.Tensor, bins: tf.Tensor) -> tf.Tensor:
  """Returns the mean of a distribution over bins that are symmetric around 0.

  Equal weights at a bin and its negative cancel exactly, so the mean of equal logits is 0 even if
  the outermost bins are large.

  Args:
    logits: `float32[..., num_bins]`, of an odd number of bins.
    bins: `float32[num_bins]`.

  Returns:
    `float32[...]`.
  """
  num_positive = bins.shape[0] // 2
  weights = _exponentials(logits)
  positive, negative = weights[..., -num_positive:], weights[..., :num_positive]
  excess = positive - tf.reverse(negative, [-1])
  total = tf.reduce_sum(excess * bins[-num_positive:], axis=-1)
  return total / tf.reduce_sum(weights, axis=-1)


def _exponentials(logits: tf.Tensor) -> tf.Tensor:
  """Returns the numerators of a softmax, `float32[..., K]`.

  For the few rows of an imagined step, `tf.nn.softmax` takes longer than the rest of the step.
  """
  return tf.exp(logits - tf.reduce_max(logits, axis=-1, keepdims=True))
