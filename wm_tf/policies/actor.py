"""Networks on a world model's features: the actor, which is a policy, and its critic."""

from __future__ import annotations

from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf

from wm_tf import two_hot
from wm_tf.core import Nest
from wm_tf.models.world_model import WorldModel
from wm_tf.norms import RMSNorm
from wm_tf.policies.distributions import ActionDistribution, make_distribution


class FeatureNetwork(tf.Module):
  """A multilayer perceptron on standardised features."""

  def __init__(
    self,
    feature_size: int,
    hidden_sizes: Sequence[int],
    output_size: int,
    seed: int,
    name: str = "network",
    normalised: bool = False,
  ):
    """Makes a network whose initial outputs are close to 0.

    Args:
      feature_size: F.
      hidden_sizes: widths of the hidden layers.
      output_size: width of the output.
      seed: seed of the initial weights.
      name: module name.
      normalised: whether hidden layers have an `RMSNorm` before their activation.
    """
    super().__init__(name=name)
    self.loc = tf.Variable(tf.zeros([feature_size]), trainable=False, name="loc")
    self.scale = tf.Variable(tf.ones([feature_size]), trainable=False, name="scale")
    initial = [keras.initializers.GlorotUniform(seed + i) for i in range(len(hidden_sizes))]
    self.norms = [RMSNorm(size) for size in hidden_sizes] if normalised else []
    activation = None if normalised else "silu"
    self.layers = [
      keras.layers.Dense(size, activation=activation, kernel_initializer=initializer)
      for size, initializer in zip(hidden_sizes, initial, strict=True)
    ]
    last = keras.initializers.RandomNormal(stddev=0.01, seed=seed + len(hidden_sizes))
    self.layers.append(keras.layers.Dense(output_size, kernel_initializer=last))
    for layer, size in zip(self.layers, (feature_size, *hidden_sizes), strict=True):
      layer.build((None, size))

  @property
  def weights(self) -> list[keras.Variable]:
    """The trainable weights."""
    layers = (*self.layers, *self.norms)
    return [weight for layer in layers for weight in layer.trainable_weights]

  def state(self) -> dict[str, tf.Variable]:
    """Returns all variables by name, as a checkpoint stores them."""
    weights = {f"weights_{i}": weight.value for i, weight in enumerate(self.weights)}
    return {"loc": self.loc, "scale": self.scale, **weights}

  def standardise(self, features: np.ndarray, only_centred: np.ndarray) -> None:
    """Sets `loc` and `scale` from real features.

    Args:
      features: `float32[M, F]`.
      only_centred: `bool[F]`, the columns that are not divided by their standard deviation; see
        `WorldModel.only_centred_features`.
    """
    features = np.asarray(features, np.float64)
    scale = np.maximum(features.std(0), 1e-2)
    scale[only_centred] = 1.0
    self.loc.assign(features.mean(0).astype(np.float32))
    self.scale.assign(scale.astype(np.float32))

  def __call__(self, features: tf.Tensor) -> tf.Tensor:
    """Computes the outputs.

    Args:
      features: `float32[..., F]`.

    Returns:
      `float32[..., output_size]`.
    """
    x = (features - self.loc) / self.scale
    for i, layer in enumerate(self.layers):
      x = layer(x)
      if i < len(self.norms):
        x = tf.nn.silu(self.norms[i](x))
    return x


class Actor(tf.Module):
  """A policy that acts on a world model's features.

  It takes the deterministic action of the distribution whose parameters the network computes. By
  default that is `tanh(network(features))` for continuous actions, and the most likely choice of
  each group for categorical ones, of which the network computes the logits. If `explore` is true,
  an actor with a learned distribution samples instead.

  Attributes:
    network: maps features to the parameters of the distribution.
    distribution: the distribution of the actions.
    action_size: A.
  """

  def __init__(
    self,
    world_model: WorldModel,
    hidden_sizes: Sequence[int],
    seed: int = 0,
    name: str = "actor",
    distribution: ActionDistribution | None = None,
    normalised: bool = False,
  ):
    """Makes an actor.

    Args:
      world_model: gives the features and the kind of action.
      hidden_sizes: widths of the hidden layers.
      seed: seed of the initial weights.
      name: module name.
      distribution: the distribution of the actions; None for `make_distribution(world_model)`.
      normalised: see `FeatureNetwork`.
    """
    super().__init__(name=name)
    self._world_model, self.action_size = world_model, world_model.action_size
    self.distribution = distribution or make_distribution(world_model)
    self.network = FeatureNetwork(
      world_model.feature_size,
      hidden_sizes,
      self.distribution.output_size,
      seed,
      normalised=normalised,
    )

  def initial_memory(self, batch_size):
    """Returns `()`, because an actor has no memory. See `Policy.initial_memory`."""
    return ()

  def act(self, state, memory, seed=None, explore: bool = False):
    """Chooses actions.

    Args:
      state: the world model's state of B rows.
      memory: `()`.
      seed: `int32[2]` or `int32[B, 2]`; used only to sample; None otherwise.
      explore: whether to sample instead of acting deterministically; needs a learned distribution.

    Returns:
      `(action float32[B, A], memory)`.
    """
    outputs = self.network(self._world_model.features(state))
    if explore and self.distribution.learned:
      shape = [tf.shape(outputs)[0], self.action_size]
      return self.distribution.sample(outputs, self.distribution.draw_noise(shape, seed)), memory
    return self.distribution.deterministic(outputs), memory


class Critic(tf.Module):
  """Estimates the discounted return that its actor obtains from a state.

  The output of the network is the value, and its loss is the squared error.

  Attributes:
    network: predicts the return times `reward_scale`.
    reward_scale: a constant, or a variable `float32[]` that is derived from data.
    discount: discount of the predicted returns; a planner with this critic must use the same one.
    output_size: number of outputs of the network.
  """

  output_size = 1

  def __init__(
    self,
    world_model: WorldModel,
    hidden_sizes: Sequence[int],
    reward_scale: float | None,
    discount: float,
    seed: int = 0,
    name: str = "critic",
    normalised: bool = False,
  ):
    """Makes a critic.

    Args:
      world_model: gives the features.
      hidden_sizes: widths of the hidden layers.
      reward_scale: factor on returns in the network's output; None for a variable, initially 1,
        that is derived from data later.
      discount: factor per decision.
      seed: seed of the initial weights.
      name: module name.
      normalised: see `FeatureNetwork`.
    """
    super().__init__(name=name)
    self._world_model, self.discount = world_model, discount
    # A constant remains a constant in exported graphs and is not stored in checkpoints.
    self.reward_scale = (
      tf.Variable(1.0, trainable=False, name="reward_scale")
      if reward_scale is None
      else reward_scale
    )
    self.network = FeatureNetwork(
      world_model.feature_size, hidden_sizes, self.output_size, seed, normalised=normalised
    )

  def state(self) -> dict[str, tf.Variable]:
    """Returns all variables by name: those of the network, and `reward_scale` if it is derived."""
    derived = isinstance(self.reward_scale, tf.Variable)
    return self.network.state() | ({"reward_scale": self.reward_scale} if derived else {})

  def value(self, state: Nest) -> tf.Tensor:
    """Computes the expected discounted return in units of reward.

    Args:
      state: the world model's state of B rows.

    Returns:
      `float32[B]`.
    """
    features = self._world_model.features(state)
    return self.scaled_values(self.network(features)) / self.reward_scale

  def scaled_values(self, outputs: tf.Tensor) -> tf.Tensor:
    """Computes values from the outputs of the network.

    Args:
      outputs: `float32[..., output_size]`.

    Returns:
      `float32[...]`, in units of scaled reward.
    """
    return outputs[..., 0]

  def loss(self, outputs: tf.Tensor, target: tf.Tensor) -> tf.Tensor:
    """Computes the loss of the outputs.

    Args:
      outputs: `float32[..., output_size]`.
      target: `float32[...]`, in units of scaled reward.

    Returns:
      `float32[...]`.
    """
    return tf.square(outputs[..., 0] - target)


class TwoHotCritic(Critic):
  """A critic whose network predicts a categorical distribution of the return.

  The 101 values of the distribution are `symexp(linspace(-10, 10, 101))`, so returns of any scale
  can be predicted, and the size of the gradients does not depend on that scale. The value is the
  mean, and the loss is the cross-entropy with two-hot targets. The output layer is initialized to
  zero, so that first values are 0.

  References:
    Hafner et al. 2023 (DreamerV3), arXiv:2301.04104, section "Critic learning".
  """

  output_size = two_hot.NUM_SYMEXP_BINS

  def __init__(
    self,
    world_model: WorldModel,
    hidden_sizes: Sequence[int],
    reward_scale: float | None,
    discount: float,
    seed: int = 0,
    name: str = "critic",
    normalised: bool = False,
  ):
    """Makes a critic. See `Critic`."""
    super().__init__(world_model, hidden_sizes, reward_scale, discount, seed, name, normalised)
    self._bins = tf.constant(two_hot.symexp_bins(np.expm1(10.0)), tf.float32)
    kernel = self.network.layers[-1].kernel
    kernel.assign(tf.zeros_like(kernel))

  def scaled_values(self, outputs):
    """Returns the means of the distributions. See `Critic.scaled_values`."""
    return two_hot.symmetric_mean(outputs, self._bins)

  def loss(self, outputs, target):
    """Returns the cross-entropy in nats. See `Critic.loss`."""
    return two_hot.cross_entropy(outputs, target, self._bins)
