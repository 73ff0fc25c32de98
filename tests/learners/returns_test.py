"""The normalisation of returns against NumPy."""

import numpy as np
import pytest
import tensorflow as tf

from wm_tf.config import override
from wm_tf.imagination import lambda_returns
from wm_tf.learners.config import ControllerConfig
from wm_tf.learners.returns import derive_discount, follow_range, quantiles, range_scale


@pytest.mark.parametrize(
  ("num_decisions", "discount"), [(1, 0.95), (100, 0.95), (250, 0.98), (500, 0.99), (10_000, 0.99)]
)
def test_the_discount_of_episodes_of_some_length(num_decisions, discount):
  assert derive_discount(num_decisions) == pytest.approx(discount)


def test_only_a_discount_of_none_is_derived():
  settings = override(ControllerConfig(), ["actor_critic.discount=None", "ppo.discount=0.9"])
  found = settings.derived(250)
  assert found.actor_critic.discount == pytest.approx(0.98)
  assert found.ppo == settings.ppo and found.reinforce == settings.reinforce
  assert found.derived(500) == found


@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize("shape", [(1,), (2,), (7, 3), (128, 15)])
def test_quantiles(shape, jit_compile):
  x = np.random.default_rng(0).normal(size=shape).astype(np.float32)
  shares = (0.0, 0.05, 0.5, 0.95, 1.0)
  found = tf.function(lambda x: quantiles(x, shares), jit_compile=jit_compile)(tf.constant(x))
  np.testing.assert_allclose(found, np.quantile(x, shares), rtol=1e-5, atol=1e-6)


def test_the_range_follows_the_percentiles():
  generator, found, expected = np.random.default_rng(0), tf.zeros([2]), np.zeros(2)
  for step in range(300):
    returns = generator.normal(5.0, 20.0, (16, 4)).astype(np.float32) + step
    found = follow_range(found, tf.constant(returns))
    expected = 0.99 * expected + 0.01 * np.percentile(returns, [5, 95])
  np.testing.assert_allclose(found, expected, rtol=1e-5)
  np.testing.assert_allclose(range_scale(found), expected[1] - expected[0], rtol=1e-5)


def test_small_ranges_are_not_amplified():
  assert float(range_scale(tf.constant([-0.2, 0.3]))) == 1.0


def test_lambda_returns():
  """Against the definition as a weighted sum of n-step returns, with different discounts."""
  generator, horizon, lambda_ = np.random.default_rng(0), 5, 0.8
  reward, value = generator.normal(size=(2, 3, horizon))
  discount = generator.uniform(0.2, 1.0, (3, horizon))

  def n_step(t, n):
    total, factor = np.zeros(3), np.ones(3)
    for k in range(t, t + n):
      total, factor = total + factor * reward[:, k], factor * discount[:, k]
    return total + factor * value[:, t + n - 1]

  expected = np.zeros((3, horizon))
  for t in range(horizon):
    last = horizon - t
    for n in range(1, last):
      expected[:, t] += (1 - lambda_) * lambda_ ** (n - 1) * n_step(t, n)
    expected[:, t] += lambda_ ** (last - 1) * n_step(t, last)
  found = lambda_returns(*(tf.constant(x, tf.float32) for x in (reward, discount, value)), lambda_)
  np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
