import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.worlds import assert_same, randomize
from wm_tf.models.kernels.deconvolution import Deconvolution


def _outputs_and_gradients(layer, inputs):
  with tf.GradientTape() as tape:
    tape.watch(inputs)
    outputs = layer(inputs)
    # A sum in which no two weigh the same.
    total = tf.reduce_sum(outputs * tf.random.stateless_normal(outputs.shape, [0, 1]))
  return outputs, *tape.gradient(total, [inputs, layer.kernel.value, layer.bias.value])


@pytest.mark.parametrize("activation", [None, "sigmoid"])
@pytest.mark.parametrize(
  ("size", "channels", "filters", "kernel_size"),
  [
    (1, 7, 6, 5),
    (1, 7, 3, 4),
    (5, 7, 6, 5),
    (4, 7, 3, 6),
    (3, 2, 1, 2),
    (4, 3, 2, 5),
    (3, 3, 4, 4),
  ],
)
def test_is_keras_transposed_convolution(size, channels, filters, kernel_size, activation):
  inputs = tf.random.stateless_normal([2, size, size, channels], [0, 2])
  layer = Deconvolution(filters, kernel_size, activation)
  expected = keras.layers.Conv2DTranspose(filters, kernel_size, strides=2, activation=activation)
  layer.build(inputs.shape)
  expected.build(inputs.shape)
  randomize(layer, 0)
  expected.set_weights(layer.get_weights())
  assert_same(
    _outputs_and_gradients(layer, inputs),
    _outputs_and_gradients(expected, inputs),
    rtol=1e-4,
    atol=1e-5,
  )


def test_size_of_the_batch_may_be_unknown():
  layer = Deconvolution(3, 6)
  layer.build([None, 4, 4, 2])
  function = tf.function(layer, input_signature=[tf.TensorSpec([None, 4, 4, 2])])
  for rows in (1, 3):
    inputs = tf.random.stateless_normal([rows, 4, 4, 2], [0, 2])
    np.testing.assert_allclose(function(inputs), layer(inputs), rtol=1e-5, atol=1e-6)
