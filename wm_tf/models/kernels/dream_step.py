"""The imagined step of an `MDNRNN`, optimised for a rollout of many steps."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf

from wm_tf.core import Prediction
from wm_tf.models.kernels import mixture
from wm_tf.models.kernels.stacked import lstm_step


def make_dream_step(model) -> Callable[..., Prediction]:
  """Makes a function that computes `MDNRNN.imagine_with_noise` with fewer, larger products.

  The standardisation of latents and all biases are folded into the kernels. The weights of the
  mixture are ordered by component. The first layers of both heads are part of the product that
  gives the mixture's logits.

  Args:
    model: an `MDNRNN`. The function holds a copy of its current weights.

  Returns:
    A function with the arguments and result of `MDNRNN.imagine_with_noise`.
  """
  cell, skip = model.lstm.cell, model.config.skip_connection
  gates = _fold(model, tf.concat([cell.recurrent_kernel, cell.kernel], axis=0), cell.bias)
  gates = tf.split(gates, 4, axis=-1)
  logits, *normals = (_fold(model, *pair) for pair in mixture.by_component(model.mixture))
  first, finish = side_by_side([model.reward.network, model.termination.network])
  first = _fold(model, *first)
  first = tf.pad(first, [[0, logits.shape[0] - first.shape[0]], [0, 0]])
  # Two products of about the same width: TensorFlow runs a product of few rows on one core.
  weighing, normals = tf.concat([logits, first], axis=-1), tf.concat(normals, axis=-1)
  num_mixtures, move = model.mixture.num_mixtures, model.mover()
  sizes = [logits.shape[-1] // num_mixtures] * num_mixtures + [first.shape[-1]]

  def imagine(state, action, noise, temperature=1.0) -> Prediction:
    ones = tf.ones_like(action[:, :1])
    inputs = [ones, state.z, action]
    seen = tf.concat([state.h, *inputs], axis=-1)
    h, c = lstm_step([tf.linalg.matmul(seen, gate) for gate in gates], state.c)
    seen = tf.concat([h, *(inputs if skip else [ones])], axis=-1)
    *logits, outcomes = tf.split(tf.linalg.matmul(seen, weighing), sizes, axis=-1)
    parts = tf.split(tf.linalg.matmul(seen, normals), 2 * num_mixtures, axis=-1)
    components = logits, parts[:num_mixtures], parts[num_mixtures:]
    sample = mixture.sample(model.mixture.kind, components, *noise, temperature)
    return model.prediction(state._replace(z=move(state.z, sample), h=h, c=c), *finish(outcomes))

  return imagine


def _fold(model, kernel: tf.Tensor, bias: tf.Tensor) -> tf.Tensor:
  """Converts a kernel for `[h, standardised z, action]` or `h` to one for `[h, 1, z, action]`.

  The bias and the mean of the standardisation form the row of the 1. TensorFlow would fuse a
  separate bias into the product, which takes a third longer for a planner's few rows.
  """
  kernel, bias = tf.convert_to_tensor(kernel), tf.convert_to_tensor(bias)[tf.newaxis]
  h_rows, rest = kernel[: model.config.hidden_size], kernel[model.config.hidden_size :]
  if not rest.shape[0]:
    return tf.concat([h_rows, bias], axis=0)
  z_rows = rest[: model.latent_size] / model.latent_scale[:, tf.newaxis]
  bias -= tf.linalg.matmul(model.latent_loc[tf.newaxis], z_rows)
  return tf.concat([h_rows, bias, z_rows, rest[model.latent_size :]], axis=0)


def side_by_side(
  networks: Sequence,
) -> tuple[tuple[tf.Tensor, tf.Tensor], Callable[[tf.Tensor], list[tf.Tensor]]]:
  """Joins several `HeadNetwork`s with the same input into one.

  Args:
    networks: all with a hidden layer, or all without; made with `num_members` None.

  Returns:
    `((kernel, bias), finish)`. `kernel` `[U, W]` and `bias` `[W]` join the first layers. `finish`
    maps the output of that joint layer, `float32[B, W]`, to a list of each network's output.
  """

  def joined(tensors):
    return tf.concat([tf.convert_to_tensor(x) for x in tensors], axis=-1)

  last = [network.output_layer for network in networks]
  sizes, bias = [layer.units for layer in last], joined(layer.bias for layer in last)
  if not networks[0].hidden:
    return (joined(layer.kernel for layer in last), bias), lambda x: tf.split(x, sizes, axis=-1)
  hidden = [network.hidden for network in networks]
  first = joined(layer.kernel for layer in hidden), joined(layer.bias for layer in hidden)
  # Each last layer reads only its own columns.
  above = np.cumsum([0] + [layer.units for layer in hidden])
  pads = [[[above[i], above[-1] - above[i + 1]], [0, 0]] for i in range(len(last))]
  kernel = joined(tf.pad(layer.kernel, pad) for layer, pad in zip(last, pads, strict=True))

  def finish(x):
    return tf.split(tf.linalg.matmul(tf.nn.relu(x), kernel) + bias, sizes, axis=-1)

  return first, finish
