"""MPPI's weights against NumPy: temperature, scale and control cost each have their effect."""

import numpy as np
import pytest
import tensorflow as tf

from wm_tf.search import strategy
from wm_tf.search.mppi import MPPI


def problem(search, seed=(1, 2)):
  mean = tf.constant([[0.3, -0.7, 1.1], [0.0, 2.0, -1.0]], tf.float64)
  state = search.init(mean)
  x = search.ask(state, seed)
  fitness = 50.0 + 3.0 * tf.random.stateless_normal(x.shape[:2], [7, 8], dtype=tf.float64)
  return state, x, fitness


def softmax(score):
  e = np.exp(score - score.max(-1, keepdims=True))
  return e / e.sum(-1, keepdims=True)


@pytest.mark.parametrize("control_cost", [0.0, 0.4])
@pytest.mark.parametrize("temperature", [0.05, 0.5, 20.0])
@pytest.mark.parametrize("normalize", [False, True])
def test_weights_and_update(temperature, normalize, control_cost):
  search = MPPI(
    num_candidates=30,
    initial_scale=0.6,
    temperature=temperature,
    normalize=normalize,
    control_cost=control_cost,
    adapt_scale=True,
    momentum=0.2,
  )
  state, x, fitness = problem(search)
  mean, candidates = state.mean.numpy(), x.numpy()
  push = np.einsum("bd,bnd->bn", mean / 0.6**2, candidates - mean[:, None])
  score = fitness.numpy() - control_cost * push
  unit = score.std(-1, keepdims=True) if normalize else 1.0
  weights = softmax(score / (temperature * unit))
  np.testing.assert_allclose(search.weights(state, x, fitness), weights, rtol=1e-9)
  new = search.tell(state, x, fitness)
  average = np.einsum("bn,bnd->bd", weights, candidates)
  np.testing.assert_allclose(new.mean, 0.2 * mean + 0.8 * average, rtol=1e-9)
  variance = np.einsum("bn,bnd->bd", weights, (candidates - average[:, None]) ** 2)
  np.testing.assert_allclose(new.scale, 0.2 * 0.6 + 0.8 * np.sqrt(variance), rtol=1e-9)


def test_temperature_goes_from_best_to_average():
  for temperature, expect in (
    (1e-4, lambda x, f: x[np.argmax(f)]),
    (1e6, lambda x, f: x.mean(0)),
  ):
    search = MPPI(num_candidates=30, temperature=temperature)
    state, x, fitness = problem(search)
    new = search.tell(state, x, fitness)
    for row in range(2):
      expected = expect(x[row].numpy(), fitness[row].numpy())
      np.testing.assert_allclose(new.mean[row], expected, atol=1e-4)
  effective = [
    1 / np.square(MPPI(num_candidates=30, temperature=t).weights(state, x, fitness)).sum(-1)
    for t in (0.1, 0.3, 1.0, 3.0)
  ]
  assert np.all(np.diff(effective, axis=0) > 0)


@pytest.mark.parametrize("normalize", [False, True])
def test_scale_has_an_effect(normalize):
  # On a slope, the mean steps as far as the candidates spread.
  def slope(x):
    return tf.reduce_sum(x, -1)

  steps = []
  for scale in (0.1, 0.4, 1.6):
    search = MPPI(num_candidates=4000, initial_scale=scale, temperature=0.5, normalize=normalize)
    state = search.init(tf.zeros([1, 3]))
    x = search.ask(state, [1, 2])
    np.testing.assert_allclose(x.numpy().std(), scale, rtol=0.03)
    steps.append(search.tell(state, x, slope(x)).mean.numpy().mean())
  if normalize:
    # S / std(S) is N(0, 1), and tilting a normal by exp(s / 0.5) moves it by 1 / 0.5 of its scale.
    np.testing.assert_allclose(np.array(steps[1:]) / steps[:-1], 4.0, rtol=1e-3)
  else:
    # E[x exp(x / t)] / E[exp(x / t)] = scale^2 / t; too few candidates reach so far at 1.6.
    np.testing.assert_allclose(steps[:2], [0.1**2 / 0.5, 0.4**2 / 0.5], rtol=0.1)
    assert steps[2] > 2 * steps[1]


def test_constant_scale_stays():
  search = MPPI(initial_scale=0.6)
  state, x, fitness = problem(search)
  np.testing.assert_array_equal(search.tell(state, x, fitness).scale, state.scale)


def test_control_cost_holds_the_mean_back():
  def flat(x, seed):
    return tf.zeros(tf.shape(x)[:2])

  ends = [
    np.abs(
      strategy.maximize(
        MPPI(control_cost=c, normalize=False), flat, tf.ones([1, 3]), [1, 2], 20
      ).mean
    ).max()
    for c in (0.0, 0.02)
  ]
  assert ends[1] < 0.5 * ends[0]


def test_normalized_weights_ignore_scale_and_offset_of_fitness():
  search = MPPI()
  state, x, fitness = problem(search)
  weights = search.weights(state, x, fitness)
  np.testing.assert_allclose(search.weights(state, x, 1e4 * fitness - 7e5), weights, rtol=1e-6)
  raw = MPPI(normalize=False, temperature=3.0)
  assert np.abs(raw.weights(state, x, 10 * fitness) - raw.weights(state, x, fitness)).max() > 0.1


@pytest.mark.parametrize("normalize", [False, True])
def test_failed_candidates_weigh_nothing(normalize):
  search = MPPI(num_candidates=30, normalize=normalize, control_cost=0.1)
  state, x, fitness = problem(search)
  fitness = fitness.numpy()
  fitness[:, [2, 5, 11]] = np.nan, np.inf, -np.inf
  rest = np.setdiff1d(np.arange(30), [2, 5, 11])
  weights = search.weights(state, x, fitness).numpy()
  assert np.all(weights[:, [2, 5, 11]] == 0)
  alone = search.weights(state, x.numpy()[:, rest], fitness[:, rest])
  np.testing.assert_allclose(weights[:, rest], alone, rtol=1e-9)


def test_equal_fitness_weighs_alike():
  search = MPPI(num_candidates=30)
  state, x, _ = problem(search)
  weights = search.weights(state, x, np.full([2, 30], 4.0))
  np.testing.assert_allclose(weights, 1 / 30, rtol=1e-6)
