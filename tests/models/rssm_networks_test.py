"""The networks of an RSSM for observations of every size."""

import numpy as np
import pytest
import tensorflow as tf

from wm_tf.core import ObservationPart, ObservationSpec
from wm_tf.models.kernels.patches import PatchDecoding, PatchEncoding
from wm_tf.models.rssm_networks import Decoder, Encoder, ImageDecoder, ImageEncoder

_SHAPES = [(64, 64, 3), (32, 32, 1), (33, 47, 3), (128, 128, 1), (96, 128, 3), (100, 32, 3)]


def _images(shape, num=3):
  return np.random.default_rng(0).uniform(size=(num, *shape)).astype(np.float32)


@pytest.mark.parametrize("shape", _SHAPES)
def test_images_of_every_size(shape):
  encoder, decoder = ImageEncoder(shape, 4, 10), ImageDecoder(shape, 4, 10)
  encoded = encoder(_images(shape))
  assert encoded.shape == (3, 10)
  decoded = decoder(encoded)
  assert decoded.shape == (3, *shape)
  # An untrained decoder is near gray, and different for different inputs.
  assert 0.3 < float(tf.reduce_mean(decoded)) < 0.7
  assert float(tf.reduce_max(tf.math.reduce_std(decoded, axis=0))) > 0.01


@pytest.mark.parametrize("shape", _SHAPES)
def test_every_pixel_matters_and_is_decoded(shape):
  encoder, decoder = ImageEncoder(shape, 4, 10), ImageDecoder(shape, 4, 10)
  images = tf.constant(_images(shape, 1))
  with tf.GradientTape() as tape:
    tape.watch(images)
    total = tf.reduce_sum(tf.square(encoder(images)))
  gradient = tape.gradient(total, images)
  assert np.count_nonzero(gradient) > 0.99 * np.prod(shape)
  codes = np.random.default_rng(1).normal(size=(8, 10)).astype(np.float32)
  assert np.all(np.std(decoder(codes), axis=0) > 0)


def test_a_large_image_becomes_a_map_of_about_4_by_4():
  for shape, size in (((64, 64, 3), 16 * 16), ((128, 128, 3), 16 * 32), ((32, 32, 3), 16 * 8)):
    assert ImageEncoder(shape, 4, 10).output_layer.dense.kernel.shape[0] == size


def test_patches_are_a_convolution_without_overlap():
  encoding, decoding = PatchEncoding(4, 3, 6), PatchDecoding(4, 3, 6)
  images = tf.constant(_images((8, 12, 3)))
  for layer in (encoding, decoding):
    layer.dense.bias.assign(np.random.default_rng(2).normal(size=layer.dense.bias.shape))
  kernel = tf.reshape(encoding.dense.kernel, [4, 4, 3, 6])
  expected = tf.nn.conv2d(images, kernel, 4, "VALID") + encoding.dense.bias
  np.testing.assert_allclose(encoding(images), expected, rtol=1e-5, atol=1e-5)
  features = tf.constant(_images((2, 3, 6)))
  kernel = tf.transpose(tf.reshape(decoding.dense.kernel, [6, 4, 4, 3]), [1, 2, 3, 0])
  expected = tf.nn.conv2d_transpose(features, kernel, [3, 8, 12, 3], 4, "VALID")
  expected += tf.tile(tf.reshape(decoding.dense.bias, [1, 4, 4, 3]), [1, 2, 3, 1])
  np.testing.assert_allclose(decoding(features), expected, rtol=1e-5, atol=1e-5)


def test_mixed_observations_and_unit_scale():
  """Outputs of an untrained network have the scale of one, whatever the widths."""
  spec = ObservationSpec(
    (
      ObservationPart("camera", "image", (40, 32, 1), (40, 32, 1), "uint8"),
      ObservationPart("speed", "vector", (5,), (5,), "float32"),
    )
  )
  encoder = Encoder(spec, 16, 192, (64, 64), 96)
  decoder = Decoder(spec, 16, (64, 64), 96)
  rng = np.random.default_rng(3)
  parts = [_images((40, 32, 1), 50), rng.normal(size=(50, 5)).astype(np.float32)]
  encoded = encoder(parts)
  assert encoded.shape == (50, 96) and 0.2 < float(tf.math.reduce_std(encoded)) < 2
  image, vector = decoder(encoded)
  assert image.shape == (50, 40, 32, 1) and vector.shape == (50, 5)
  assert 0.1 < float(tf.math.reduce_std(image)) < 2
  assert 0.1 < float(tf.math.reduce_std(vector)) < 2
