"""From raw outputs to actions."""

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

from wm_tf import actions, rng

_GROUPS = [(3,), (2, 2, 2), (3, 2, 4)]
every_grouping = pytest.mark.parametrize("num_choices", _GROUPS, ids=str)


def _raw(num_choices, *lead, seed=0):
  shape = (*lead, sum(num_choices))
  return tf.constant(np.random.default_rng(seed).normal(size=shape), tf.float32)


def _split(x, num_choices):
  return np.split(np.asarray(x), np.cumsum(num_choices)[:-1], axis=-1)


def test_continuous_actions_are_the_tanh():
  raw = _raw((3,), 5)
  np.testing.assert_array_equal(actions.greedy(raw), tf.tanh(raw))


@every_grouping
def test_greedy_actions_are_the_largest_of_each_group(num_choices):
  raw = _raw(num_choices, 4, 5)
  found = tf.function(lambda x: actions.greedy(x, num_choices), jit_compile=True)(raw)
  for chosen, group in zip(_split(found, num_choices), _split(raw, num_choices), strict=True):
    np.testing.assert_array_equal(chosen, np.eye(group.shape[-1])[group.argmax(-1)])


@every_grouping
def test_samples_have_the_probabilities(num_choices):
  raw = _raw(num_choices)
  uniform = rng.uniform([20000, sum(num_choices)], rng.make_seed(1))
  found = actions.sample(tf.tile(raw[tf.newaxis], [20000, 1]), uniform, num_choices)
  assert set(np.unique(found)) == {0.0, 1.0}
  np.testing.assert_array_equal([g.sum(-1) for g in _split(found, num_choices)], 1.0)
  expected = np.concatenate([tf.nn.softmax(g) for g in _split(raw, num_choices)])
  np.testing.assert_allclose(actions.probabilities(raw, num_choices), expected, rtol=1e-5)
  np.testing.assert_allclose(np.mean(found, axis=0), expected, atol=0.015)
  # Groups are independent: no choice of one says anything about another's.
  if len(num_choices) > 1:
    assert np.abs(np.corrcoef(found[:, 0], found[:, -1])[0, 1]) < 0.03


def test_a_uniform_number_of_zero_is_no_trouble():
  found = actions.sample(tf.zeros([1, 2]), tf.constant([[0.0, 0.5]]), (2,))
  np.testing.assert_array_equal(found, [[0.0, 1.0]])


@every_grouping
def test_the_gradient_of_a_sample_is_that_of_the_probabilities(num_choices):
  raw, weight = _raw(num_choices, 3), _raw(num_choices, 3, seed=1)
  uniform = rng.uniform(raw.shape, rng.make_seed(2))
  gradients = []
  for fn in (
    lambda x: actions.straight_through(x, uniform, num_choices),
    lambda x: actions.probabilities(x, num_choices),
  ):
    with tf.GradientTape() as tape:
      tape.watch(raw)
      found = fn(raw)
      loss = tf.reduce_sum(weight * found)
    gradients.append(tape.gradient(loss, raw))
  np.testing.assert_allclose(*gradients, rtol=1e-5)
  sample = actions.sample(raw, uniform, num_choices)
  np.testing.assert_array_equal(actions.straight_through(raw, uniform, num_choices), sample)


@every_grouping
def test_densities_against_tensorflow_probability(num_choices):
  raw = _raw(num_choices, 6)
  action = actions.sample(raw, rng.uniform(raw.shape, rng.make_seed(3)), num_choices)
  groups = [tfp.distributions.OneHotCategorical(g) for g in _split(raw, num_choices)]
  log_prob = sum(g.log_prob(a) for g, a in zip(groups, _split(action, num_choices), strict=True))
  np.testing.assert_allclose(actions.log_probability(raw, action, num_choices), log_prob, rtol=1e-4)
  entropy = sum(g.entropy() for g in groups)
  np.testing.assert_allclose(actions.entropy(raw, num_choices), entropy, rtol=1e-4)
