import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.worlds import random_head
from wm_tf.models.heads import (
  RewardHead,
  RewardRangeError,
  SymexpRewardHead,
  make_reward_head,
)

_U = 5


@pytest.mark.parametrize("lead", [(), (4,), (2, 3)])
def test_reward_head_against_numpy(lead):
  bins = np.array([-2.0, 0.0, 0.5, 3.0])
  head = random_head(RewardHead(bins, _U, hidden_size=6))
  generator = np.random.default_rng(1)
  h = generator.normal(size=(*lead, _U)).astype(np.float32)
  if not lead:
    h = h[None]
  hidden = np.maximum(h @ head.network.hidden.kernel.numpy() + head.network.hidden.bias, 0)
  logits = hidden @ head.network.output_layer.kernel.numpy() + head.network.output_layer.bias
  p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
  np.testing.assert_allclose(head.mean(head.network(h)), p @ bins, rtol=1e-4, atol=1e-5)
  # 2.0 is 2/5 of 0.5 and 3/5 of 3.0.
  reward = tf.fill(h.shape[:-1], 2.0)
  expected = -(0.4 * np.log(p[..., 2]) + 0.6 * np.log(p[..., 3]))
  np.testing.assert_allclose(head.loss(head.network(h), reward), expected, rtol=1e-4)


def test_two_hot():
  bins = np.array([-2.0, 0.0, 0.5, 3.0])
  head = RewardHead(bins, _U)
  table = {
    -2.0: [1, 0, 0, 0],
    -0.5: [0.25, 0.75, 0, 0],
    0.0: [0, 1, 0, 0],
    0.125: [0, 0.75, 0.25, 0],
    0.5: [0, 0, 1, 0],
    3.0: [0, 0, 0, 1],
    -9.0: [1, 0, 0, 0],
    9.0: [0, 0, 0, 1],
  }
  two_hot = head.two_hot(tf.constant(list(table)))
  np.testing.assert_allclose(two_hot, list(table.values()), atol=1e-6)


def test_two_hot_has_the_reward_as_its_mean():
  bins = np.array([-100.4, -0.4, 3.1, 6.6, 10.1, 13.6])
  head = RewardHead(bins, _U)
  reward = np.random.default_rng(0).uniform(-110, 20, (50, 40)).astype(np.float32)
  two_hot = head.two_hot(reward).numpy()
  assert two_hot.shape == (50, 40, 6) and two_hot.min() >= 0
  assert ((two_hot > 0).sum(-1) <= 2).all()
  np.testing.assert_allclose(two_hot.sum(-1), 1, atol=1e-6)
  np.testing.assert_allclose(two_hot @ bins, np.clip(reward, -100.4, 13.6), atol=2e-5)


@pytest.mark.parametrize("bins", [[1.0], [], [0.0, 0.0], [1.0, 0.0], [[0.0, 1.0]], [0.0, np.nan]])
def test_bad_bins_are_an_error(bins):
  with pytest.raises(ValueError, match="reward_bins must be two or more increasing numbers"):
    RewardHead(bins, _U)


@pytest.mark.parametrize("rewards", [[0.0, 3.01], [-2.1], [np.nan], [np.inf, 0.0]])
def test_rewards_out_of_range_are_refused(rewards):
  head = RewardHead([-2.0, 0.0, 3.0], _U)
  head.check_rewards([-2.0, 3.0, 1.0])
  head.check_rewards(np.float32([-2.00001, 3.00001]))  # Rounding of sums.
  message = (
    "not a finite number"
    if not np.isfinite(rewards).all()
    else (r"rewards from .* represents -2 to 3\. Widen dynamics\.reward_bins")
  )
  for function in (head.check_rewards, head.adapt):
    with pytest.raises(RewardRangeError, match=message):
      function(rewards)


def _symexp_head(**options):
  return SymexpRewardHead(**({"limit": 22_025.0, "input_size": _U} | options))


def test_symexp_bins():
  head = _symexp_head()
  spaced = np.linspace(-10, 10, 101)
  np.testing.assert_allclose(head.bins, np.sign(spaced) * np.expm1(np.abs(spaced)), rtol=1e-4)
  assert head.bins[50] == 0.0
  # Its two-hot has the reward as its mean, at any scale.
  reward = np.float32([-20_000, -16.3, -0.1, 0, 1e-3, 1, 1000])
  np.testing.assert_allclose(head.two_hot(reward).numpy() @ head.bins.numpy(), reward, rtol=1e-4)


@pytest.mark.parametrize("limit", [1.0, 22_025.0, 1e6])
@pytest.mark.parametrize("rewards", [[0.5], [-1.0, 1.0, 0.0], []])
def test_a_new_symexp_head_expects_nothing(limit, rewards):
  head = _symexp_head(limit=limit, hidden_size=6)
  h = tf.random.stateless_normal([7, _U], [0, 1])
  np.testing.assert_array_equal(head.mean(head.network(h)), np.zeros(7))
  head.adapt(rewards)
  np.testing.assert_array_equal(head.mean(head.network(h)), np.zeros(7))
  assert head.data_limit == np.abs(rewards).max(initial=0.0)


def test_symexp_rewards_out_of_range_are_refused():
  head = _symexp_head(limit=100.0)
  message = r"to 101 .* represents -100 to 100\. Widen dynamics\.reward_limit"
  with pytest.raises(RewardRangeError, match=message):
    head.adapt([0.0, 101.0])
  assert float(head.data_limit) == pytest.approx(100.0)  # As before.


def test_the_mean_of_a_symexp_head_against_numpy():
  head = random_head(_symexp_head(hidden_size=6, num_members=2))
  h = tf.random.stateless_normal([2, 7, _U], [0, 1])
  logits = head.network(h).numpy()
  bins = head.bins.numpy().astype(np.float64)
  for data_limit, num_bins in ((1e5, 101), (22_025.0, 101), (16.3, 31), (1.0, 9), (0.0, 1)):
    head.data_limit.assign(data_limit)
    within = np.abs(np.arange(101) - 50) <= num_bins // 2
    # The outermost bin is the first at or beyond the data's limit.
    assert bins[within].max() >= min(data_limit, 22_024.0)
    assert num_bins == 1 or bins[within][-2] < data_limit
    weights = np.exp(logits.astype(np.float64)) * within
    expected = (weights * bins).sum(-1) / weights.sum(-1)
    np.testing.assert_allclose(head.mean(logits), expected, rtol=1e-3, atol=1e-4)


def _survival(x, luck):
  return np.ones_like(x), np.ones_like(x)


def _quadratic_cost(x, luck):
  return -16.0 * x**2, -16.0 * x**2


def _rare_and_large(x, luck):
  return 100.0 * (luck < 0.05) - 0.3, np.full_like(x, 100.0 * (luck < 0.05).mean() - 0.3)


@pytest.mark.parametrize("make_rewards", [_survival, _quadratic_cost, _rare_and_large])
def test_a_symexp_head_learns_rewards_of_any_scale(make_rewards):
  """The mean is right after a short fit, although most bins lie far beyond the data."""
  keras.utils.set_random_seed(0)
  head = _symexp_head(input_size=1, hidden_size=64)
  x, luck = np.random.default_rng(0).uniform(size=(2, 2048)).astype(np.float32)
  reward, expected = (y.astype(np.float32) for y in make_rewards(x, luck))
  head.adapt(reward)
  optimizer = keras.optimizers.Adam(1e-2)
  optimizer.build(head.trainable_variables)

  @tf.function
  def fit():
    for _ in tf.range(300):
      with tf.GradientTape() as tape:
        loss = tf.reduce_mean(head.loss(head.network(x[:, np.newaxis]), reward))
      variables = head.trainable_variables
      optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables, strict=True))

  fit()
  error = head.mean(head.network(x[:, np.newaxis])).numpy() - expected
  assert np.abs(error).mean() < 0.02 * np.abs(reward).max()


def test_the_configuration_chooses_the_reward_head():
  assert type(make_reward_head(None, 50.0, _U, 6)) is SymexpRewardHead
  fixed = make_reward_head((0.0, 1.0), 50.0, _U, 6)
  assert type(fixed) is RewardHead
  assert [tuple(weight.shape) for weight in fixed.weights] == [(_U, 6), (6,), (6, 2), (2,)]
