"""An LSTM over whole sequences, with a hand-written gradient."""

from __future__ import annotations

import keras
import tensorflow as tf

_LEAST_ROWS = 16  # Smallest number of rows of a block that runs in its own loop.


class CompiledLSTM(keras.layers.LSTM):
  """Keras' `LSTM` from a zero state, with the same weights and results and compiled loops."""

  def call(self, sequences: tf.Tensor) -> tf.Tensor:
    """Computes the outputs of all steps.

    Args:
      sequences: `float32[B, T, I]`.

    Returns:
      `h` of every step, `float32[B, T, U]`.
    """
    weights = (self.cell.kernel, self.cell.recurrent_kernel, self.cell.bias)
    return lstm(sequences, *map(tf.convert_to_tensor, weights))

  def step(self, x: tf.Tensor, h: tf.Tensor, c: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Computes one step.

    Args:
      x: the step's input `float32[B, I]`.
      h: the previous output `float32[B, U]`.
      c: the previous cell state `float32[B, U]`.

    Returns:
      The next `(h, c)`, each `float32[B, U]`.
    """
    _, (h, c) = self.cell(x, [h, c])
    return h, c


def lstm(
  inputs: tf.Tensor, kernel: tf.Tensor, recurrent_kernel: tf.Tensor, bias: tf.Tensor
) -> tf.Tensor:
  """Computes the outputs of all steps of an LSTM from a zero state.

  The products with the inputs and the gradients of all weights (sums over time) are computed once
  for all steps. Only operations that depend on the previous step remain in two loops, forward and
  backward. XLA compiles both loops because their products are so small that the overhead of
  separate operations would dominate. All arguments may have a leading M, for M separate LSTMs.

  Args:
    inputs: `float32[B, T, I]`.
    kernel: `float32[I, 4 U]`, gates in Keras' order: input, forget, cell, output.
    recurrent_kernel: `float32[U, 4 U]`.
    bias: `float32[4 U]`, or with a leading M `float32[M, 1, 4 U]`.

  Returns:
    `h` of every step, `float32[B, T, U]`.

  References:
    Hochreiter & Schmidhuber 1997, with the forget gate of Gers et al. 2000.
  """
  blocks = [_lstm(block, kernel, recurrent_kernel, bias) for block in _blocks(inputs)]
  return tf.concat(blocks, axis=-3)


@tf.custom_gradient
def _lstm(inputs, kernel, recurrent_kernel, bias):
  """Computes `lstm` for one block of the batch."""
  # Without `stop_gradient` an eager tape would require a gradient of the compiled loops.
  inputs, kernel, recurrent_kernel, bias = map(
    tf.stop_gradient, (inputs, kernel, recurrent_kernel, bias)
  )
  rows = _rows(_steps_first(inputs))
  num_steps = tf.shape(inputs)[-2]
  gates, c, h = _forward(_steps(tf.matmul(rows, kernel) + bias, num_steps), recurrent_kernel)

  def gradient(upstream):
    d_gates = _rows(_backward(_steps_first(upstream), gates, c, recurrent_kernel))
    d_inputs = _steps(tf.matmul(d_gates, kernel, transpose_b=True), num_steps)
    # The inputs of all weights and of the bias, for one product that gives all their gradients.
    before = _rows(_shifted(h))
    seen = tf.concat([rows, before, tf.ones_like(rows[..., :1])], axis=-1)
    sizes = [rows.shape[-1], before.shape[-1], 1]
    d_kernel, d_recurrent_kernel, d_bias = tf.split(
      tf.matmul(seen, d_gates, transpose_a=True), sizes, axis=-2
    )
    return (
      _rows_first(d_inputs),
      d_kernel,
      d_recurrent_kernel,
      tf.reshape(d_bias, tf.shape(bias)),
    )

  return _rows_first(h), gradient


@tf.function(jit_compile=True, autograph=False)
def _forward(projected: tf.Tensor, recurrent_kernel: tf.Tensor):
  """Steps through `projected[T, ..., B, 4 U]`.

  Returns:
    The gates after their nonlinearities, `float32[T, ..., B, 4 U]`; `c` and `h`, each
    `float32[T, ..., B, U]`.
  """
  num_steps, like = tf.shape(projected)[0], projected[0, ..., : recurrent_kernel.shape[-2]]
  half = _half(recurrent_kernel)

  def step(t, h, c, *sequences):
    # Sigmoids are computed as hyperbolic tangents, so all four gates take one pass.
    gates = half * tf.tanh(half * (projected[t] + tf.matmul(h, recurrent_kernel))) + (1.0 - half)
    write, keep, new, show = tf.split(gates, 4, axis=-1)
    c = keep * c + write * new
    h = show * tf.tanh(c)
    parts = zip(sequences, (gates, c, h), strict=True)
    return (t + 1, h, c, *(sequence.write(t, part) for sequence, part in parts))

  zeros = tf.zeros_like(like)
  sequences = [_sequence(x, num_steps) for x in (projected[0], zeros, zeros)]
  _, _, _, *sequences = _loop(step, num_steps, (zeros, zeros, *sequences))
  return tuple(sequence.stack() for sequence in sequences)


@tf.function(jit_compile=True, autograph=False)
def _backward(upstream: tf.Tensor, gates: tf.Tensor, c: tf.Tensor, recurrent_kernel: tf.Tensor):
  """Computes the gradient of `projected` in `_forward` from that of `h`."""
  num_steps, half = tf.shape(upstream)[0], _half(recurrent_kernel)
  before, squashed = _shifted(c), tf.tanh(c)

  def step(i, d_h, d_c, d_gates):
    t = num_steps - 1 - i
    write, keep, new, show = tf.split(gates[t], 4, axis=-1)
    d_h += upstream[t]
    d_c += d_h * show * (1.0 - tf.square(squashed[t]))
    parts = tf.concat([d_c * new, d_c * before[t], d_c * write, d_h * squashed[t]], axis=-1)
    # g (1 - g) for a sigmoid, 1 - g^2 for a hyperbolic tangent.
    slope = 2.0 * (1.0 - half) * gates[t] + (2.0 * half - 1.0) - tf.square(gates[t])
    d_step = parts * slope
    d_h = tf.matmul(d_step, recurrent_kernel, transpose_b=True)
    return i + 1, d_h, d_c * keep, d_gates.write(t, d_step)

  zeros = tf.zeros_like(upstream[0])
  *_, d_gates = _loop(step, num_steps, (zeros, zeros, _sequence(gates[0], num_steps)))
  return d_gates.stack()


def _blocks(inputs: tf.Tensor) -> list[tf.Tensor]:
  """Splits `[..., B, T, I]` into two halves of B if each has enough rows for one processor core.

  The loop is a chain of small operations that leave cores idle; two loops use the idle time.
  """
  size = inputs.shape[-3]
  if size is None or size < 2 * _LEAST_ROWS:
    return [inputs]
  return tf.split(inputs, [size // 2, size - size // 2], axis=-3)


def _loop(step, num_steps, state):
  return tf.while_loop(lambda t, *_: t < num_steps, step, (0, *state), maximum_iterations=num_steps)


def _sequence(like: tf.Tensor, num_steps) -> tf.TensorArray:
  return tf.TensorArray(like.dtype, num_steps, element_shape=like.shape)


def _half(recurrent_kernel: tf.Tensor) -> tf.Tensor:
  """Returns 0.5 at the sigmoid gates, `float32[4 U]`: sigmoid(x) = tanh(x / 2) / 2 + 1 / 2."""
  return tf.repeat(tf.constant([0.5, 0.5, 1.0, 0.5]), recurrent_kernel.shape[-2])


def _shifted(steps: tf.Tensor) -> tf.Tensor:
  """Delays the sequence `[T, ...]` by one step and starts it with zeros."""
  return tf.concat([tf.zeros_like(steps[:1]), steps[:-1]], axis=0)


def _steps_first(x: tf.Tensor) -> tf.Tensor:
  """Transposes `[..., B, T, W]` to `[T, ..., B, W]`."""
  rank = x.shape.rank
  return tf.transpose(x, [rank - 2, *range(rank - 2), rank - 1])


def _rows_first(x: tf.Tensor) -> tf.Tensor:
  """Transposes `[T, ..., B, W]` to `[..., B, T, W]`."""
  rank = x.shape.rank
  return tf.transpose(x, [*range(1, rank - 1), 0, rank - 1])


def _rows(x: tf.Tensor) -> tf.Tensor:
  """Reshapes `[T, B, W]` to `[T B, W]`, or `[T, M, B, W]` to `[M, T B, W]`."""
  if x.shape.rank == 4:
    x = tf.transpose(x, [1, 0, 2, 3])
  return tf.reshape(x, tf.concat([tf.shape(x)[:-3], [-1, x.shape[-1]]], axis=0))


def _steps(rows: tf.Tensor, num_steps) -> tf.Tensor:
  """Inverse of `_rows`: splits the rows back into steps."""
  shape = tf.concat([tf.shape(rows)[:-2], [num_steps, -1, rows.shape[-1]]], axis=0)
  x = tf.reshape(rows, shape)
  return tf.transpose(x, [1, 0, 2, 3]) if x.shape.rank == 4 else x
