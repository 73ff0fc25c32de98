"""Networks on a world model's features: the actor, which is a policy, and the critic."""

from __future__ import annotations

from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf

from wm_tf.core import Nest
from wm_tf.models.world_model import WorldModel


class FeatureNetwork(tf.Module):
  """A multilayer perceptron on standardised features."""

  def __init__(
    self,
    feature_size: int,
    hidden_sizes: Sequence[int],
    output_size: int,
    seed: int,
    name: str = "network",
  ):
    """Makes a network that answers about 0.

    Args:
      feature_size: F.
      hidden_sizes: widths of its hidden layers.
      output_size: width of what it answers.
      seed: of the initial weights.
      name: module name.
    """
    super().__init__(name=name)
    self.loc = tf.Variable(tf.zeros([feature_size]), trainable=False, name="loc")
    self.scale = tf.Variable(tf.ones([feature_size]), trainable=False, name="scale")
    initial = [keras.initializers.GlorotUniform(seed + i) for i in range(len(hidden_sizes))]
    self.layers = [
      keras.layers.Dense(size, activation="silu", kernel_initializer=initializer)
      for size, initializer in zip(hidden_sizes, initial, strict=True)
    ]
    last = keras.initializers.RandomNormal(stddev=0.01, seed=seed + len(hidden_sizes))
    self.layers.append(keras.layers.Dense(output_size, kernel_initializer=last))
    for layer, size in zip(self.layers, (feature_size, *hidden_sizes), strict=True):
      layer.build((None, size))

  @property
  def weights(self) -> list[keras.Variable]:
    """What is trained."""
    return [weight for layer in self.layers for weight in layer.trainable_weights]

  def state(self) -> dict[str, tf.Variable]:
    """Every variable by name: what a checkpoint holds."""
    weights = {f"weights_{i}": weight.value for i, weight in enumerate(self.weights)}
    return {"loc": self.loc, "scale": self.scale, **weights}

  def standardise(self, features: np.ndarray, latent_size: int) -> None:
    """Fits `loc` and `scale` to real features `float32[M, F]`.

    The first `latent_size` columns are only centred, for the reason that `linear.fit_basis` gives.
    """
    features = np.asarray(features, np.float64)
    scale = np.maximum(features.std(0), 1e-2)
    scale[:latent_size] = 1.0
    self.loc.assign(features.mean(0).astype(np.float32))
    self.scale.assign(scale.astype(np.float32))

  def __call__(self, features: tf.Tensor) -> tf.Tensor:
    """`float32[..., F]` to `float32[..., output_size]`."""
    x = (features - self.loc) / self.scale
    for layer in self.layers:
      x = layer(x)
    return x


class Actor(tf.Module):
  """`action = tanh(network(features))`: a policy that acts on a world model's features."""

  def __init__(
    self, world_model: WorldModel, hidden_sizes: Sequence[int], seed: int = 0, name: str = "actor"
  ):
    super().__init__(name=name)
    self._world_model = world_model
    self.network = FeatureNetwork(
      world_model.feature_size, hidden_sizes, world_model.action_size, seed
    )

  def initial_memory(self, batch_size):
    return ()

  def act(self, state, memory, seed=None, explore: bool = False):
    return tf.tanh(self.network(self._world_model.features(state))), memory


class Critic(tf.Module):
  """The return that the actor it was trained with still expects from a state."""

  def __init__(
    self,
    world_model: WorldModel,
    hidden_sizes: Sequence[int],
    reward_scale: float,
    discount: float,
    seed: int = 0,
    name: str = "critic",
  ):
    """Makes a critic.

    Args:
      world_model: gives the features.
      hidden_sizes: hidden layers.
      reward_scale: the network answers in units of reward times this.
      discount: that its values are for; a planner must discount alike.
      seed: of the initial weights.
      name: module name.
    """
    super().__init__(name=name)
    self._world_model, self._reward_scale, self.discount = world_model, reward_scale, discount
    self.network = FeatureNetwork(world_model.feature_size, hidden_sizes, 1, seed)

  def value(self, state: Nest) -> tf.Tensor:
    """Discounted return to come, in units of reward: `float32[B]`."""
    features = self._world_model.features(state)
    return self.network(features)[..., 0] / self._reward_scale
