"""The controllers around a trained one, as the vectors of a search in the environment."""

from __future__ import annotations

import numpy as np

from wm_tf.policies.networks import Network

PARAMETERS = ("output", "last", "all")


class SearchSpace:
  """Controllers around a given one as vectors; the vector 0 is the given controller.

  A unit of `last` and `all` is the root mean square of the layer's weights, so that one scale suits
  every layer. With `output` the last layer `[W; b]` becomes `[W (I + M); b (I + M) + c]`: the raw
  outputs are scaled, mixed and shifted.

  Attributes:
    size: D.
    num_frozen: number of first layers that are not searched.
  """

  def __init__(self, network: Network, parameters: str):
    """Creates the space around a controller.

    Args:
      network: the controller.
      parameters: the searched parameters: `output`, `last` or `all`.
    """
    self.network, self._parameters = network, parameters
    self.num_frozen = 0 if parameters == "all" else len(network.layers) - 1
    self._bases = network.layers[self.num_frozen :]
    self._units = [np.sqrt(np.mean(np.square(base))) or 1.0 for base in self._bases]
    if parameters == "output":
      outputs = self._bases[0].shape[1]
      self.size = outputs * outputs + outputs
    else:
      self.size = sum(base.size for base in self._bases)

  def layers(self, x: np.ndarray) -> list[np.ndarray]:
    """Computes the searched layers of N controllers.

    Args:
      x: `[N, D]`.

    Returns:
      Arrays `float32[N, inputs + 1, outputs]`, one for each searched layer.
    """
    x = np.asarray(x, np.float64)
    if self._parameters == "output":
      (base,) = self._bases
      outputs = base.shape[1]
      gain = x[:, : outputs * outputs].reshape(-1, outputs, outputs) + np.eye(outputs)
      layer = base @ gain
      layer[:, -1] += x[:, outputs * outputs :]
      return [layer.astype(np.float32)]
    parts = np.split(x, np.cumsum([base.size for base in self._bases])[:-1], axis=1)
    return [
      (base + unit * part.reshape(-1, *base.shape)).astype(np.float32)
      for base, unit, part in zip(self._bases, self._units, parts, strict=True)
    ]

  def at(self, x: np.ndarray) -> Network:
    """Makes the controller of one vector.

    Args:
      x: `[D]`.

    Returns:
      The `Network`.
    """
    searched = tuple(layer[0] for layer in self.layers(np.asarray(x)[np.newaxis]))
    return self.network._replace(layers=(*self.network.layers[: self.num_frozen], *searched))
