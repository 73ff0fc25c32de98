"""The stochastic part of an RSSM's state: groups of categories, or a diagonal Gaussian."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import tensorflow as tf

from wm_tf import rng

STOCHASTIC_KINDS = ("categorical", "gaussian")


class Categoricals:
  """S independent categorical variables of C classes each, as one-hot vectors.

  A share `unimix` of the probability is uniform, so that no probability is 0 and no KL infinite.

  References:
    Hafner et al. 2021, arXiv:2010.02193, section 2 and algorithm 1 (straight-through gradients).
    Hafner et al. 2023, arXiv:2301.04104, section "World model learning" (1% uniform).

  Attributes:
    size: width of a sample, S C.
    num_parameters: width of the parameters, S C logits.
  """

  def __init__(self, num_variables: int, num_classes: int, unimix: float):
    """Initializes the distribution.

    Args:
      num_variables: S.
      num_classes: C.
      unimix: share of the uniform distribution, in [0, 1].
    """
    self._shape, self._unimix = (num_variables, num_classes), unimix
    self.size = self.num_parameters = num_variables * num_classes
    # `probabilities @ _below` are cumulative probabilities. A product is faster than `tf.cumsum`.
    self._below = np.triu(np.ones((num_classes, num_classes), np.float32))[:, :-1]

  def draw_noise(self, shape, seed: tf.Tensor) -> tf.Tensor:
    """Draws one uniform number for each variable.

    Args:
      shape: the leading dimensions; with one seed for each row, `shape[0]` is B.
      seed: `int32[2]` or `int32[B, 2]`.

    Returns:
      `float32[*shape, S]` in [0, 1).
    """
    return rng.uniform([*shape, self._shape[0]], seed)

  def log_probabilities(self, logits: tf.Tensor) -> tf.Tensor:
    """Computes log-probabilities with the uniform share.

    Args:
      logits: `float32[..., S C]`.

    Returns:
      `float32[..., S, C]`.
    """
    logits = tf.reshape(logits, tf.concat([tf.shape(logits)[:-1], self._shape], axis=0))
    uniform = self._unimix / self._shape[1]
    return tf.math.log((1.0 - self._unimix) * tf.nn.softmax(logits) + uniform)

  def sample(self, logits: tf.Tensor, noise: tf.Tensor, temperature=1.0) -> tf.Tensor:
    """Samples by the inverse of the cumulative distribution.

    The value is one-hot; its gradient is that of the probabilities (straight-through):
    `one_hot + p - stop_gradient(p)`.

    Args:
      logits: `float32[B, S C]`.
      noise: uniform `float32[B, S]`.
      temperature: scalar or `float32[B]`, by which log-probabilities are divided; at 0 the sample
        is the most likely class.

    Returns:
      `float32[B, S C]`.
    """
    temperature = tf.reshape(tf.maximum(tf.cast(temperature, tf.float32), 1e-6), [-1, 1, 1])
    probabilities = tf.nn.softmax(self.log_probabilities(logits) / temperature)
    fixed = tf.stop_gradient(probabilities)
    # The class is the number of cumulative probabilities below the draw. The last one is left out
    # because rounding can make it smaller than the draw.
    below = tf.matmul(fixed, self._below) <= noise[..., tf.newaxis]
    one_hot = tf.one_hot(tf.reduce_sum(tf.cast(below, tf.int32), axis=-1), self._shape[1])
    return tf.reshape(one_hot + probabilities - fixed, [-1, self.size])

  def kl(self, logits: tf.Tensor, other: tf.Tensor) -> tf.Tensor:
    """Computes KL(p || q), summed over variables.

    Args:
      logits: of p, `float32[..., S C]`.
      other: of q, `float32[..., S C]`.

    Returns:
      `float32[...]`, in nats.
    """
    p, q = self.log_probabilities(logits), self.log_probabilities(other)
    return tf.reduce_sum(tf.exp(p) * (p - q), axis=[-2, -1])


class DiagonalGaussian:
  """A Gaussian with diagonal covariance over S numbers.

  References:
    Hafner et al. 2020, arXiv:1912.01603, appendix A (softplus with a smallest scale of 0.1).

  Attributes:
    size: width of a sample, S.
    num_parameters: width of the parameters, 2 S: locs and unbounded scales.
  """

  def __init__(self, size: int, min_scale: float):
    """Initializes the distribution.

    Args:
      size: S.
      min_scale: the smallest standard deviation.
    """
    self.size, self.num_parameters, self._min_scale = size, 2 * size, min_scale

  def draw_noise(self, shape, seed: tf.Tensor) -> tf.Tensor:
    """Draws standard normal numbers, `float32[*shape, S]`. See `Categoricals.draw_noise`."""
    return rng.normal([*shape, self.size], seed)

  def parameters(self, outputs: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Splits the outputs of a network.

    Args:
      outputs: `float32[..., 2 S]`.

    Returns:
      `(loc, scale)`, each `float32[..., S]`.
    """
    loc, unbounded = tf.split(outputs, 2, axis=-1)
    return loc, tf.math.softplus(unbounded) + self._min_scale

  def sample(self, outputs: tf.Tensor, noise: tf.Tensor, temperature=1.0) -> tf.Tensor:
    """Samples with a reparameterised gradient.

    Args:
      outputs: `float32[B, 2 S]`.
      noise: standard normal `float32[B, S]`.
      temperature: scalar or `float32[B]`, by which variances are multiplied.

    Returns:
      `float32[B, S]`.
    """
    loc, scale = self.parameters(outputs)
    temperature = tf.reshape(tf.cast(temperature, tf.float32), [-1, 1])
    return loc + tf.sqrt(temperature) * scale * noise

  def kl(self, outputs: tf.Tensor, other: tf.Tensor) -> tf.Tensor:
    """Computes KL(p || q), summed over dimensions. See `Categoricals.kl`."""
    (loc, scale), (other_loc, other_scale) = self.parameters(outputs), self.parameters(other)
    ratio = scale / other_scale
    distance = (loc - other_loc) / other_scale
    terms = 0.5 * (tf.square(ratio) + tf.square(distance) - 1.0) - tf.math.log(ratio)
    return tf.reduce_sum(terms, axis=-1)


def balanced_kl(
  kl_fn: Callable[[tf.Tensor, tf.Tensor], tf.Tensor],
  posterior: tf.Tensor,
  prior: tf.Tensor,
  *,
  dynamics_weight: float,
  representation_weight: float,
  free_nats: float,
) -> tf.Tensor:
  """Computes the KL terms of an RSSM's loss.

  `w_dyn max(free, KL(sg(posterior) || prior)) + w_rep max(free, KL(posterior || sg(prior)))`, where
  sg stops the gradient. The prior learns faster than the posterior is held back if `w_dyn` is the
  larger weight.

  Args:
    kl_fn: the `kl` of a distribution.
    posterior, prior: parameters of the distribution, `float32[..., P]`.
    dynamics_weight: w_dyn, of the term that trains the prior.
    representation_weight: w_rep, of the term that trains the posterior.
    free_nats: nats below which a term is not penalised further.

  Returns:
    `float32[...]`.

  References:
    Hafner et al. 2021, arXiv:2010.02193, algorithm 2 (KL balancing).
    Hafner et al. 2023, arXiv:2301.04104, equation 5.
  """
  dynamics = kl_fn(tf.stop_gradient(posterior), prior)
  representation = kl_fn(posterior, tf.stop_gradient(prior))
  return dynamics_weight * tf.maximum(dynamics, free_nats) + representation_weight * tf.maximum(
    representation, free_nats
  )
