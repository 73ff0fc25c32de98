"""CEM and MPPI over plans of choices."""

import itertools

import numpy as np
import pytest
import tensorflow as tf

from wm_tf import rng
from wm_tf.search.categorical import CategoricalCEM, CategoricalMPPI
from wm_tf.search.strategy import maximize

_SEED = rng.make_seed(3)
_CHOICES, _HORIZON = (3, 2), 3
_SIZE = _HORIZON * sum(_CHOICES)
_SEARCHES = [CategoricalCEM, CategoricalMPPI]
both = pytest.mark.parametrize("search", _SEARCHES, ids=lambda cls: cls.__name__)


def _all_plans() -> np.ndarray:
  """Every plan, `[6^3, 15]`."""
  actions = [np.concatenate(p) for p in itertools.product(np.eye(3), np.eye(2))]
  return np.array([np.concatenate(p) for p in itertools.product(actions, repeat=_HORIZON)])


def _fitness(x, weights, seed=None):
  """A quadratic form, so that choices depend on each other; `weights` differ by row."""
  return tf.einsum("bnd,bde,bne->bn", x, tf.cast(weights, x.dtype), x)


def _weights(rows=4):
  return np.random.default_rng(0).normal(size=(rows, _SIZE, _SIZE)).astype(np.float32)


def _groups(x):
  x = np.asarray(x).reshape(*x.shape[:-1], _HORIZON, sum(_CHOICES))
  return x[..., :3], x[..., 3:]


@both
def test_candidates_are_plans(search):
  strategy = search(num_candidates=50, num_choices=_CHOICES)
  state = strategy.init(tf.zeros([2, _SIZE]))
  x = strategy.ask(state, _SEED)
  assert x.shape == (2, 50, _SIZE) and set(np.unique(x)) == {0.0, 1.0}
  for group in _groups(x):
    np.testing.assert_array_equal(group.sum(-1), 1.0)


@both
def test_finds_the_best_of_all_plans(search):
  weights = _weights()
  plans = tf.tile(tf.constant(_all_plans(), tf.float32)[tf.newaxis], [4, 1, 1])
  best = tf.reduce_max(_fitness(plans, weights), axis=1)
  strategy = search(num_candidates=64, num_choices=_CHOICES, momentum=0.1)
  run = tf.function(
    lambda: maximize(
      strategy, lambda x, seed: _fitness(x, weights), tf.zeros([4, _SIZE]), _SEED, 10
    )
  )
  state = run()
  np.testing.assert_allclose(strategy.best(state).fitness, best, rtol=1e-5)
  # The plan that is most likely in the end is nearly as good.
  mean = strategy.mean(state)[:, tf.newaxis]
  np.testing.assert_array_equal(np.sum(_groups(mean)[0], -1), 1.0)
  typical = np.mean(_fitness(plans, weights), axis=1)
  assert np.all(_fitness(mean, weights)[:, 0] > typical + 0.7 * (best - typical))


def test_the_first_candidates_stay_near_the_plan_they_start_from():
  plan = _all_plans()[[17]]
  for share in (0.2, 1.0):
    strategy = CategoricalCEM(num_candidates=8000, num_choices=_CHOICES, initial_scale=share)
    x = strategy.ask(strategy.init(tf.constant(plan, tf.float32)), _SEED)[0]
    for group, chosen in zip(_groups(x), _groups(plan[0]), strict=True):
      expected = (1 - share) * chosen + share / group.shape[-1]
      np.testing.assert_allclose(group.mean(0), expected, atol=0.03)


def test_correlated_noise_repeats_choices():
  repeats = []
  for correlation in (0.0, 0.9):
    strategy = CategoricalCEM(num_candidates=4000, num_choices=(4,), correlation=correlation)
    x = np.asarray(strategy.ask(strategy.init(tf.zeros([1, 8])), _SEED))[0].reshape(-1, 2, 4)
    np.testing.assert_allclose(x.mean(0), 0.25, atol=0.03)
    repeats.append((x[:, 0] * x[:, 1]).sum(-1).mean())
  assert repeats[0] == pytest.approx(0.25, abs=0.03) and repeats[1] > 0.6


def test_refits_by_hand():
  strategy = CategoricalCEM(
    num_candidates=4, num_choices=(2,), num_elites=2, momentum=0.5, min_scale=0.1
  )
  state = strategy.init(tf.zeros([1, 2]))
  x = tf.constant([[[1.0, 0], [0, 1], [0, 1], [1, 0]]])
  after = strategy.tell(state, x, tf.constant([[3.0, 2.0, 1.0, np.nan]]))
  np.testing.assert_allclose(after.mean, [[0.5, 0.5]])  # One elite of each kind.
  after = strategy.tell(state, x, tf.constant([[3.0, np.nan, np.inf, 1.0]]))
  np.testing.assert_allclose(after.mean, [[0.9 * 0.75 + 0.05, 0.9 * 0.25 + 0.05]], rtol=1e-6)
  np.testing.assert_array_equal(after.best.x, [[1.0, 0.0]])
  failed = strategy.tell(state, x, tf.fill([1, 4], np.nan))
  np.testing.assert_array_equal(failed.mean, state.mean)
  assert np.sum(failed.best.x) == 1.0 and failed.best.fitness == -np.inf


@both
def test_a_row_depends_on_its_seed_alone(search):
  strategy = search(num_candidates=10, num_choices=_CHOICES)
  seeds = tf.constant([[1, 2], [3, 4]])
  together = strategy.ask(strategy.init(tf.zeros([2, _SIZE])), seeds)
  alone = strategy.ask(strategy.init(tf.zeros([1, _SIZE])), seeds[1:])
  np.testing.assert_array_equal(together[1:], alone)


@both
@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"num_candidates": 0}, "num_candidates must be positive"),
    ({"num_choices": ()}, "num_choices must be positive"),
    ({"initial_scale": 0.0}, "initial_scale must be positive"),
    ({"momentum": 1.0}, "momentum must be in"),
    ({"min_scale": -0.1}, "min_scale must be in"),
  ],
)
def test_refuses(search, options, message):
  with pytest.raises(ValueError, match=message):
    search(**options)


def test_refuses_what_is_no_plan():
  with pytest.raises(ValueError, match="7 numbers is not a whole number of actions of 5"):
    CategoricalCEM(num_choices=_CHOICES).init(tf.zeros([1, 7]))
  with pytest.raises(ValueError, match=r"num_elites must be in \[1, num_candidates = 4\]"):
    CategoricalCEM(num_candidates=4)
