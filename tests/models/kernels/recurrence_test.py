import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.worlds import assert_same
from wm_tf.models.kernels.recurrence import lstm


def _weights(num_inputs, units, seed, lead=()):
  generator = np.random.default_rng(seed)

  def normal(*shape):
    return tf.constant(generator.normal(0, 0.5, shape), tf.float32)

  bias = normal(*lead, 1, 4 * units) if lead else normal(4 * units)
  return normal(*lead, num_inputs, 4 * units), normal(*lead, units, 4 * units), bias


def _outputs_and_gradients(function, *arguments):
  """The outputs, and the gradients of a sum of them in which no two weigh the same."""
  with tf.GradientTape() as tape:
    tape.watch(arguments)
    h = function(*arguments)
    total = tf.reduce_sum(h * tf.random.stateless_normal(h.shape, [0, 1]))
  return h, *tape.gradient(total, arguments)


@pytest.mark.parametrize(("num_rows", "num_steps"), [(5, 1), (5, 2), (5, 7), (33, 4)])
@pytest.mark.parametrize("compiled", [False, True])
def test_outputs_and_gradients_are_those_of_keras(num_rows, num_steps, compiled):
  inputs = tf.constant(np.random.default_rng(0).normal(size=(num_rows, num_steps, 3)), tf.float32)
  weights = _weights(3, 4, seed=1)
  layer = keras.layers.LSTM(4, return_sequences=True)
  layer.build((None, None, 3))
  for variable, value in zip(layer.trainable_variables, weights, strict=True):
    variable.assign(value)
  with tf.GradientTape() as tape:
    tape.watch(inputs)
    h = layer(inputs)
    total = tf.reduce_sum(h * tf.random.stateless_normal(h.shape, [0, 1]))
  expected = tape.gradient(total, [inputs, *(v.value for v in layer.trainable_variables)])
  function = tf.function(lstm) if compiled else lstm
  assert_same(
    _outputs_and_gradients(function, inputs, *weights), (h, *expected), rtol=1e-4, atol=1e-5
  )


def test_side_by_side_is_as_alone():
  inputs = tf.constant(np.random.default_rng(0).normal(size=(2, 5, 6, 3)), tf.float32)
  kernel, recurrent_kernel, bias = _weights(3, 4, seed=1, lead=(2,))
  together = lstm(inputs, kernel, recurrent_kernel, bias)
  for m in range(2):
    alone = lstm(inputs[m], kernel[m], recurrent_kernel[m], bias[m, 0])
    assert_same(together[m], alone, rtol=1e-5, atol=1e-6)
  _, *gradients = _outputs_and_gradients(lstm, inputs, kernel, recurrent_kernel, bias)
  numeric = []
  for i in range(2):  # Of one weight of the second member, by a difference.
    step = tf.scatter_nd([[1, 0, 5]], [1e-2 * (1 - 2 * i)], kernel.shape)
    h = lstm(inputs, kernel + step, recurrent_kernel, bias)
    numeric.append(tf.reduce_sum(h * tf.random.stateless_normal(h.shape, [0, 1])))
  np.testing.assert_allclose(gradients[1][1, 0, 5], (numeric[0] - numeric[1]) / 2e-2, rtol=1e-2)
