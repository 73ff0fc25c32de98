"""Distributions of an actor's actions, as functions of the outputs of its network."""

from __future__ import annotations

import math
from typing import Protocol

import tensorflow as tf
import tensorflow_probability as tfp

from wm_tf import actions, rng
from wm_tf.models.world_model import WorldModel

# Probabilities are kept this far from 0 and 1, where the quantile function is infinite.
_TINY = 1e-6


class ActionDistribution(Protocol):
  """A distribution of actions of size A.

  The first A outputs of the network determine its location.

  Attributes:
    output_size: number of outputs of the network.
    learned: whether the outputs determine the whole distribution. `log_prob` and `entropy` exist
      only then, and only then does an actor sample in order to explore.
  """

  output_size: int
  learned: bool

  def draw_noise(self, shape, seed: tf.Tensor, scale: tf.Tensor | float = 1.0) -> tf.Tensor:
    """Draws the noise of `sample`.

    Args:
      shape: the shape of the actions.
      seed: `int32[2]`, or one seed for each row `int32[B, 2]`.
      scale: standard deviation of the noise of a `TanhNormal`; others do not use it.

    Returns:
      `float32[shape]`.
    """

  def sample(self, outputs: tf.Tensor, noise: tf.Tensor) -> tf.Tensor:
    """Samples actions, with a gradient with respect to the outputs.

    Args:
      outputs: `float32[..., output_size]`.
      noise: result of `draw_noise`, `float32[..., A]`.

    Returns:
      `float32[..., A]`.
    """

  def deterministic(self, outputs: tf.Tensor) -> tf.Tensor:
    """Returns the actions of an actor that does not explore: the most likely or the mean ones.

    Args:
      outputs: `float32[..., output_size]`.

    Returns:
      `float32[..., A]`.
    """

  def log_prob(self, outputs: tf.Tensor, action: tf.Tensor) -> tf.Tensor:
    """Returns the log-probability, or log-density, of actions.

    Args:
      outputs: `float32[..., output_size]`.
      action: results of `sample`, `float32[..., A]`.

    Returns:
      `float32[...]`, summed over the dimensions of an action.
    """

  def entropy(self, outputs: tf.Tensor) -> tf.Tensor:
    """Returns the entropy in nats.

    Args:
      outputs: `float32[..., output_size]`.

    Returns:
      `float32[...]`, summed over the dimensions of an action.
    """


class TanhNormal:
  """The tanh of a normal variable whose scale a learner sets, with the outputs as its loc.

  Large noise before the tanh helps an actor to leave saturated regions.
  """

  learned = False

  def __init__(self, action_size: int):
    """Makes a distribution.

    Args:
      action_size: A.
    """
    self.output_size = action_size

  def draw_noise(self, shape, seed, scale=1.0):
    """Draws normal noise of the given scale. See `ActionDistribution.draw_noise`."""
    return scale * rng.normal(shape, seed)

  def sample(self, outputs, noise):
    """Returns `tanh(outputs + noise)`. See `ActionDistribution.sample`."""
    return tf.tanh(outputs + noise)

  def deterministic(self, outputs):
    """Returns `tanh(outputs)`. See `ActionDistribution.deterministic`."""
    return actions.greedy(outputs)


class _BoundedNormal:
  """A normal variable whose loc is in [-1, 1] and whose scale is learned.

  The outputs are `(m, s)`; `loc = tanh(m)` and
  `scale = min_scale + (max_scale - min_scale) * sigmoid(s + 2)`, as in DreamerV3 (Hafner et al.
  2023, arXiv:2301.04104). A subclass keeps actions in [-1, 1].
  """

  learned = True

  def __init__(self, action_size: int, min_scale: float = 0.1, max_scale: float = 1.0):
    """Makes a distribution.

    Args:
      action_size: A.
      min_scale: lower bound of the scale, positive.
      max_scale: upper bound of the scale.
    """
    self.output_size = 2 * action_size
    self._min_scale, self._max_scale = min_scale, max_scale

  def parameters(self, outputs: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns the loc and the scale, each `float32[..., A]`.

    Args:
      outputs: `float32[..., 2 A]`.
    """
    m, s = tf.split(outputs, 2, axis=-1)
    scale = self._min_scale + (self._max_scale - self._min_scale) * tf.sigmoid(s + 2.0)
    return tf.tanh(m), scale

  def deterministic(self, outputs):
    """Returns the loc, which is in [-1, 1]. See `ActionDistribution.deterministic`."""
    return tf.tanh(tf.split(outputs, 2, axis=-1)[0])


class ClippedNormal(_BoundedNormal):
  """A normal variable that is clipped to [-1, 1].

  The bounds themselves have positive probability, so that an actor can take the largest action
  while it explores. The density of an action on a bound is the probability of all that is clipped
  to it, which has the same expected policy gradient as the density of the unclipped variable, and
  a smaller variance.

  References:
    Fujita and Maeda 2018, "Clipped Action Policy Gradient", arXiv:1802.07564, equation 4.
    Hafner et al. 2023 (DreamerV3), arXiv:2301.04104 (normal actions, clipped by the environment).
  """

  def draw_noise(self, shape, seed, scale=1.0):
    """Draws standard normal noise. See `ActionDistribution.draw_noise`."""
    return rng.normal(shape, seed)

  def sample(self, outputs, noise):
    """Returns the clipped variable. See `ActionDistribution.sample`.

    The gradient of an action on a bound is that of the variable, scaled to the bound. With the
    gradient of the clipping, an actor could not leave the bounds.
    """
    loc, scale = self.parameters(outputs)
    action = loc + scale * noise
    return action / tf.stop_gradient(tf.maximum(1.0, tf.abs(action)))

  def deterministic(self, outputs):
    """Returns the mean of the clipped variable. See `ActionDistribution.deterministic`.

    Its loc alone is a much larger action than those that were learned from, where much of the
    distribution is clipped.
    """
    loc, scale = self.parameters(outputs)
    low, high = (-1.0 - loc) / scale, (1.0 - loc) / scale
    below, above = _normal_cdf(low), _normal_cdf(-high)
    inside = loc * (1.0 - below - above)
    mean = above - below + inside + scale * (_normal_density(low) - _normal_density(high))
    return tf.clip_by_value(mean, -1.0, 1.0)

  def log_prob(self, outputs, action):
    """Returns the log-density, or on a bound the log-probability.

    See `ActionDistribution.log_prob`.
    """
    normal = tfp.distributions.Normal(*self.parameters(outputs))
    inside = tf.abs(action) < 1.0 - _TINY
    tail = tf.where(action > 0.0, normal.log_survival_function(1.0), normal.log_cdf(-1.0))
    return tf.reduce_sum(tf.where(inside, normal.log_prob(action), tail), axis=-1)

  def entropy(self, outputs):
    """Returns the differential entropy before clipping. See `ActionDistribution.entropy`."""
    _, scale = self.parameters(outputs)
    return tf.reduce_sum(0.5 * math.log(2.0 * math.pi * math.e) + tf.math.log(scale), axis=-1)


class TruncatedNormal(_BoundedNormal):
  """A normal variable restricted to [-1, 1].

  References:
    Hafner et al. 2021 (DreamerV2), arXiv:2010.02193, appendix (truncated normal).
  """

  def draw_noise(self, shape, seed, scale=1.0):
    """Draws uniform noise. See `ActionDistribution.draw_noise`."""
    return rng.uniform(shape, seed)

  def sample(self, outputs, noise):
    """Returns quantiles of the distribution. See `ActionDistribution.sample`."""
    loc, scale = self.parameters(outputs)
    low, high = _normal_cdf((-1.0 - loc) / scale), _normal_cdf((1.0 - loc) / scale)
    share = tf.clip_by_value(low + noise * (high - low), _TINY, 1.0 - _TINY)
    return tf.clip_by_value(loc + scale * tf.math.ndtri(share), -1.0, 1.0)

  def log_prob(self, outputs, action):
    """Returns the log-density. See `ActionDistribution.log_prob`."""
    loc, scale = self.parameters(outputs)
    mass = _normal_cdf((1.0 - loc) / scale) - _normal_cdf((-1.0 - loc) / scale)
    standard = -0.5 * tf.square((action - loc) / scale) - 0.5 * math.log(2.0 * math.pi)
    return tf.reduce_sum(standard - tf.math.log(scale * mass), axis=-1)

  def entropy(self, outputs):
    """Returns the differential entropy. See `ActionDistribution.entropy`."""
    loc, scale = self.parameters(outputs)
    low, high = (-1.0 - loc) / scale, (1.0 - loc) / scale
    mass = _normal_cdf(high) - _normal_cdf(low)
    excess = (low * _normal_density(low) - high * _normal_density(high)) / (2.0 * mass)
    constant = 0.5 * math.log(2.0 * math.pi * math.e)
    return tf.reduce_sum(constant + tf.math.log(scale * mass) + excess, axis=-1)


# Of continuous actions, by name.
DISTRIBUTIONS: dict[str, type[ActionDistribution]] = {
  "tanh_normal": TanhNormal,
  "truncated_normal": TruncatedNormal,
  "clipped_normal": ClippedNormal,
}


class OneHot:
  """Independent categorical distributions over one-hot groups, with the outputs as logits.

  The gradient of a sample is that of the probabilities (straight-through).
  """

  learned = True

  def __init__(self, num_choices: actions.NumChoices, uniform_share: float = 0.0):
    """Makes a distribution.

    Args:
      num_choices: number of choices in each group.
      uniform_share: weight of a uniform distribution that is mixed in.
    """
    self.output_size = sum(num_choices)
    self._num_choices, self._uniform_share = tuple(num_choices), uniform_share

  def _logits(self, outputs):
    return actions.mix_uniform(outputs, self._num_choices, self._uniform_share)

  def draw_noise(self, shape, seed, scale=1.0):
    """Draws uniform noise. See `ActionDistribution.draw_noise`."""
    return rng.uniform(shape, seed)

  def sample(self, outputs, noise):
    """Samples one-hot groups. See `ActionDistribution.sample`."""
    return actions.straight_through(self._logits(outputs), noise, self._num_choices)

  def deterministic(self, outputs):
    """Returns the most likely choices. See `ActionDistribution.deterministic`."""
    return actions.greedy(outputs, self._num_choices)

  def log_prob(self, outputs, action):
    """Returns the log-probability. See `ActionDistribution.log_prob`."""
    return actions.log_probability(self._logits(outputs), action, self._num_choices)

  def entropy(self, outputs):
    """Returns the entropy. See `ActionDistribution.entropy`."""
    return actions.entropy(self._logits(outputs), self._num_choices)


def make_distribution(
  world_model: WorldModel, continuous: str = "tanh_normal", uniform_share: float = 0.0
) -> ActionDistribution:
  """Makes the distribution of a world model's actions.

  Args:
    world_model: gives the kind and the size of the actions.
    continuous: the distribution of continuous actions, one of `DISTRIBUTIONS`.
    uniform_share: the weight of a uniform distribution that is mixed with categorical actions.

  Returns:
    A `OneHot` for categorical actions, else the named distribution.
  """
  if world_model.num_choices:
    return OneHot(world_model.num_choices, uniform_share)
  return DISTRIBUTIONS[continuous](world_model.action_size)


def _normal_cdf(x: tf.Tensor) -> tf.Tensor:
  return 0.5 * tf.math.erfc(-math.sqrt(0.5) * x)


def _normal_density(x: tf.Tensor) -> tf.Tensor:
  return tf.exp(-0.5 * tf.square(x)) / math.sqrt(2.0 * math.pi)
