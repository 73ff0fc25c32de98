"""The cross-entropy method. One iteration of it is random shooting."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from wm_tf.search import strategy


class CEMState(NamedTuple):
  """The state of `CEM`.

  Attributes:
    mean: `[B, D]`.
    scale: `[B, D]`, standard deviation per dimension.
    elites: `[B, K, D]`, the elites that the next generation evaluates again; K may be 0.
    elite_fitness: `[B, K]`; -inf where there is no elite yet.
    best: see `strategy.Best`.
  """

  mean: tf.Tensor
  scale: tf.Tensor
  elites: tf.Tensor
  elite_fitness: tf.Tensor
  best: strategy.Best


@dataclasses.dataclass(frozen=True)
class CEM(strategy.MeanAndBest):
  """Refits a diagonal Gaussian to the best candidates of each generation.

  With elites E (`num_elites` of them) and m = `momentum`:
  mean <- m mean + (1 - m) mean(E), scale <- max(m scale + (1 - m) std(E), min_scale).
  The std is that of the population (divided by the number of elites). Failed candidates are not
  elites. With fewer than two successes the scale does not change.

  References:
    Rubinstein 1999, "The cross-entropy method for combinatorial and continuous optimization".
    De Boer et al. 2005, "A tutorial on the cross-entropy method", section 5 (smoothed update).
    Hafner et al. 2019 (PlaNet), algorithm 2 (as a planner).
    Pinneri et al. 2020 (iCEM) (kept elites, noise correlated over time).

  Attributes:
    num_candidates: N, evaluated per generation.
    num_elites: number of best candidates that the distribution is refitted to; at least 2.
    initial_scale: standard deviation of the first generation.
    min_scale: lower bound of the standard deviation.
    momentum: share of the old mean and scale that is kept, in [0, 1).
    bounds: `(low, high)` that candidates are clipped to; None for no clipping.
    num_kept_elites: number of elites that the next generation evaluates again.
    antithetic: whether to draw noise in pairs of opposite sign; needs an even `num_candidates`.
    correlation: correlation of the noise of successive decisions of a plan (AR(1)), in [0, 1).
    action_size: A, for `correlation`: D is a plan of H actions, D = H * A.
  """

  num_candidates: int = 64
  num_elites: int = 8
  initial_scale: float = 1.0
  min_scale: float = 0.0
  momentum: float = 0.0
  bounds: tuple[float, float] | None = None
  num_kept_elites: int = 0
  antithetic: bool = False
  correlation: float = 0.0
  action_size: int = 1

  def __post_init__(self):
    if not 2 <= self.num_elites <= self.num_candidates:
      raise ValueError(
        f"num_elites must be in [2, num_candidates = {self.num_candidates}]; got {self.num_elites}."
      )
    if not 0 <= self.num_kept_elites <= self.num_elites:
      raise ValueError(
        f"num_kept_elites must be in [0, num_elites = {self.num_elites}]; "
        f"got {self.num_kept_elites}."
      )
    strategy.check_gaussian(self)

  def init(self, mean, scale=None) -> CEMState:
    """Starts a search.

    Args:
      mean: `[B, D]`.
      scale: standard deviation, broadcast to `[B, D]`; `initial_scale` if None.

    Returns:
      The first state.
    """
    mean = strategy.as_mean(mean)
    lead, kept = tf.shape(mean)[0], self.num_kept_elites
    elites = tf.zeros([lead, kept, mean.shape[1]], mean.dtype)
    elite_fitness = tf.fill([lead, kept], tf.constant(-np.inf, mean.dtype))
    return CEMState(
      mean=mean,
      scale=strategy.as_scale(self.initial_scale if scale is None else scale, mean),
      elites=tf.ensure_shape(elites, (mean.shape[0], kept, mean.shape[1])),
      elite_fitness=tf.ensure_shape(elite_fitness, (mean.shape[0], kept)),
      best=strategy.first_best(mean),
    )

  def ask(self, state: CEMState, seed) -> tf.Tensor:
    """Returns candidates of the Gaussian, and kept elites first. See `Strategy.ask`."""
    x = strategy.sample(self, state.mean, state.scale, seed)
    if not self.num_kept_elites:
      return x
    # Before the first `tell` there are no elites, so ordinary candidates replace them.
    kept = tf.math.is_finite(state.elite_fitness)[..., tf.newaxis]
    again = tf.where(kept, state.elites, x[:, : self.num_kept_elites])
    return tf.concat([again, x[:, self.num_kept_elites :]], 1)

  def tell(self, state: CEMState, x, fitness) -> CEMState:
    """Refits the Gaussian to the elites. See `Strategy.tell`."""
    x, fitness = strategy.validate_tell_args(state, x, fitness)
    elites, elite_fitness, valid = strategy.top_k(x, fitness, self.num_elites)
    valid = valid[..., tf.newaxis]
    count = tf.reduce_sum(valid, 1)
    mean = tf.math.divide_no_nan(tf.reduce_sum(valid * elites, 1), count)
    squares = valid * tf.square(elites - mean[:, tf.newaxis])
    scale = tf.sqrt(tf.math.divide_no_nan(tf.reduce_sum(squares, 1), count))

    def smooth(old, new):
      return self.momentum * old + (1.0 - self.momentum) * new

    kept = self.num_kept_elites
    new = CEMState(
      mean=smooth(state.mean, mean),
      scale=tf.where(
        count >= 2, tf.maximum(smooth(state.scale, scale), self.min_scale), state.scale
      ),
      elites=elites[:, :kept],
      elite_fitness=elite_fitness[:, :kept],
      best=strategy.keep_better(state.best, x, fitness),
    )
    return strategy.select(count[:, 0] > 0, new, state)
