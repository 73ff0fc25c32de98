"""Trained controllers as layers of arrays that can be perturbed, searched and stacked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from wm_tf import actions
from wm_tf.checks import ConfigError
from wm_tf.core import Policy
from wm_tf.models.world_model import WorldModel
from wm_tf.policies.actor import Actor
from wm_tf.policies.distributions import ClippedNormal
from wm_tf.policies.linear import LinearController

# The layers of a `Network` whose first layer takes the features themselves.
Layers = tuple[np.ndarray, ...]


class Network(NamedTuple):
  """A controller as arrays: layers with `silu` between them, on mapped features.

  An action is the `tanh` of the last layer's output, or its largest number in each group.

  Attributes:
    loc, matrix: `float32[F]` and `float32[F, G]`: the input of the first layer is
      `(features - loc) @ matrix`, whose columns have about equal variance.
    layers: weights `float32[inputs + 1, outputs]`, with the bias in the last row.
  """

  loc: np.ndarray
  matrix: np.ndarray
  layers: tuple[np.ndarray, ...]

  @classmethod
  def of(cls, policy: Policy) -> Network:
    """Makes a `Network` from the weights of a policy.

    Args:
      policy: a `LinearController` or an `Actor`.

    Returns:
      The network.

    Raises:
      ConfigError: for an actor whose layers are normalised, or whose actions are not the tanh of
        its outputs.
      ValueError: for any other policy.
    """
    if isinstance(policy, LinearController):
      weights = policy.parameters.numpy().reshape(policy.basis_size + 1, policy.action_size)
      return cls(policy.loc.numpy(), policy.matrix.numpy(), (weights,))
    if isinstance(policy, Actor):
      net = policy.network
      if net.norms:
        raise ConfigError(
          "An actor with normalised layers cannot be varied; set "
          "controller.actor_critic.normalised_layers=False."
        )
      if isinstance(policy.distribution, ClippedNormal):
        raise ConfigError(
          "An actor of clipped_normal actions cannot be varied; set "
          "controller.actor_critic.action_distribution=truncated_normal."
        )
      layers = [np.vstack([layer.kernel.numpy(), layer.bias.numpy()]) for layer in net.layers]
      # Other outputs determine the scale of the distribution, and not its deterministic action.
      layers[-1] = layers[-1][:, : policy.action_size]
      return cls(net.loc.numpy(), np.diag(1.0 / net.scale.numpy()), tuple(layers))
    raise ValueError(
      f"A {type(policy).__name__} cannot be varied: only linear controllers and actors can."
    )

  def fold(self) -> Layers:
    """Returns the layers of an equal controller that takes the features themselves.

    Returns:
      Arrays `float32[inputs + 1, outputs]`; the first layer has F inputs.
    """
    first = self.layers[0].astype(np.float64)
    weights = self.matrix @ first[:-1]
    folded = np.vstack([weights, first[-1] - self.loc @ weights])
    return tuple(layer.astype(np.float32) for layer in (folded, *self.layers[1:]))


def controller_actions(
  layers: Sequence[tf.Tensor], features: tf.Tensor, num_choices: actions.NumChoices = ()
) -> tf.Tensor:
  """Computes the actions of many controllers.

  Args:
    layers: the stacked layers of N controllers, each `float32[N, inputs + 1, outputs]`.
    features: `float32[N, R, F]`, R rows for each controller.
    num_choices: choices in each group of a categorical action; empty for continuous actions.

  Returns:
    `float32[N, R, A]`, in [-1, 1] or one-hot.
  """
  x = features
  for index, layer in enumerate(layers):
    x = tf.linalg.matmul(tf.nn.silu(x) if index else x, layer[:, :-1]) + layer[:, -1:]
  return actions.greedy(x, num_choices)


class LayersPolicy(tf.Module):
  """A policy whose layers can be replaced, so that many controllers share one compiled graph."""

  def __init__(self, world_model: WorldModel, layers: Layers, name: str = "layers_policy"):
    """Initializes the policy.

    Args:
      world_model: gives the features and the kind of action.
      layers: the first layers, each `float32[inputs + 1, outputs]`.
      name: module name.
    """
    super().__init__(name=name)
    self._world_model = world_model
    self._layers = [tf.Variable(layer[np.newaxis], trainable=False) for layer in layers]

  def become(self, layers: Layers) -> None:
    """Replaces the layers.

    Args:
      layers: layers of the same sizes, each `float32[inputs + 1, outputs]`.
    """
    for variable, layer in zip(self._layers, layers, strict=True):
      variable.assign(layer[np.newaxis])

  def initial_memory(self, batch_size):
    """Returns `()`. See `Policy.initial_memory`."""
    return ()

  def act(self, state, memory, seed=None, explore: bool = False):
    """Computes the layers' actions; `seed` and `explore` are not used. See `Policy.act`."""
    features = self._world_model.features(state)
    num_choices = self._world_model.num_choices
    return controller_actions(self._layers, features[tf.newaxis], num_choices)[0], memory


def become(policy: Policy, network: Network) -> None:
  """Assigns layers to a policy.

  Args:
    policy: a `LinearController` or an `Actor`.
    network: has the sizes of `Network.of(policy)`; its `loc` and `matrix` are not used.
  """
  if isinstance(policy, LinearController):
    policy.parameters.assign(network.layers[0].reshape(-1))
    return
  for layer, values in zip(policy.network.layers, network.layers, strict=True):
    kernel, bias, size = layer.kernel.numpy(), layer.bias.numpy(), values.shape[1]
    kernel[:, :size], bias[:size] = values[:-1], values[-1]
    layer.kernel.assign(kernel)
    layer.bias.assign(bias)
