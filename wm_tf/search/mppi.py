"""Model predictive path integral control: an exponentially weighted mean of the candidates."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from wm_tf.search import strategy


class MPPIState(NamedTuple):
  """The state of `MPPI`.

  Attributes:
    mean: `[B, D]`.
    scale: `[B, D]`, standard deviation per dimension.
    best: see `strategy.Best`.
  """

  mean: tf.Tensor
  scale: tf.Tensor
  best: strategy.Best


@dataclasses.dataclass(frozen=True)
class MPPI(strategy.MeanAndBest):
  """Moves the mean to the average of all candidates, weighted by exp(fitness / temperature).

  With S = fitness - control_cost * sum_d mean_d (x_d - mean_d) / scale_d^2,
  w = softmax(S / temperature) and mean <- sum_n w_n x_n. Failed candidates have weight 0.

  References:
    Williams et al. 2017, "Information theoretic MPC for model-based reinforcement learning",
    algorithm 2.
    Hansen et al. 2022 (TD-MPC), equation 4 (weighted scale).

  Attributes:
    num_candidates: N, drawn per generation.
    initial_scale: standard deviation of the candidates around the mean.
    temperature: lambda. A small value gives the best candidate all the weight; a large one gives
      all candidates equal weights.
    normalize: whether the temperature is in standard deviations of the generation's fitness, which
      makes it independent of the scale of the fitness.
    control_cost: gamma, the weight of the cost of moving the mean away from 0.
    adapt_scale: whether the scale is refitted to the weighted candidates; constant if false.
    min_scale: lower bound of an adapted scale.
    momentum: share of the old mean (and adapted scale) that is kept, in [0, 1).
    bounds: `(low, high)` that candidates are clipped to; None for no clipping.
    antithetic: whether to draw noise in pairs of opposite sign; needs an even `num_candidates`.
    correlation: correlation of the noise of successive decisions of a plan (AR(1)), in [0, 1).
    action_size: A, for `correlation`: D is a plan of H actions, D = H * A.
  """

  num_candidates: int = 64
  initial_scale: float = 0.5
  temperature: float = 0.3
  normalize: bool = True
  control_cost: float = 0.0
  adapt_scale: bool = False
  min_scale: float = 0.0
  momentum: float = 0.0
  bounds: tuple[float, float] | None = None
  antithetic: bool = False
  correlation: float = 0.0
  action_size: int = 1

  def __post_init__(self):
    strategy.check_gaussian(self)
    if self.temperature <= 0:
      raise ValueError(f"temperature must be positive; got {self.temperature}.")

  def init(self, mean, scale=None) -> MPPIState:
    """Starts a search.

    Args:
      mean: `[B, D]`.
      scale: standard deviation, broadcast to `[B, D]`; `initial_scale` if None.

    Returns:
      The first state.
    """
    mean = strategy.as_mean(mean)
    scale = strategy.as_scale(self.initial_scale if scale is None else scale, mean)
    return MPPIState(mean=mean, scale=scale, best=strategy.first_best(mean))

  def ask(self, state: MPPIState, seed) -> tf.Tensor:
    """Returns candidates of the Gaussian. See `Strategy.ask`."""
    return strategy.sample(self, state.mean, state.scale, seed)

  def tell(self, state: MPPIState, x, fitness) -> MPPIState:
    """Moves the mean, and the scale with `adapt_scale`. See `Strategy.tell`."""
    x, fitness = strategy.validate_tell_args(state, x, fitness)
    valid = strategy.success(fitness)
    weights = self.weights(state, x, fitness)

    def smooth(old, new):
      return self.momentum * old + (1.0 - self.momentum) * new

    mean = tf.einsum("bn,bnd->bd", weights, x)
    scale = state.scale
    if self.adapt_scale:
      variance = tf.einsum("bn,bnd->bd", weights, tf.square(x - mean[:, tf.newaxis]))
      scale = tf.maximum(smooth(scale, tf.sqrt(variance)), self.min_scale)
    best = strategy.keep_better(state.best, x, fitness)
    new = MPPIState(mean=smooth(state.mean, mean), scale=scale, best=best)
    return strategy.select(tf.reduce_any(valid > 0, -1), new, state)

  def weights(self, state: MPPIState, x, fitness) -> tf.Tensor:
    """Computes the weights of candidates.

    Args:
      state: the current state.
      x: candidates `[B, N, D]`.
      fitness: `[B, N]`.

    Returns:
      `[B, N]`; rows sum to 1, and failed candidates have weight 0.
    """
    x, fitness = strategy.validate_tell_args(state, x, fitness)
    valid = strategy.success(fitness)
    score = tf.where(valid > 0, fitness, tf.zeros([], x.dtype))
    if self.control_cost:
      push = tf.math.divide_no_nan(state.mean, tf.square(state.scale))
      step = x - state.mean[:, tf.newaxis]
      score -= self.control_cost * tf.einsum("bd,bnd->bn", push, step)
    return exponential_weights(score, valid, self.temperature, self.normalize)


def exponential_weights(score, valid, temperature: float, normalize: bool) -> tf.Tensor:
  """Computes the softmax of `score / temperature` over the candidates that succeeded.

  Args:
    score: `[B, N]`, finite.
    valid: `[B, N]`, 1 for a success and 0 for a failure.
    temperature: lambda.
    normalize: whether the temperature is in standard deviations of each row's score.

  Returns:
    `[B, N]`; rows sum to 1, and failed candidates have weight 0.
  """
  temperature = tf.constant(temperature, score.dtype)
  if normalize:
    count = tf.maximum(tf.reduce_sum(valid, -1, keepdims=True), 1.0)
    centred = valid * (score - tf.reduce_sum(valid * score, -1, keepdims=True) / count)
    spread = tf.sqrt(tf.reduce_sum(tf.square(centred), -1, keepdims=True) / count)
    temperature = tf.maximum(temperature * spread, np.finfo(score.dtype.name).tiny)
  lowest = tf.constant(-np.inf, score.dtype)
  score -= tf.reduce_max(tf.where(valid > 0, score, lowest), -1, keepdims=True)
  weights = tf.where(valid > 0, tf.exp(score / temperature), tf.zeros([], score.dtype))
  return tf.math.divide_no_nan(weights, tf.reduce_sum(weights, -1, keepdims=True))
