"""The heads of a world model that map its features to reward and termination.

With `num_members` = M a head consists of M heads with separate weights. Hidden states and outputs
then have a leading dimension M.
"""

from __future__ import annotations

import keras
import numpy as np
import tensorflow as tf

from wm_tf import two_hot
from wm_tf.models.gru import NormDense
from wm_tf.models.kernels.stacked import make_dense

# Tolerance for rewards beyond the outermost bins, relative to the bin; it allows for rounding.
_TOLERANCE = 1e-4


class RewardRangeError(ValueError):
  """A reward head cannot represent the rewards of the data."""


def check_reward_bins(bins) -> np.ndarray:
  """Returns the reward values of a reward head as `float32[num_bins]`.

  Args:
    bins: a sequence of numbers.

  Raises:
    ValueError: if `bins` are not two or more increasing numbers.
  """
  bins = np.asarray(bins, np.float32)
  if bins.ndim != 1 or len(bins) < 2 or not np.all(np.diff(bins) > 0):
    raise ValueError(f"reward_bins must be two or more increasing numbers, got {bins.tolist()}.")
  return bins


class RewardHead(keras.layers.Layer):
  """A categorical distribution over given values of the reward of a step.

  A target between two values becomes weights of the two whose mean is the target (the two-hot of
  Bellemare et al. 2017, arXiv:1707.06887, equation 7, with a point mass).
  """

  _range_field = "dynamics.reward_bins"

  def __init__(
    self,
    bins,
    input_size: int,
    hidden_size: int = 0,
    num_members: int | None = None,
    name="reward",
    normalised: bool = False,
  ):
    """Creates the head.

    Args:
      bins: two or more increasing values of the reward, `[N]`.
      input_size: width U of the hidden states.
      hidden_size: width of a hidden layer of ReLUs; 0 for none.
      num_members: number of heads M with separate weights; None for one head without that
        dimension.
      name: name of the layer.
      normalised: see `HeadNetwork`.

    Raises:
      ValueError: if `bins` are not increasing.
    """
    super().__init__(name=name)
    self.bins = tf.constant(check_reward_bins(bins))
    self.network = HeadNetwork(self.bins.shape[0], input_size, hidden_size, num_members, normalised)
    self.built = True

  def check_rewards(self, rewards) -> None:
    """Checks that rewards can be represented.

    Args:
      rewards: numbers of any shape.

    Raises:
      RewardRangeError: if one is not finite or lies outside the range of the bins.
    """
    rewards = np.asarray(rewards, np.float64)
    if not np.isfinite(rewards).all():
      raise RewardRangeError("The data hold a reward that is not a finite number.")
    low, high = float(self.bins[0]), float(self.bins[-1])
    outside = (rewards < low - _TOLERANCE * max(abs(low), 1.0)) | (
      rewards > high + _TOLERANCE * max(abs(high), 1.0)
    )
    if outside.any():
      raise RewardRangeError(
        f"The data hold rewards from {rewards.min():g} to {rewards.max():g} ({outside.mean():.2%} "
        f"of them out of range), and the reward head represents {low:g} to {high:g}. "
        f"Widen {self._range_field}."
      )

  def adapt(self, rewards) -> None:
    """Checks the rewards of the training data. See `check_rewards`."""
    self.check_rewards(rewards)

  def mean(self, logits: tf.Tensor) -> tf.Tensor:
    """Returns the expected reward, `float32[...]`.

    Args:
      logits: outputs of `network`, `float32[..., num_bins]`.
    """
    return two_hot.mean(logits, self.bins)

  def two_hot(self, reward: tf.Tensor) -> tf.Tensor:
    """Returns weights of the bins whose mean is the reward, `float32[..., num_bins]`.

    Args:
      reward: `float32[...]`, clipped to the range of the bins; `adapt` refuses data beyond it.
    """
    return two_hot.two_hot(reward, self.bins)

  def loss(self, logits: tf.Tensor, reward: tf.Tensor) -> tf.Tensor:
    """Returns the cross-entropy in nats, `float32[...]`.

    Args:
      logits: outputs of `network`, `float32[..., num_bins]`.
      reward: real rewards `float32[...]`.
    """
    return two_hot.cross_entropy(logits, reward, self.bins)


class SymexpRewardHead(RewardHead):
  """A categorical over exponentially spaced values, for rewards of any scale.

  The bins are `symexp(linspace(-symlog(limit), symlog(limit), 101))`. The output layer is
  initialized to zero, so the mean of an untrained head is zero.

  Bins far from zero make the mean inaccurate: a probability of 1e-4 at the outermost bin of a
  limit of 22025 adds 2.2. The mean is therefore taken over the bins that span the rewards of the
  data, symmetrically around zero. The loss is over all bins.

  References:
    Hafner et al. 2023, arXiv:2301.04104, section "Robust predictions" (symexp two-hot).

  Attributes:
    data_limit: the largest absolute reward of the data, `float32[]`; `limit` before `adapt`.
  """

  _range_field = "dynamics.reward_limit"

  def __init__(
    self,
    limit: float,
    input_size: int,
    hidden_size: int = 0,
    num_members: int | None = None,
    name="reward",
    normalised: bool = False,
  ):
    """Creates the head.

    Args:
      limit: the largest absolute reward that the bins represent.
      input_size: width U of the hidden states.
      hidden_size: width of a hidden layer of ReLUs; 0 for none.
      num_members: number of heads M with separate weights; None for one head without that
        dimension.
      name: name of the layer.
      normalised: see `HeadNetwork`.
    """
    bins = two_hot.symexp_bins(limit)
    super().__init__(bins, input_size, hidden_size, num_members, name, normalised)
    kernel = self.network.output_layer.kernel
    kernel.assign(tf.zeros_like(kernel))
    self.data_limit = self.add_weight(
      name="data_limit",
      shape=(),
      initializer=keras.initializers.Constant(float(self.bins[-1])),
      trainable=False,
    )

  def adapt(self, rewards) -> None:
    """Checks the rewards and sets `data_limit`. See `RewardHead.adapt`."""
    super().adapt(rewards)
    self.data_limit.assign(np.abs(np.asarray(rewards, np.float32)).max(initial=0.0))

  def extend(self, rewards) -> None:
    """Checks more rewards, and increases `data_limit` if they exceed it. See `adapt`.

    Args:
      rewards: numbers of any shape.

    Raises:
      RewardRangeError: see `check_rewards`.
    """
    self.check_rewards(rewards)
    found = np.abs(np.asarray(rewards, np.float32)).max(initial=0.0)
    if found > self.data_limit:
      self.data_limit.assign(found)

  def mean(self, logits: tf.Tensor) -> tf.Tensor:
    """Computes the expected reward within the range of the data. See `RewardHead.mean`."""
    num_positive = two_hot.NUM_SYMEXP_BINS // 2
    size = np.abs(self.bins.numpy())
    # A bin belongs to the range if its neighbour towards zero lies within it.
    neighbour = np.concatenate([size[1 : num_positive + 1], [-1.0], size[num_positive:-1]])
    logits = tf.where(tf.constant(neighbour, tf.float32) < self.data_limit, logits, -1e9)
    return two_hot.symmetric_mean(logits, self.bins)


def make_reward_head(
  bins, limit: float, input_size: int, hidden_size: int, num_members: int | None = None
) -> RewardHead:
  """Returns a `RewardHead` over given values, or a `SymexpRewardHead` if `bins` are None.

  Args:
    bins: increasing reward values; None for symexp two-hot.
    limit: the largest absolute reward of symexp two-hot; not used with `bins`.
    input_size: width of the hidden states.
    hidden_size: width of the hidden layer; 0 for none.
    num_members: M; None for a single head without the leading dimension.
  """
  if bins is None:
    return SymexpRewardHead(limit, input_size, hidden_size, num_members)
  return RewardHead(bins, input_size, hidden_size, num_members)


class TerminationHead(keras.layers.Layer):
  """The probability that a step ends the episode.

  Terminations are rare, so the loss weights them (`positive_weight`, 10 in the paper's Doom
  experiment). The weight multiplies the odds by the same factor; `discount` divides by it to return
  a calibrated probability. The outputs of `network` are log-odds of termination under the weighted
  loss, `float32[..., 1]`.
  """

  def __init__(
    self,
    input_size: int,
    positive_weight: float = 10.0,
    hidden_size: int = 0,
    num_members: int | None = None,
    name="termination",
    normalised: bool = False,
  ):
    """Creates the head.

    Args:
      input_size: width U of the hidden states.
      positive_weight: weight of the loss at a termination.
      hidden_size: width of a hidden layer of ReLUs; 0 for none.
      num_members: number of heads M with separate weights; None for one head without that
        dimension.
      name: name of the layer.
      normalised: see `HeadNetwork`.

    Raises:
      ValueError: if `positive_weight` is not positive.
    """
    super().__init__(name=name)
    if positive_weight <= 0:
      raise ValueError(f"positive_weight must be positive, got {positive_weight}.")
    self.positive_weight = positive_weight
    self.network = HeadNetwork(1, input_size, hidden_size, num_members, normalised)
    self.built = True

  def discount(self, logits: tf.Tensor) -> tf.Tensor:
    """Returns `1 - P(terminal)`, `float32[...]`.

    Args:
      logits: outputs of `network`, `float32[..., 1]`.
    """
    return tf.sigmoid(float(np.log(self.positive_weight)) - logits[..., 0])

  def loss(self, logits: tf.Tensor, discount: tf.Tensor) -> tf.Tensor:
    """Returns the weighted binary cross-entropy in nats, `float32[...]`.

    Args:
      logits: outputs of `network`, `float32[..., 1]`.
      discount: real discounts, `float32[...]` of 0 (terminal) or 1.
    """
    return tf.nn.weighted_cross_entropy_with_logits(
      1.0 - discount, logits[..., 0], self.positive_weight
    )


class HeadNetwork(keras.layers.Layer):
  """A dense layer, after a hidden layer if `hidden_size` is not 0; for inputs of any rank."""

  def __init__(
    self,
    output_size: int,
    input_size: int,
    hidden_size: int,
    num_members: int | None,
    normalised: bool = False,
  ):
    """Creates the layers.

    Args:
      output_size: width of the outputs.
      input_size: width U of the inputs.
      hidden_size: width of a hidden layer of ReLUs; 0 for none.
      num_members: number of networks M with separate weights; None for one network without that
        dimension.
      normalised: whether the hidden layer is a `NormDense` instead; only for a single network.
    """
    super().__init__(name="network")
    self.hidden = None
    if hidden_size and normalised:
      self.hidden = NormDense(hidden_size, input_size)
    elif hidden_size:
      self.hidden = make_dense(hidden_size, input_size, num_members, activation="relu")
    self.output_layer = make_dense(output_size, hidden_size or input_size, num_members)
    self.built = True

  def call(self, x: tf.Tensor) -> tf.Tensor:
    """Maps `float32[..., U]` to `float32[..., output_size]`. See `keras.Layer.call`."""
    return self.output_layer(self.hidden(x) if self.hidden else x)
