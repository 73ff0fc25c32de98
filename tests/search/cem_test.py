"""CEM against NumPy, and its options."""

import numpy as np
import pytest
import tensorflow as tf

from wm_tf.search.cem import CEM


def generation(search, size=6, batch_size=2, seed=(1, 2), state=None):
  if state is None:
    mean = tf.random.stateless_normal([batch_size, size], [5, 6], dtype=tf.float64)
    state = search.init(mean, scale=tf.linspace(tf.constant(0.1, tf.float64), 1.0, size))
  x = search.ask(state, seed)
  fitness = tf.random.stateless_normal(x.shape[:2], [7, 8], dtype=tf.float64)
  return state, x, fitness, search.tell(state, x, fitness)


@pytest.mark.parametrize("momentum", [0.0, 0.25])
def test_update_is_the_elites_mean_and_std(momentum):
  search = CEM(num_candidates=50, num_elites=7, momentum=momentum, min_scale=0.3)
  state, x, fitness, new = generation(search)
  for row in range(2):
    elites = x.numpy()[row][np.argsort(fitness[row])[-7:]]
    mean = momentum * state.mean[row] + (1 - momentum) * elites.mean(0)
    scale = momentum * state.scale[row] + (1 - momentum) * elites.std(0)
    np.testing.assert_allclose(new.mean[row], mean, rtol=1e-12)
    assert np.any(scale < 0.3) and np.any(scale > 0.3)
    np.testing.assert_allclose(new.scale[row], np.maximum(scale, 0.3), rtol=1e-12)


def test_elites_are_successes_only():
  search = CEM(num_candidates=10, num_elites=5)
  state, x, fitness, _ = generation(search)
  fitness = fitness.numpy()
  fitness[0, 3:] = np.nan  # Three successes are fewer than the elites.
  fitness[1, 1:] = np.nan  # One has no spread: the scale must not collapse.
  new = search.tell(state, x, fitness)
  np.testing.assert_allclose(new.mean[0], x[0, :3].numpy().mean(0), rtol=1e-12)
  np.testing.assert_allclose(new.scale[0], x[0, :3].numpy().std(0), rtol=1e-12)
  np.testing.assert_allclose(new.mean[1], x[1, 0], rtol=1e-12)
  np.testing.assert_array_equal(new.scale[1], state.scale[1])


def test_samples_have_the_mean_and_scale_asked_for():
  search = CEM(num_candidates=40_000, initial_scale=0.7)
  x = search.ask(search.init(tf.constant([[1.0, -2.0]])), [1, 2]).numpy()[0]
  np.testing.assert_allclose(x.mean(0), [1.0, -2.0], atol=0.02)
  np.testing.assert_allclose(x.std(0), 0.7, rtol=0.02)
  assert abs(np.corrcoef(x.T)[0, 1]) < 0.02


def test_antithetic_noise_cancels():
  search = CEM(num_candidates=64, antithetic=True)
  mean = tf.constant([[1.0, -2.0]])
  x = search.ask(search.init(mean), [1, 2])
  np.testing.assert_allclose(x[:, :32] + x[:, 32:], 2 * np.tile(mean, [1, 32, 1]), atol=1e-6)
  assert len(np.unique(x.numpy()[0, :, 0])) == 64


def test_bounds_clip_candidates():
  search = CEM(num_candidates=500, initial_scale=1.0, bounds=(-1.0, 1.0))
  x = search.ask(search.init(tf.fill([1, 2], 0.9)), [1, 2]).numpy()
  free = CEM(num_candidates=500, initial_scale=1.0)
  np.testing.assert_array_equal(
    x, np.clip(free.ask(free.init(tf.fill([1, 2], 0.9)), [1, 2]), -1, 1)
  )
  assert (x == 1.0).any() and (x == -1.0).any()


def test_correlated_plans():
  search = CEM(num_candidates=20_000, correlation=0.8, action_size=2)
  plan = search.ask(search.init(tf.zeros([1, 12])), [1, 2]).numpy().reshape(-1, 6, 2)
  for lag in (1, 2, 3):
    actual = (plan[:, lag:] * plan[:, :-lag]).mean()
    np.testing.assert_allclose(actual, 0.8**lag, atol=0.02)
  np.testing.assert_allclose((plan[:, :, 0] * plan[:, :, 1]).mean(), 0.0, atol=0.02)


def test_kept_elites_are_asked_again():
  search = CEM(num_candidates=20, num_elites=5, num_kept_elites=2)
  state, x, fitness, new = generation(search)
  plain = CEM(num_candidates=20, num_elites=5)
  np.testing.assert_array_equal(x, plain.ask(plain.init(state.mean, state.scale), [1, 2]))
  again = search.ask(new, [3, 4])
  for row in range(2):
    order = np.argsort(fitness[row])[::-1]
    np.testing.assert_array_equal(again[row, :2], x.numpy()[row, order[:2]])
  others = plain.ask(plain.init(new.mean, new.scale), [3, 4])
  np.testing.assert_array_equal(again[:, 2:], others[:, 2:])


def test_extra_proposals_may_be_told():
  search = CEM(num_candidates=20, num_elites=5)
  state, x, fitness, _ = generation(search)
  proposal = tf.fill([2, 1, 6], tf.constant(9.0, tf.float64))
  told = search.tell(
    state, tf.concat([x, proposal], 1), tf.pad(fitness, [[0, 0], [0, 1]], "CONSTANT", 99.0)
  )
  np.testing.assert_array_equal(search.best(told).x, proposal[:, 0])


def test_one_generation_is_random_shooting():
  search = CEM(num_candidates=200)
  _, x, fitness, new = generation(search)
  for row in range(2):
    np.testing.assert_array_equal(search.best(new).x[row], x[row, np.argmax(fitness[row])])
