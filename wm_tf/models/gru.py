"""The recurrent cells of an RSSM: a normalised GRU, and one with block-diagonal weights.

Both compute the next `deter` of a state from `deter`, `stoch` and the action:

    reset, candidate, update = gates(deter, stoch, action)
    candidate = tanh(sigmoid(reset) * candidate)
    deter = sigmoid(update - 1) * candidate + (1 - sigmoid(update - 1)) * deter

References:
  Cho et al. 2014, arXiv:1406.1078, equations 5 to 8 (the GRU).
  Hafner et al. 2023, arXiv:2301.04104, appendix "Networks" (normalisation, blocks, the shift by 1).
"""

from __future__ import annotations

import keras
import tensorflow as tf

from wm_tf.models.kernels.loop import Tap, TappedDense
from wm_tf.models.kernels.stacked import fan_in
from wm_tf.norms import RMSNorm as RMSNorm

CELLS = ("gru", "block_gru")


def make_tapped(units: int, input_size: int) -> TappedDense:
  """Makes and builds a dense layer for a recurrent loop.

  Args:
    units: width of the output.
    input_size: width of the input.

  Returns:
    The layer.
  """
  layer = TappedDense(units, kernel_initializer=fan_in())
  layer.build((None, input_size))
  return layer


class NormDense(keras.layers.Layer):
  """A dense layer, `RMSNorm` and the SiLU activation."""

  def __init__(self, units: int, input_size: int):
    """Initializes the weights.

    Args:
      units: width of the output.
      input_size: width of the input.
    """
    super().__init__()
    self.dense, self.norm = make_tapped(units, input_size), RMSNorm(units)
    self.built = True

  def call(self, x: tf.Tensor) -> tf.Tensor:
    """Maps `float32[..., input_size]` to `float32[..., units]`. See `keras.Layer.call`."""
    return tf.nn.silu(self.norm(self.dense(x)))


class BlockDense(keras.layers.Layer):
  """G dense layers, each from its own part of the input to its own part of the output."""

  def __init__(self, num_blocks: int, units: int, input_size: int):
    """Initializes the weights.

    Args:
      num_blocks: G.
      units: width of the whole output, a multiple of G.
      input_size: width of the input of one block.
    """
    super().__init__()
    self.num_blocks = num_blocks
    self.kernel = self.add_weight(
      name="kernel",
      shape=(num_blocks, input_size, units // num_blocks),
      initializer=fan_in(),
    )
    self.bias = self.add_weight(name="bias", shape=(units,), initializer="zeros")
    self.built = True

  def call(self, x: tf.Tensor) -> tf.Tensor:
    """Maps `float32[B, G, input_size]` to `float32[B, units]`. See `keras.Layer.call`."""
    y = tf.einsum("bgi,gio->bgo", x, self.kernel)
    y = tf.reshape(y, [-1, self.bias.shape[0]]) + self.bias
    return Tap.active.through(self, x, y) if Tap.active else y

  def weight_gradients(self, x: tf.Tensor, dy: tf.Tensor):
    """Computes the gradients of the weights. See `TappedDense.weight_gradients`."""
    blocks = tf.reshape(dy, [-1, *self.kernel.shape[::2]])
    kernel = tf.einsum("bgi,bgo->gio", x, blocks)
    return [(self.kernel, kernel), (self.bias, tf.reduce_sum(dy, axis=0))]


class GRU(keras.layers.Layer):
  """The cell with full weight matrices; see the equations at the top of the module."""

  def __init__(self, deter_size: int, hidden_size: int, stoch_size: int, action_size: int):
    """Initializes the weights.

    Args:
      deter_size: D.
      hidden_size: width of the layer on `stoch` and the action.
      stoch_size: width of `stoch`.
      action_size: A.
    """
    super().__init__(name="gru")
    self.inputs = NormDense(hidden_size, stoch_size + action_size)
    self.gates = make_tapped(3 * deter_size, hidden_size + deter_size)
    self.norm = RMSNorm(3 * deter_size)
    self.built = True

  def call(self, deter: tf.Tensor, stoch: tf.Tensor, action: tf.Tensor) -> tf.Tensor:
    """Computes the next `deter`. See `keras.Layer.call`.

    Args:
      deter: `float32[B, D]`.
      stoch: `float32[B, stoch_size]`.
      action: `float32[B, A]`.

    Returns:
      `float32[B, D]`.
    """
    x = self.inputs(tf.concat([stoch, action], axis=-1))
    gates = self.norm(self.gates(tf.concat([x, deter], axis=-1)))
    return gated(deter, *tf.split(gates, 3, axis=-1))


class BlockGRU(keras.layers.Layer):
  """The cell with block-diagonal recurrent weights, which allow a wide `deter` at a low cost.

  Every block reads its own part of `deter`, and all of three hidden layers: on `deter`, `stoch` and
  the action.
  """

  def __init__(
    self, deter_size: int, hidden_size: int, stoch_size: int, action_size: int, num_blocks: int
  ):
    """Initializes the weights.

    Args:
      deter_size: D, a multiple of `num_blocks`.
      hidden_size: width of each of the three hidden layers.
      stoch_size: width of `stoch`.
      action_size: A.
      num_blocks: G.
    """
    super().__init__(name="block_gru")
    self.num_blocks, self.block_size = num_blocks, deter_size // num_blocks
    self.inputs = [NormDense(hidden_size, size) for size in (deter_size, stoch_size, action_size)]
    self.hidden = BlockDense(num_blocks, deter_size, self.block_size + 3 * hidden_size)
    self.norm = RMSNorm(deter_size)
    self.gates = BlockDense(num_blocks, 3 * deter_size, self.block_size)
    self.built = True

  def call(self, deter: tf.Tensor, stoch: tf.Tensor, action: tf.Tensor) -> tf.Tensor:
    """Computes the next `deter`. See `GRU.call`."""
    layers = zip(self.inputs, (deter, stoch, action), strict=True)
    shared = tf.concat([layer(x) for layer, x in layers], axis=-1)
    shared = tf.tile(shared[:, tf.newaxis], [1, self.num_blocks, 1])
    x = self.hidden(tf.concat([self._blocks(deter), shared], axis=-1))
    gates = self.gates(self._blocks(tf.nn.silu(self.norm(x))))
    # Each block has its own three gates.
    gates = tf.reshape(gates, [-1, self.num_blocks, 3, self.block_size])
    reset, candidate, update = (
      tf.reshape(gate, tf.shape(deter)) for gate in tf.unstack(gates, axis=2)
    )
    return gated(deter, reset, candidate, update)

  def _blocks(self, x: tf.Tensor) -> tf.Tensor:
    return tf.reshape(x, [-1, self.num_blocks, self.block_size])


def gated(deter: tf.Tensor, reset: tf.Tensor, candidate: tf.Tensor, update: tf.Tensor) -> tf.Tensor:
  """Computes the next `deter` from the gates; see the equations at the top of the module.

  Args:
    deter: `float32[B, D]`.
    reset, candidate, update: gates before their nonlinearities, each `float32[B, D]`.

  Returns:
    `float32[B, D]`.
  """
  # The shift makes a new cell change its state slowly.
  update = tf.sigmoid(update - 1.0)
  return update * tf.tanh(tf.sigmoid(reset) * candidate) + (1.0 - update) * deter
