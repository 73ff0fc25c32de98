"""Two-hot distributions against NumPy."""

import numpy as np
import pytest
import tensorflow as tf

from wm_tf import two_hot

_BINS = two_hot.symexp_bins(np.expm1(10.0))


def test_symexp_bins():
  assert _BINS.shape == (101,)
  np.testing.assert_allclose(_BINS, -_BINS[::-1])
  spaced = np.sign(_BINS) * np.log1p(np.abs(_BINS))
  np.testing.assert_allclose(spaced, np.linspace(-10.0, 10.0, 101), atol=1e-9)


@pytest.mark.parametrize("jit_compile", [False, True])
def test_cross_entropy(jit_compile):
  generator = np.random.default_rng(0)
  logits = generator.normal(size=(4, 5, 101)).astype(np.float32)
  x = (generator.normal(size=(4, 5)) * np.array([0.1, 1.0, 30.0, 1e3, 1e5])).astype(np.float32)
  expected = np.zeros((4, 5))
  log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
  for index, value in np.ndenumerate(np.clip(x, _BINS[0], _BINS[-1])):
    above = min(np.searchsorted(_BINS, value, side="right"), 100)
    share = (value - _BINS[above - 1]) / (_BINS[above] - _BINS[above - 1])
    expected[index] = -(1 - share) * log_p[index][above - 1] - share * log_p[index][above]
  loss = tf.function(two_hot.cross_entropy, jit_compile=jit_compile)
  bins = tf.constant(_BINS, tf.float32)
  np.testing.assert_allclose(loss(tf.constant(logits), x, bins), expected, rtol=1e-3, atol=1e-4)


def test_means():
  logits = np.random.default_rng(0).normal(size=(7, 101)).astype(np.float32)
  bins = tf.constant(_BINS, tf.float32)
  p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
  for mean in (two_hot.mean, two_hot.symmetric_mean):
    np.testing.assert_allclose(mean(tf.constant(logits), bins), p @ _BINS, rtol=1e-3, atol=0.1)


def test_the_symmetric_mean_of_equal_logits_is_zero():
  np.testing.assert_array_equal(
    two_hot.symmetric_mean(tf.fill([3, 101], 0.7), tf.constant(_BINS, tf.float32)), np.zeros(3)
  )
