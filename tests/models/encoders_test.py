import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.worlds import OBSERVATIONS, random_observation
from wm_tf.core import image_observation
from wm_tf.models.encoders import VectorScaler, make_decoder, make_encoder
from wm_tf.models.symlog import symexp, symlog

_FILTERS, _MIRRORED = (4, 5, 6, 7), (6, 5, 4)


@pytest.mark.parametrize(
  ("size", "smallest", "filters"),
  [
    ((32, 32), (4, 4), [4, 5, 6]),
    ((33, 47), (5, 6), [4, 5, 6]),
    ((64, 96), (4, 6), [4, 5, 6, 7]),
    ((84, 84), (6, 6), [4, 5, 6, 7]),
    ((96, 96), (3, 3), [4, 5, 6, 7, 7]),
    ((128, 128), (4, 4), [4, 5, 6, 7, 7]),
    ((32, 128), (2, 8), [4, 5, 6, 7]),
  ],
)
@pytest.mark.parametrize("channels", [1, 4])
def test_images_of_any_size(size, smallest, filters, channels):
  spec = image_observation((*size, channels), (*size, channels))
  encoder = make_encoder(spec, _FILTERS, (8,), 6)
  decoder = make_decoder(spec, _FILTERS, _MIRRORED, (8,), 3)
  convolutions = [x for x in encoder.layers if isinstance(x, keras.layers.Conv2D)]
  assert [layer.filters for layer in convolutions] == filters
  assert convolutions[-1].output.shape == (None, *smallest, filters[-1])
  deconvolutions = [x for x in decoder.layers if isinstance(x, keras.layers.Conv2DTranspose)]
  mirrored = {3: [5, 4], 4: [6, 5, 4], 5: [6, 6, 5, 4]}[len(filters)]
  assert [layer.filters for layer in deconvolutions] == [*mirrored, channels]
  assert deconvolutions[0].input.shape == (None, *smallest, filters[-1])

  frames = random_observation(spec, 2)
  assert encoder(frames / 255.0).shape == (2, 6)
  decoder.set_weights([np.abs(weight) for weight in decoder.get_weights()])  # No unit is dead.
  decoded = decoder(tf.constant([[0.0] * 3, [0.1] * 3])).numpy()
  assert decoded.shape == frames.shape
  np.testing.assert_array_equal(decoded[0], np.full(frames.shape[1:], 0.5))
  # Every pixel, at the edges too, depends on the latent.
  assert decoded[1].min() > 0.5 + 1e-6
  assert decoded.max() <= 1.0


def test_a_64_x_64_image_takes_the_papers_architecture_whatever_its_channels():
  spec = image_observation((64, 64, 1), (64, 64, 1))
  shapes = [tuple(x.shape) for x in make_decoder(spec, _FILTERS, _MIRRORED, (8,), 3).weights[::2]]
  assert shapes == [(3, 28), (5, 5, 6, 28), (5, 5, 5, 6), (6, 6, 4, 5), (6, 6, 1, 4)]


def test_a_new_decoder_can_pass_a_vector_through():
  """The latent reaches the output by a linear path, and the vector the posterior by another."""
  spec = OBSERVATIONS["vector"]
  encoder = make_encoder(spec, _FILTERS, (8, 9), 6)
  decoder = make_decoder(spec, _FILTERS, _MIRRORED, (8, 9), 3)
  assert encoder.get_layer("posterior").kernel.shape == (3 + 9, 6)
  assert decoder.layers[-1].kernel.shape == (3 + 9, 3)
  for layer in (encoder.get_layer("posterior"), decoder.layers[-1]):
    kernel = np.zeros(layer.kernel.shape)
    kernel[:3, :3] = np.eye(3)
    layer.kernel.assign(kernel)
  x = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
  np.testing.assert_allclose(decoder(encoder(x)[:, :3]), x, rtol=1e-5)


def test_symlog():
  x = np.float32([-1e30, -3.0, -1e-3, 0.0, 1e-3, 3.0, 1e6])
  expected = np.sign(x) * np.log1p(np.abs(x.astype(np.float64)))
  np.testing.assert_allclose(symlog(x), expected, rtol=1e-6)
  np.testing.assert_allclose(symexp(symlog(x)), x, rtol=2e-5)


def test_scaled_vectors_stay_finite():
  scaler = VectorScaler(2)
  scaler.loc.assign([0.0, 5.0])
  scaler.scale.assign([1e-3, 2.0])
  extreme = tf.constant([[1e30, -1e30], [0.0, 0.0]])
  standardised = scaler.standardise(extreme)
  np.testing.assert_allclose(standardised, [[20.0, -20.0], [0.0, -2.5]])
  assert np.isfinite(scaler.restore(tf.constant([[1e30, 1e30]]))).all()
  np.testing.assert_allclose(scaler.restore(standardised)[1], [0.0, 0.0], atol=1e-6)
