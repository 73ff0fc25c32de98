"""Discounts, and the normalisation of returns by their percentiles.

References:
  Hafner et al. 2023 (DreamerV3), arXiv:2301.04104, section "Actor learning" (percentiles).
  Hansen et al. 2024 (TD-MPC2), arXiv:2310.16828, appendix (discount by the length of episodes).
"""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf

# The range is that of these shares of the returns, and follows them at this rate.
SHARES = (0.05, 0.95)
RATE = 0.01


def derive_discount(num_decisions: int) -> float:
  """Computes a discount whose horizon is a fifth of an episode.

  The horizon is `1 / (1 - discount)`. Values of a much longer one are mostly bootstrapped, and a
  critic that has learned from few episodes overestimates them.

  Args:
    num_decisions: decisions in the longest episode.

  Returns:
    `1 - 5 / num_decisions`, within [0.95, 0.99].
  """
  return min(max(1.0 - 5.0 / num_decisions, 0.95), 0.99)


def quantiles(x: tf.Tensor, shares: Sequence[float]) -> tf.Tensor:
  """Computes quantiles with linear interpolation, as `np.quantile` does.

  Args:
    x: N >= 1 numbers of a static shape, `float32[...]`.
    shares: Q numbers in [0, 1].

  Returns:
    `float32[Q]`.
  """
  ordered = tf.sort(tf.reshape(x, [-1]))
  last, found = ordered.shape[0] - 1, []
  for share in shares:
    below = min(int(share * last), max(last - 1, 0))
    above = min(below + 1, last)
    found.append(ordered[below] + (share * last - below) * (ordered[above] - ordered[below]))
  return tf.stack(found)


def follow_range(return_range: tf.Tensor, returns: tf.Tensor) -> tf.Tensor:
  """Updates an exponential moving average of the 5th and the 95th percentile.

  `range' = (1 - rate) range + rate quantiles(returns)`, with rate 0.01.

  Args:
    return_range: the average `float32[2]`; zeros before the first update.
    returns: the returns of one batch, `float32[...]`.

  Returns:
    The new average, `float32[2]`.
  """
  return return_range + RATE * (quantiles(returns, SHARES) - return_range)


def range_scale(return_range: tf.Tensor) -> tf.Tensor:
  """Returns the number that returns are divided by.

  It is at least 1, so that small returns, which may be noise, are not amplified.

  Args:
    return_range: `float32[2]`, a lower and an upper percentile.

  Returns:
    `max(1, upper - lower)`, `float32[]`.
  """
  return tf.maximum(1.0, return_range[1] - return_range[0])
