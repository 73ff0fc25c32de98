"""Networks on a world model's features: the actor, which is a policy, and its critic."""

from __future__ import annotations

from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf

from wm_tf import actions, rng
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
    """Makes a network whose initial outputs are close to 0.

    Args:
      feature_size: F.
      hidden_sizes: widths of the hidden layers.
      output_size: width of the output.
      seed: seed of the initial weights.
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
    """The trainable weights."""
    return [weight for layer in self.layers for weight in layer.trainable_weights]

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
    for layer in self.layers:
      x = layer(x)
    return x


class Actor(tf.Module):
  """A policy that acts on a world model's features.

  A continuous action is `tanh(network(features))`. For categorical actions the network computes
  logits. The action is the most likely choice of each group, or a sample if `explore` is true.
  """

  def __init__(
    self, world_model: WorldModel, hidden_sizes: Sequence[int], seed: int = 0, name: str = "actor"
  ):
    """Makes an actor.

    Args:
      world_model: gives the features and the kind of action.
      hidden_sizes: widths of the hidden layers.
      seed: seed of the initial weights.
      name: module name.
    """
    super().__init__(name=name)
    self._world_model = world_model
    self.network = FeatureNetwork(
      world_model.feature_size, hidden_sizes, world_model.action_size, seed
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
      explore: whether to sample categorical actions instead of taking the most likely ones.

    Returns:
      `(action float32[B, A], memory)`.
    """
    raw = self.network(self._world_model.features(state))
    num_choices = self._world_model.num_choices
    if explore and num_choices:
      return actions.sample(raw, rng.uniform(tf.shape(raw), seed), num_choices), memory
    return actions.greedy(raw, num_choices), memory


class Critic(tf.Module):
  """Estimates the discounted return that its actor obtains from a state.

  Attributes:
    network: predicts the return times `reward_scale`.
    reward_scale: a constant, or a variable `float32[]` that is derived from data.
    discount: discount of the predicted returns; a planner with this critic must use the same one.
  """

  def __init__(
    self,
    world_model: WorldModel,
    hidden_sizes: Sequence[int],
    reward_scale: float | None,
    discount: float,
    seed: int = 0,
    name: str = "critic",
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
    """
    super().__init__(name=name)
    self._world_model, self.discount = world_model, discount
    # A constant remains a constant in exported graphs and is not stored in checkpoints.
    self.reward_scale = (
      tf.Variable(1.0, trainable=False, name="reward_scale")
      if reward_scale is None
      else reward_scale
    )
    self.network = FeatureNetwork(world_model.feature_size, hidden_sizes, 1, seed)

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
    return self.network(features)[..., 0] / self.reward_scale
