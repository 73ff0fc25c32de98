import keras
import numpy as np
import pytest

from tests.worlds import randomize
from wm_tf.models.kernels.stacked import StackedDense, StackedLSTM, make_dense

_K, _B, _T, _I, _U = 3, 2, 5, 4, 6


def _draw(*shape):
  return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def _member(layer, stacked, k):
  """A layer of Keras' own with the weights of one member."""
  layer.set_weights([weight.numpy()[k].squeeze() for weight in stacked.weights])
  return layer


def test_stacked_dense_layers_are_dense_layers():
  stacked = make_dense(_U, _I, _K, activation="relu")
  randomize(stacked, 0)
  x = _draw(_K, _B, _T, _I)
  for k in range(_K):
    dense = _member(make_dense(_U, _I, None, activation="relu"), stacked, k)
    np.testing.assert_allclose(stacked(x)[k], dense(x[k]), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(stacked(x[:, :, 0])[k], dense(x[k, :, 0]), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("num_steps", [1, _T])
def test_stacked_lstms_are_lstms(num_steps):
  stacked = StackedLSTM(_K, _U)
  stacked.build((_K, None, None, _I))
  randomize(stacked, 0)
  x = _draw(_K, _B, num_steps, _I)
  hs = stacked(x)
  h = c = np.zeros([_K, _B, _U], np.float32)
  for t in range(num_steps):
    h, c = stacked.step(x[:, :, t], h, c)
    np.testing.assert_allclose(h, hs[:, :, t], rtol=1e-5, atol=1e-6)
  for k in range(_K):
    lstm = keras.layers.LSTM(_U, return_sequences=True, return_state=True)
    lstm.build((None, None, _I))
    sequence, last_h, last_c = _member(lstm, stacked, k)(x[k])
    np.testing.assert_allclose(hs[k], sequence, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(h[k], last_h, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(c[k], last_c, rtol=1e-4, atol=1e-5)


def test_members_begin_as_if_each_were_alone():
  """Not by the fans of a three-dimensional kernel, and each with weights of its own."""
  dense, lstm = StackedDense(_K, 40), StackedLSTM(_K, 20)
  dense.build((None, 30))
  lstm.build((None, 30))
  for kernel, limit in ((dense.kernel, (6 / 70) ** 0.5), (lstm.kernel, (6 / 110) ** 0.5)):
    kernel = np.abs(kernel.numpy())
    assert 0.97 * limit < kernel.max() <= limit
    assert len({row.tobytes() for row in kernel}) == _K
  recurrent = lstm.recurrent_kernel.numpy()
  np.testing.assert_allclose(
    recurrent @ recurrent.transpose(0, 2, 1), np.broadcast_to(np.eye(20), (_K, 20, 20)), atol=1e-5
  )
  bias = lstm.bias.numpy().reshape(_K, 4, 20)
  np.testing.assert_array_equal(
    bias, np.broadcast_to([[0], [1], [0], [0]], (4, 20))[None] + 0 * bias
  )
