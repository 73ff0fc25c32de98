"""CEM and MPPI over plans of categorical actions.

A plan is H actions, each of which consists of G one-hot groups of choices. It is flattened to
D = H * A numbers with A the sum of `num_choices`. The search distribution is an independent
categorical distribution for each group of each action.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from wm_tf import actions
from wm_tf.search import strategy
from wm_tf.search.mppi import exponential_weights


class CategoricalState(NamedTuple):
  """The state of a categorical search.

  Attributes:
    mean: `[B, D]`, the probability of each choice; each group sums to 1.
    best: see `strategy.Best`; its `x` is one-hot.
  """

  mean: tf.Tensor
  best: strategy.Best


@dataclasses.dataclass(frozen=True)
class _CategoricalSearch:
  """The base of categorical CEM and MPPI.

  Attributes:
    num_candidates: N, drawn per generation.
    num_choices: number of choices in each of an action's G groups.
    initial_scale: share of the first generation's probability that is spread evenly over all
      choices, in (0, 1]; the rest is on the initial plan. Values above 1 count as 1.
    min_scale: the same share in every later generation, so that no choice becomes impossible.
    momentum: share of the old probabilities that is kept, in [0, 1).
    correlation: correlation of the noise of successive actions of a plan (AR(1)), in [0, 1).
      Correlated noise repeats choices if successive actions have equal probabilities.
  """

  num_candidates: int = 64
  num_choices: tuple[int, ...] = (2,)
  initial_scale: float = 0.5
  min_scale: float = 0.05
  momentum: float = 0.0
  correlation: float = 0.0

  def __post_init__(self):
    if self.num_candidates < 1:
      raise ValueError(f"num_candidates must be positive; got {self.num_candidates}.")
    if not self.num_choices or min(self.num_choices) < 1:
      raise ValueError(f"num_choices must be positive numbers; got {self.num_choices}.")
    if not self.initial_scale > 0:
      raise ValueError(f"initial_scale must be positive; got {self.initial_scale}.")
    for name in ("correlation", "momentum", "min_scale"):
      if not 0.0 <= getattr(self, name) < 1.0:
        raise ValueError(f"{name} must be in [0, 1); got {getattr(self, name)}.")

  @property
  def action_size(self) -> int:
    """A."""
    return sum(self.num_choices)

  def init(self, mean) -> CategoricalState:
    """Starts a search.

    Args:
      mean: `[B, D]`, a plan of one-hot groups, or probabilities. A group of zeros starts from the
        uniform distribution.

    Returns:
      The first state.

    Raises:
      ValueError: if D is not a multiple of A.
    """
    mean = strategy.as_mean(mean)
    if mean.shape[1] % self.action_size:
      raise ValueError(
        f"a plan of {mean.shape[1]} numbers is not a whole number of actions of {self.action_size}."
      )

    def normalized(group):
      total = tf.reduce_sum(tf.nn.relu(group), -1, keepdims=True)
      return tf.where(
        total > 0, tf.math.divide_no_nan(tf.nn.relu(group), total), 1.0 / group.shape[-1]
      )

    mean = self._spread(self._per_action(normalized, mean), min(self.initial_scale, 1.0))
    return CategoricalState(mean, strategy.first_best(self._mode(mean)))

  def ask(self, state: CategoricalState, seed) -> tf.Tensor:
    """Returns N one-hot plans per row, `[B, N, D]`. See `Strategy.ask`."""
    mean, num = state.mean, self.num_candidates
    num_groups = mean.shape[1] // self.action_size * len(self.num_choices)
    noise = strategy.normal(seed, tf.shape(mean)[0], (num, num_groups), mean.dtype)
    noise = strategy.correlate(noise, self.correlation, len(self.num_choices))
    uniform = 0.5 * tf.math.erfc(-noise / np.sqrt(2.0))
    x = self._inverse_cdf(mean[:, tf.newaxis], uniform)
    return tf.ensure_shape(x, (mean.shape[0], num, mean.shape[1]))

  def tell(self, state: CategoricalState, x, fitness) -> CategoricalState:
    """Refits the probabilities. See `Strategy.tell`."""
    x, fitness = strategy.validate_tell_args(state, x, fitness)
    mean, valid = self._refit(x, fitness)
    mean = self.momentum * state.mean + (1.0 - self.momentum) * mean
    new = CategoricalState(
      self._spread(mean, self.min_scale), strategy.keep_better(state.best, x, fitness)
    )
    return strategy.select(tf.reduce_any(valid > 0, -1), new, state)

  def mean(self, state: CategoricalState) -> tf.Tensor:
    """Returns the most likely plan, one-hot `[B, D]`. See `Strategy.mean`."""
    return self._mode(state.mean)

  def best(self, state: CategoricalState) -> strategy.Best:
    """Returns `state.best`. See `Strategy.best`."""
    return state.best

  def _refit(self, x, fitness) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns new probabilities `[B, D]`, and the validity `[B, n]` of the candidates used."""
    raise NotImplementedError

  def _per_action(self, fn, x):
    """Applies `actions.by_group` to every action of plans `[..., D]`."""
    num_actions = x.shape[-1] // self.action_size
    return actions.by_group(fn, x, self.num_choices * num_actions)

  def _spread(self, probability, share: float):
    """Mixes probabilities with the uniform distribution, whose share is `share`."""
    return self._per_action(
      lambda group: (1.0 - share) * group + share / group.shape[-1], probability
    )

  def _mode(self, probability):
    num_actions = probability.shape[-1] // self.action_size
    return actions.one_hot_argmax(probability, self.num_choices * num_actions)

  def _inverse_cdf(self, probability, uniform):
    """Draws choices `[B, N, D]`.

    Args:
      probability: `[B, 1, D]`.
      uniform: `[B, N, H * G]`, in [0, 1].
    """
    num_actions = probability.shape[-1] // self.action_size
    groups = self.num_choices * num_actions
    if len(set(groups)) == 1:
      size = groups[0]
      shape = tf.concat([tf.shape(probability)[:2], [len(groups), size]], 0)
      chosen = _choose(tf.reshape(probability, shape), uniform, size)
      return tf.reshape(chosen, tf.concat([tf.shape(uniform)[:2], [len(groups) * size]], 0))
    parts = tf.split(probability, groups, axis=-1)
    return tf.concat(
      [_choose(part, uniform[..., i], groups[i]) for i, part in enumerate(parts)], axis=-1
    )


def _choose(probability, uniform, size: int):
  """Returns one-hot `[..., size]` of the choice whose interval of the CDF contains `uniform`."""
  edges = tf.cumsum(probability, axis=-1)[..., :-1]
  index = tf.reduce_sum(tf.cast(uniform[..., tf.newaxis] >= edges, tf.int32), axis=-1)
  return tf.one_hot(index, size, dtype=probability.dtype)


@dataclasses.dataclass(frozen=True)
class CategoricalCEM(_CategoricalSearch):
  """Refits the probabilities to the choices of each generation's best candidates.

  With elites E (`num_elites` of them), m = `momentum` and e = `min_scale`:
  p <- (1 - e) (m p + (1 - m) frequency(E)) + e uniform. Failed candidates are not elites.

  Attributes:
    num_elites: number of best candidates that the probabilities are refitted to.

  References:
    De Boer et al. 2005, "A tutorial on the cross-entropy method", section 4.
  """

  num_elites: int = 8

  def __post_init__(self):
    super().__post_init__()
    if not 1 <= self.num_elites <= self.num_candidates:
      raise ValueError(
        f"num_elites must be in [1, num_candidates = {self.num_candidates}]; got {self.num_elites}."
      )

  def _refit(self, x, fitness):
    elites, _, valid = strategy.top_k(x, fitness, self.num_elites)
    count = tf.reduce_sum(valid, -1)[:, tf.newaxis]
    total = tf.reduce_sum(valid[..., tf.newaxis] * elites, 1)
    return tf.math.divide_no_nan(total, count), valid


@dataclasses.dataclass(frozen=True)
class CategoricalMPPI(_CategoricalSearch):
  """Refits the probabilities to all candidates, weighted by exp(fitness / temperature).

  Attributes:
    temperature: lambda; see `mppi.MPPI`.
    normalize: whether the temperature is in standard deviations of a generation's fitness.
  """

  temperature: float = 0.3
  normalize: bool = True

  def __post_init__(self):
    super().__post_init__()
    if self.temperature <= 0:
      raise ValueError(f"temperature must be positive; got {self.temperature}.")

  def _refit(self, x, fitness):
    valid = strategy.success(fitness)
    score = tf.where(valid > 0, fitness, tf.zeros([], x.dtype))
    weights = exponential_weights(score, valid, self.temperature, self.normalize)
    return tf.einsum("bn,bnd->bd", weights, x), valid
