"""An LSTM over whole sequences, with its gradient written out."""

from __future__ import annotations

import tensorflow as tf

# Steps up to which a sequence is unrolled into the graph; beyond, tracing takes too long.
MOST_STEPS = 64


@tf.custom_gradient
def unrolled_lstm(
  inputs: tf.Tensor, kernel: tf.Tensor, recurrent_kernel: tf.Tensor, bias: tf.Tensor
) -> tf.Tensor:
  """Every step's `h`, `float32[B, T, U]`, from a state of zeros.

  What automatic differentiation of a loop does at each step is done once for all steps here: the
  product of the inputs, and the gradients of all weights, which are sums over time. Only what the
  next step waits for stays inside. All arguments may have a leading M: M of them side by side.

  Args:
    inputs: `float32[B, T, I]` of known T.
    kernel: `float32[I, 4 U]`, gates in Keras' order: input, forget, cell, output.
    recurrent_kernel: `float32[U, 4 U]`.
    bias: `float32[4 U]`, or with a leading M `float32[M, 1, 4 U]`.

  References:
    Hochreiter & Schmidhuber 1997, with the forget gate of Gers et al. 2000.
  """
  num_steps = inputs.shape[-2]
  # [T B, I], one step after another: the rows of a step lie together.
  rows = tf.concat(tf.unstack(inputs, axis=-2), axis=-2)
  projected = tf.split(tf.matmul(rows, kernel) + bias, num_steps, axis=-2)
  steps, h, c = [], None, None
  for gates in projected:
    if h is not None:
      gates += tf.matmul(h, recurrent_kernel)
    write, keep, new, show = tf.split(gates, 4, axis=-1)
    write, keep, new, show = tf.sigmoid(write), tf.sigmoid(keep), tf.tanh(new), tf.sigmoid(show)
    before = tf.zeros_like(new) if c is None else c
    c = keep * before + write * new
    squashed = tf.tanh(c)
    h = show * squashed
    steps.append((write, keep, new, show, before, squashed, h))

  def gradient(upstream):
    d_steps = tf.unstack(upstream, axis=-2)
    d_gates, d_h, d_c = [], 0.0, 0.0
    for step, d_step in zip(reversed(steps), reversed(d_steps), strict=True):
      write, keep, new, show, before, squashed, _ = step
      d_h += d_step
      d_c += d_h * show * (1.0 - squashed * squashed)
      d_gates.append(
        tf.concat(
          [
            d_c * new * write * (1.0 - write),
            d_c * before * keep * (1.0 - keep),
            d_c * write * (1.0 - new * new),
            d_h * squashed * show * (1.0 - show),
          ],
          axis=-1,
        )
      )
      d_h = tf.matmul(d_gates[-1], recurrent_kernel, transpose_b=True)
      d_c *= keep
    d_gates = tf.concat(d_gates[::-1], axis=-2)
    # What each step began with.
    states = tf.concat([tf.zeros_like(h), *(step[-1] for step in steps[:-1])], axis=-2)
    d_inputs = tf.split(tf.matmul(d_gates, kernel, transpose_b=True), num_steps, axis=-2)
    return (
      tf.stack(d_inputs, axis=-2),
      tf.matmul(rows, d_gates, transpose_a=True),
      tf.matmul(states, d_gates, transpose_a=True),
      tf.reshape(tf.reduce_sum(d_gates, axis=-2), tf.shape(bias)),
    )

  return tf.stack([step[-1] for step in steps], axis=-2), gradient
