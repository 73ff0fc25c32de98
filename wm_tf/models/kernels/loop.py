"""A recurrent loop whose gradient needs one product for each weight matrix.

TensorFlow's gradient of a loop keeps every intermediate tensor of every step, and adds a product to
the gradient of each weight matrix at every step. Here the backward loop computes each step again
from the state before it, and records what enters the dense layers and the gradients of what leaves
them. The gradients of all weight matrices are then one product each.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import keras
import tensorflow as tf

from wm_tf.core import Nest


class Tap:
  """Sees the inputs of `TappedDense` layers, and adds probes to their outputs.

  Attributes:
    inputs, outputs: the input and the output of each layer.
    probes: what is added to the output of each layer; zeros, whose gradient is that of the output.
    transposed: the transposed kernel of some layers, for the gradient of their inputs.
  """

  active: Tap | None = None

  def __init__(self):
    """Makes a tap that has seen nothing."""
    self.inputs: dict[Any, tf.Tensor] = {}
    self.outputs: dict[Any, tf.Tensor] = {}
    self.probes: dict[Any, tf.Tensor] = {}
    self.transposed: dict[Any, tf.Tensor] = {}

  def through(self, layer, x: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
    """Records an input, and adds a probe if there is one.

    Args:
      layer: the layer; it may be called once.
      x: its input.
      y: its output.

    Returns:
      The output to use.
    """
    assert layer not in self.inputs, f"{layer.name} is called twice in a step."
    self.inputs[layer], self.outputs[layer] = x, y
    return y + self.probes[layer] if layer in self.probes else y

  @contextlib.contextmanager
  def opened(self) -> Iterator[Tap]:
    """Lets the layers that are called within the block go through this tap."""
    before, Tap.active = Tap.active, self
    try:
      yield self
    finally:
      Tap.active = before


class TappedDense(keras.layers.Dense):
  """A dense layer whose gradient `recurrent_loop` can take out of its loop."""

  def call(self, x: tf.Tensor) -> tf.Tensor:
    """Maps `float32[B, I]` to `float32[B, units]`. See `keras.layers.Dense.call`."""
    if not Tap.active:
      return super().call(x)
    if self in Tap.active.transposed:
      y = _product(x, self.kernel.value, Tap.active.transposed[self]) + self.bias
    else:
      y = super().call(x)
    return Tap.active.through(self, x, y)

  def weight_gradients(self, x: tf.Tensor, dy: tf.Tensor) -> list[tuple[Any, tf.Tensor]]:
    """Computes the gradients of the weights.

    Args:
      x: inputs, `float32[N, I]`.
      dy: gradients of the outputs, `float32[N, units]`.

    Returns:
      Pairs of a weight and its gradient.
    """
    kernel = tf.matmul(x, dy, transpose_a=True)
    return [(self.kernel, kernel), (self.bias, tf.reduce_sum(dy, axis=0))]


@tf.custom_gradient
def _product(x: tf.Tensor, kernel: tf.Tensor, transposed: tf.Tensor):
  """Returns `x @ kernel`, whose gradient for `x` uses a transposed kernel that exists already.

  A product with few rows takes several times as long if the kernel is transposed within it.
  """
  return tf.matmul(x, kernel), lambda dy: (tf.matmul(dy, transposed), None, None)


def recurrent_loop(
  step: Callable[[Nest, Nest, Nest], tuple[Nest, Nest]],
  initial: Nest,
  inputs: Nest,
  constants: Nest,
  jit_compile: bool = False,
) -> tuple[Nest, Nest]:
  """Computes `state, output = step(state, input, constant)` for every step.

  Args:
    step: the step; it may read variables.
    initial: the first state, a nest of `float32[B, ...]`, to which no gradient flows.
    inputs: a nest of `float32[T, B, ...]`.
    constants: a nest of `[T, B, ...]`, to which no gradient flows.
    jit_compile: whether XLA compiles the loop and its gradient, each by itself. Within a program
      that is compiled as a whole this is not needed.

  Returns:
    The states and the outputs of all steps, nests of `[T, B, ...]`.
  """
  compiled = tf.function(autograph=False, jit_compile=True) if jit_compile else lambda f: f
  constants = tf.nest.map_structure(tf.stop_gradient, constants)

  @compiled
  def forward(flat):
    inputs_ = tf.nest.pack_sequence_as(inputs, flat)
    first = step(initial, *_at((inputs_, constants), 0))
    arrays = [_array(x, _length(flat)) for x in tf.nest.flatten(first)]

    def body(t, state, arrays):
      found = step(state, *_at((inputs_, constants), t))
      written = [a.write(t, x) for a, x in zip(arrays, tf.nest.flatten(found), strict=True)]
      return t + 1, found[0], written

    _, _, arrays = _while(_length(flat), body, (initial, arrays))
    return tf.nest.pack_sequence_as(first, [array.stack() for array in arrays])

  @tf.custom_gradient
  def run(*flat):
    found = forward(flat)

    def gradient(*upstream, variables=()):
      states = found[0]

      @compiled
      def backward(flat, states, upstream):
        inputs_ = tf.nest.pack_sequence_as(inputs, flat)
        before = tf.nest.map_structure(
          lambda x0, x: tf.concat([x0[tf.newaxis], x[:-1]], axis=0), initial, states
        )
        return _backward(
          step, before, inputs_, constants, tf.nest.pack_sequence_as(found, upstream), variables
        )

      d_inputs, d_variables = backward(list(flat), states, list(upstream))
      return (d_inputs, d_variables) if variables else d_inputs

    return found, gradient

  return run(*tf.nest.flatten(inputs))


def _backward(step, before, inputs, constants, upstream, variables):
  """Returns the gradients of the inputs, as a flat list, and of the variables."""
  flat = tf.nest.flatten(inputs)
  length = _length(flat)
  with Tap().opened() as tap:
    step(*_at((before, inputs, constants), 0))
  layers = list(tap.inputs)
  hoisted = {id(w.value) for layer in layers for w in layer.trainable_weights}
  inner = [v for v in variables if id(v) not in hoisted]
  transposed = {
    layer: tf.transpose(layer.kernel) for layer in layers if isinstance(layer, TappedDense)
  }

  def body(t, d_state, d_inner, arrays):
    state, x, constant = _at((before, inputs, constants), t)
    taps = Tap()
    taps.probes = {layer: tf.zeros_like(y) for layer, y in tap.outputs.items()}
    taps.transposed = transposed
    watched = [state, tf.nest.flatten(x), list(taps.probes.values()), inner]
    with tf.GradientTape(watch_accessed_variables=False) as tape:
      tape.watch(watched)
      with taps.opened():
        outputs = step(state, x, constant)
    ups = _at(upstream, t)
    ups = tf.nest.map_structure(tf.add, ups[0], d_state), ups[1]
    d_state, d_x, d_y, d_more = tape.gradient(
      tf.nest.flatten(outputs),
      watched,
      output_gradients=tf.nest.flatten(ups),
      unconnected_gradients="zero",
    )
    d_inner = [total + more for total, more in zip(d_inner, d_more, strict=True)]
    found = [*d_x, *d_y, *(taps.inputs[layer] for layer in layers)]
    return t - 1, d_state, d_inner, [a.write(t, x) for a, x in zip(arrays, found, strict=True)]

  shaped = [*(x[0] for x in flat), *tap.outputs.values(), *tap.inputs.values()]
  arrays = [_array(x, length) for x in shaped]
  zeros = tf.nest.map_structure(lambda x: tf.zeros_like(x[0]), before)
  _, _, d_inner, arrays = tf.while_loop(
    lambda t, *_: t >= 0,
    body,
    (length - 1, zeros, [tf.zeros_like(v) for v in inner], arrays),
    maximum_iterations=length,
  )
  stacked = [array.stack() for array in arrays]
  d_inputs, rest = stacked[: len(flat)], stacked[len(flat) :]
  found = {id(v): g for v, g in zip(inner, d_inner, strict=True)}
  for layer, dy, x in zip(layers, rest[: len(layers)], rest[len(layers) :], strict=True):
    rows = [tf.reshape(values, [-1, *values.shape[2:]]) for values in (x, dy)]
    found |= {id(weight.value): g for weight, g in layer.weight_gradients(*rows)}
  return d_inputs, [found[id(v)] for v in variables]


def _at(nest: Nest, t) -> Nest:
  return tf.nest.map_structure(lambda x: x[t], nest)


def _length(flat):
  return flat[0].shape[0] or tf.shape(flat[0])[0]


def _array(x: tf.Tensor, length) -> tf.TensorArray:
  return tf.TensorArray(x.dtype, length, element_shape=x.shape)


def _while(length, body, state):
  return tf.while_loop(lambda t, *_: t < length, body, (0, *state), maximum_iterations=length)
