"""OpenAI-ES: the gradient estimate and Adam by hand."""

import numpy as np
import tensorflow as tf

from wm_tf.search.open_es import OpenES


def test_gradient_by_hand():
  search = OpenES(num_candidates=4, initial_scale=0.5)
  state = search.init(tf.constant([[1.0, 2.0]], tf.float64))
  noise = np.array([[1.0, 0.0], [0.0, 2.0], [-1.0, 0.0], [0.0, -2.0]])
  x = (np.array([1.0, 2.0]) + 0.5 * noise)[None]
  # Ranks of 10, 40, -5, 20 are 1, 3, 0, 2, centred: -1/6, 1/2, -1/2, 1/6.
  # sum r e = (-1/6 + 1/2, 2 * 1/2 - 2 * 1/6) = (1/3, 2/3), over N scale = 2.
  gradient = search.gradient(state, x, [[10.0, 40.0, -5.0, 20.0]])
  np.testing.assert_allclose(gradient, [[1 / 6, 1 / 3]], rtol=1e-12)
  # A failure ranks last: -5 did, too.
  for bad in (np.nan, np.inf, -np.inf):
    np.testing.assert_allclose(search.gradient(state, x, [[10.0, 40.0, bad, 20.0]]), gradient)
  # Nothing to choose, nothing to follow.
  np.testing.assert_array_equal(search.gradient(state, x, [[3.0] * 4]), [[0.0, 0.0]])


def test_candidates_come_in_mirrored_pairs():
  search = OpenES(num_candidates=64, initial_scale=0.2)
  mean = np.array([[1.0, -2.0, 0.5]])
  x = search.ask(search.init(tf.constant(mean)), [1, 2]).numpy()
  np.testing.assert_allclose(x[:, :32] + x[:, 32:], np.tile(2 * mean, [1, 32, 1]), rtol=1e-12)
  np.testing.assert_allclose((x - mean).std(), 0.2, rtol=0.2)


def test_adam_and_decays_against_numpy():
  search = OpenES(
    num_candidates=8,
    initial_scale=0.3,
    scale_decay=0.9,
    min_scale=0.25,
    learning_rate=0.1,
    learning_rate_decay=0.8,
    weight_decay=0.05,
  )
  mean = np.array([[1.0, -2.0, 0.5]])
  state = search.init(tf.constant(mean))
  m, v, scale = np.zeros(3), np.zeros(3), 0.3
  for i in range(4):
    np.testing.assert_allclose(state.scale, [scale], rtol=1e-12)
    x = search.ask(state, [i, 0]).numpy()
    fitness = -np.square(x).sum(-1)
    ranks = fitness[0].argsort().argsort() / 7 - 0.5
    noise = (x[0] - mean[0]) / scale
    g = (ranks[:, None] * noise).sum(0) / (8 * scale) - 0.05 * mean[0]
    m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
    step = (m / (1 - 0.9 ** (i + 1))) / (np.sqrt(v / (1 - 0.999 ** (i + 1))) + 1e-8)
    mean = mean + 0.1 * 0.8**i * step
    scale = max(0.9 * scale, 0.25)
    state = search.tell(state, x, fitness)
    np.testing.assert_allclose(state.mean, mean, rtol=1e-9)
  assert scale == 0.25


def test_gradient_points_uphill():
  search = OpenES(num_candidates=4000, initial_scale=0.1)
  state = search.init(tf.constant([[1.0, -2.0, 0.5]]))
  x = search.ask(state, [1, 2])
  gradient = search.gradient(state, x, -tf.reduce_sum(tf.square(x), -1)).numpy()[0]
  true = -2 * np.array([1.0, -2.0, 0.5])
  cosine = gradient @ true / np.linalg.norm(gradient) / np.linalg.norm(true)
  assert cosine > 0.995
