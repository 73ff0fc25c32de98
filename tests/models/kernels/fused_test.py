"""Parts that XLA compiles, against the same parts in TensorFlow's graph."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from wm_tf.models.kernels.fused import fused, fusing
from wm_tf.models.rssm_networks import ImageDecoder, ImageEncoder


def _normal(seed, *shape):
  return tf.constant(np.random.default_rng(seed).normal(size=shape), tf.float32)


def _results(call, watched):
  """The result and the gradients of a call, in a graph."""

  @tf.function(autograph=False)
  def run():
    with tf.GradientTape() as tape:
      tape.watch(watched)
      result = call()
    upstream = tf.reshape(tf.range(tf.size(result), dtype=tf.float32), tf.shape(result))
    return result, tape.gradient(result, watched, output_gradients=upstream)

  return run()


def _check_same(call, watched):
  """A compiled part gives the same result and gradients; returns the operations of its graph."""
  expected = _results(call, watched)
  with fusing():
    found = _results(call, watched)
  for a, b in zip(tf.nest.flatten(found), tf.nest.flatten(expected), strict=True):
    np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-4 * np.abs(b).max())


def test_a_part_and_its_gradient():
  x, y, z = _normal(0, 3, 4), _normal(1, 4), _normal(2, 3, 4)
  _check_same(lambda: fused(lambda x, y, z: tf.tanh(x * y) + x * z, x, y, constants=[z]), [x, y])


def test_no_gradient_flows_to_constants():
  x, z = _normal(0, 3), _normal(1, 3)
  for enabled in (False, True):
    with fusing(enabled), tf.GradientTape() as tape:
      tape.watch([x, z])
      result = fused(tf.multiply, x, constants=[z])
    gradients = tape.gradient(result, [x, z])
    np.testing.assert_allclose(gradients[0], z)
    assert gradients[1] is None


def test_only_within_the_block_is_xla_asked_for():
  def is_compiled():
    function = tf.function(lambda x: fused(tf.tanh, x), autograph=False)
    graph = function.get_concrete_function(tf.TensorSpec([2])).graph.as_graph_def()
    return any(f.attr["_XlaMustCompile"].b for f in graph.library.function)

  assert not is_compiled()
  with fusing():
    assert is_compiled()
    with fusing(False):
      assert not is_compiled()
  assert not is_compiled()


@pytest.mark.parametrize("shape", [(64, 64, 3), (40, 52, 1)], ids=str)
def test_encoders_and_decoders_of_images(shape):
  """Of whole patches, and of a size that is padded; errors are those of the decoded images."""
  keras.utils.set_random_seed(0)
  encoder, decoder = ImageEncoder(shape, 4, 6), ImageDecoder(shape, 4, 6)
  images, x = tf.sigmoid(_normal(0, 2, *shape)), _normal(1, 2, 6)
  for layer in (encoder, decoder):
    for seed, weight in enumerate(layer.trainable_variables):
      weight.assign_add(0.1 * _normal(seed, *weight.shape))
  _check_same(lambda: encoder(images), [v.value for v in encoder.trainable_variables])
  watched = [x, *(v.value for v in decoder.trainable_variables)]
  _check_same(lambda: decoder.errors(x, images), watched)
  expected = tf.reduce_sum(tf.square(decoder(x) - images), axis=[1, 2, 3])
  np.testing.assert_allclose(decoder.errors(x, images), expected, rtol=1e-5)
