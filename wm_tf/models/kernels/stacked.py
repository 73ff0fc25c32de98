"""M layers with separate weights, computed by one batched product."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import keras
import tensorflow as tf

from wm_tf.models.kernels.recurrence import lstm


def _each(make_initializer: Callable[[], Callable]) -> Callable:
  """Makes an initializer of `[M, ...]` that draws the weights of each member separately."""

  def initialize(shape, dtype=None):
    return tf.stack([make_initializer()(shape[1:], dtype=dtype) for _ in range(shape[0])])

  return initialize


class StackedDense(keras.layers.Layer):
  """M dense layers: maps `float32[M, ..., I]` to `float32[M, ..., O]`, row m by layer m."""

  def __init__(self, num_members: int, units: int, activation=None, name=None):
    """Initializes the layer.

    Args:
      num_members: M.
      units: O.
      activation: a Keras activation or its name; None for none.
      name: the name of the layer.
    """
    super().__init__(name=name)
    self.num_members, self.units = num_members, units
    self.activation = keras.activations.get(activation)

  def build(self, input_shape):
    """Creates the weights. See `keras.Layer.build`."""
    shape = (self.num_members, input_shape[-1], self.units)
    glorot = _each(keras.initializers.GlorotUniform)
    self.kernel = self.add_weight(name="kernel", shape=shape, initializer=glorot)
    shape = (self.num_members, 1, self.units)
    self.bias = self.add_weight(name="bias", shape=shape, initializer="zeros")
    self.built = True

  def call(self, x: tf.Tensor) -> tf.Tensor:
    """Maps `float32[M, ..., I]` to `float32[M, ..., O]`. See `keras.Layer.call`."""
    flat = tf.reshape(x, [self.num_members, -1, x.shape[-1]])
    flat = self.activation(tf.matmul(flat, self.kernel) + self.bias)
    return tf.reshape(flat, tf.concat([tf.shape(x)[:-1], [self.units]], axis=0))


class StackedLSTM(keras.layers.Layer):
  """M LSTMs (gates in Keras' order: input, forget, cell, output; the forget bias starts at 1).

  References:
    Hochreiter & Schmidhuber 1997, with the forget gate of Gers et al. 2000.
  """

  def __init__(self, num_members: int, units: int, name=None):
    """Initializes the layer.

    Args:
      num_members: M.
      units: U.
      name: the name of the layer.
    """
    super().__init__(name=name)
    self.num_members, self.units = num_members, units

  def build(self, input_shape):
    """Creates the weights. See `keras.Layer.build`."""
    gates = 4 * self.units
    shape = (self.num_members, input_shape[-1], gates)
    glorot = _each(keras.initializers.GlorotUniform)
    self.kernel = self.add_weight(name="kernel", shape=shape, initializer=glorot)
    shape = (self.num_members, self.units, gates)
    orthogonal = _each(keras.initializers.Orthogonal)
    self.recurrent_kernel = self.add_weight(
      name="recurrent_kernel", shape=shape, initializer=orthogonal
    )

    def one_at_forget_gates(shape, dtype=None):
      return tf.repeat(tf.constant([0.0, 1.0, 0.0, 0.0]), self.units) * tf.ones(shape)

    shape = (self.num_members, 1, gates)
    self.bias = self.add_weight(name="bias", shape=shape, initializer=one_at_forget_gates)
    self.built = True

  def step(self, x: tf.Tensor, h: tf.Tensor, c: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Computes one step of every LSTM.

    Args:
      x: the step's input `float32[M, B, I]`.
      h: the previous output `float32[M, B, U]`.
      c: the previous cell state `float32[M, B, U]`.

    Returns:
      The next `(h, c)`, each `float32[M, B, U]`.
    """
    gates = tf.matmul(x, self.kernel) + self.bias + tf.matmul(h, self.recurrent_kernel)
    return lstm_step(tf.split(gates, 4, axis=-1), c)

  def call(self, x: tf.Tensor) -> tf.Tensor:
    """Computes the outputs of all steps from a zero state.

    Args:
      x: `float32[M, B, T, I]`.

    Returns:
      `h` of every step, `float32[M, B, T, U]`.
    """
    weights = (self.kernel, self.recurrent_kernel, self.bias)
    return lstm(x, *map(tf.convert_to_tensor, weights))


def lstm_step(gates: Sequence[tf.Tensor], c: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
  """Computes the next state of an LSTM from its gates.

  Args:
    gates: four `float32[..., U]` in Keras' order, before their nonlinearities.
    c: the previous cell state `float32[..., U]`.

  Returns:
    The next `(h, c)`, each `float32[..., U]`.
  """
  write, keep, new, show = gates
  c = tf.sigmoid(keep) * c + tf.sigmoid(write) * tf.tanh(new)
  return tf.sigmoid(show) * tf.tanh(c), c


def fan_in() -> keras.initializers.Initializer:
  """Returns an initializer that keeps the scale of the inputs.

  The weights are truncated normal with variance `1 / (number of inputs)` (LeCun et al. 1998,
  "Efficient BackProp", section 4.6).
  """
  return keras.initializers.VarianceScaling(1.0, "fan_in", "truncated_normal")


def make_dense(
  units: int,
  input_size: int,
  num_members: int | None,
  activation=None,
  name=None,
  initializer="glorot_uniform",
):
  """Makes and builds a dense layer, or `num_members` of them.

  Args:
    units: width of the output.
    input_size: width of the input.
    num_members: M; None for one ordinary `keras.layers.Dense`.
    activation: a Keras activation or its name; None for none.
    name: the name of the layer.
    initializer: of the kernel of an ordinary layer.

  Returns:
    A `keras.layers.Dense` or a `StackedDense`.
  """
  if num_members is None:
    layer = keras.layers.Dense(
      units, activation=activation, name=name, kernel_initializer=initializer
    )
  else:
    layer = StackedDense(num_members, units, activation, name=name)
  layer.build((None, input_size))
  return layer
