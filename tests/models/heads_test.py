import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.worlds import random_head, set_mixture
from wm_tf.models.heads import (
  MIXTURE_KINDS,
  MixtureHead,
  RewardHead,
  RewardRangeError,
  SymexpRewardHead,
  TerminationHead,
  make_reward_head,
  soft_bound,
)

_Z, _K, _U = 3, 4, 5
both_kinds = pytest.mark.parametrize("kind", MIXTURE_KINDS)


def _random_head(kind, seed=0):
  return random_head(MixtureHead(_Z, _K, kind, _U), seed)


def _fixed_head(weights, loc, scale):
  """A head of mixtures that do not depend on h; weights `[Z, K]` per dimension, `[K]` joint."""
  kind = "per_dimension" if np.ndim(weights) == 2 else "joint"
  size, num = np.shape(loc)
  head = MixtureHead(size, num, kind, 1)
  set_mixture(head, weights, loc, scale)
  return head


def _numpy_parameters(head, h):
  """Weights `[..., Z or 1, K]`, loc and scale `[..., Z, K]`, from the projection's matrix."""
  x = h.astype(np.float64) @ head.projection.kernel.numpy() + head.projection.bias.numpy()
  num = _Z if head.kind == "per_dimension" else 1
  logits, loc, log_scale = np.split(x, [num * _K, num * _K + _Z * _K], axis=-1)
  log_scale = 2.0 - np.log1p(np.exp(2.0 - log_scale))
  log_scale = -5.0 + np.log1p(np.exp(log_scale + 5.0))
  weights = np.exp(logits.reshape(*x.shape[:-1], num, _K))
  shape = *x.shape[:-1], _Z, _K
  return (
    weights / weights.sum(-1, keepdims=True),
    loc.reshape(shape),
    np.exp(log_scale.reshape(shape)),
  )


def _normal_density(x, loc, scale):
  return np.exp(-0.5 * ((x - loc) / scale) ** 2) / (scale * np.sqrt(2 * np.pi))


@both_kinds
@pytest.mark.parametrize("lead", [(7,), (2, 3)])
def test_nll_against_numpy(kind, lead):
  head = _random_head(kind)
  generator = np.random.default_rng(1)
  h = generator.normal(size=(*lead, _U)).astype(np.float32)
  x = generator.normal(size=(*lead, _Z)).astype(np.float32)
  weights, loc, scale = _numpy_parameters(head, h)
  density = _normal_density(x[..., None], loc, scale)
  if kind == "per_dimension":  # A product over dimensions of sums over components,
    expected = -np.log((weights * density).sum(-1)).sum(-1)
  else:  # and a sum over components of products over dimensions.
    expected = -np.log((weights[..., 0, :] * density.prod(-2)).sum(-1))
  nll = head.nll(h, x)
  assert nll.shape == lead
  np.testing.assert_allclose(nll, expected, rtol=1e-4)
  log_prob = head.distribution(h).log_prob(x)
  assert log_prob.shape == ((*lead, _Z) if kind == "per_dimension" else lead)
  np.testing.assert_allclose(head.mean(h), (weights * loc).sum(-1), rtol=1e-4, atol=1e-5)


def test_the_two_kinds_are_different_densities():
  """Two clusters at (-1, -1) and (1, 1): only the joint mixture knows which corners are empty."""
  loc, scale = [[-1.0, 1.0]] * 2, [[0.1, 0.1]] * 2
  joint = _fixed_head([0.5, 0.5], loc, scale)
  single = _fixed_head([[0.5, 0.5]] * 2, loc, scale)
  h = tf.zeros([2, 1])
  corners = tf.constant([[1.0, 1.0], [1.0, -1.0]])
  peak = -2 * np.log(_normal_density(0, 0, 0.1))
  np.testing.assert_allclose(single.nll(h, corners), peak + 2 * np.log(2), rtol=1e-3)
  np.testing.assert_allclose(joint.nll(h, corners)[0], peak + np.log(2), rtol=1e-3)
  np.testing.assert_allclose(
    joint.nll(h, corners)[1], peak + np.log(2) + 200 - np.log(2), rtol=0.02
  )


def _draw(head, num, temperature, seed=0):
  generator = np.random.default_rng(seed)
  choice = generator.uniform(size=(num, head.event_size)).astype(np.float32)
  noise = generator.normal(size=(num, head.event_size)).astype(np.float32)
  return head.sample(tf.zeros([num, 1]), choice, noise, temperature).numpy()


@both_kinds
@pytest.mark.parametrize("temperature", [0.4, 1.0, 1.6])
def test_samples_have_the_moments_of_the_tempered_mixture(kind, temperature):
  """Means, variances and covariances within 5 standard errors: logits / t and variances * t."""
  loc = np.array([[-2.0, 0.0, 1.5], [-1.0, 0.0, 1.0]])
  scale = np.array([[0.3, 0.8, 0.5], [1.0, 0.2, 0.4]])
  weights = np.array([[0.2, 0.5, 0.3], [0.1, 0.3, 0.6]])
  head = _fixed_head(weights if kind == "per_dimension" else weights[0], loc, scale)
  num = 60_000
  x = _draw(head, num, temperature).astype(np.float64)

  if kind == "joint":
    weights = weights[[0, 0]]
  weights = weights ** (1 / temperature)
  weights /= weights.sum(-1, keepdims=True)
  mean = (weights * loc).sum(-1)
  variance = (weights * (temperature * scale**2 + loc**2)).sum(-1) - mean**2
  error = np.sqrt(variance / num)
  assert np.all(np.abs(x.mean(0) - mean) < 5 * error)
  square = (x - mean) ** 2
  assert np.all(np.abs(square.mean(0) - variance) < 5 * square.std(0) / np.sqrt(num))
  product = (x - mean).prod(-1)
  covariance = 0.0
  if kind == "joint":
    covariance = (weights[0] * loc.prod(0)).sum() - mean.prod()
    assert abs(covariance) > 0.3  # So that the two kinds can be told apart.
  assert abs(product.mean() - covariance) < 5 * product.std() / np.sqrt(num)


@both_kinds
def test_samples_have_the_density(kind):
  """A histogram of one dimension against the density that `nll` gives; chi squared."""
  loc, scale = np.array([[-1.0, 0.5, 2.0]]), np.array([[0.4, 0.3, 0.6]])
  weights = np.array([[0.3, 0.5, 0.2]])
  head = _fixed_head(weights if kind == "per_dimension" else weights[0], loc, scale)
  num, edges = 50_000, np.linspace(-2.5, 4.0, 40)
  counts, _ = np.histogram(_draw(head, num, 1.0), edges)
  fine = np.linspace(edges[0], edges[-1], 39 * 20 + 1)
  middle = ((fine[1:] + fine[:-1]) / 2).astype(np.float32)
  density = np.exp(-head.nll(tf.zeros([len(middle), 1]), middle[:, None]).numpy())
  expected = num * (density * np.diff(fine)).reshape(39, 20).sum(-1)
  chi_squared = ((counts - expected) ** 2 / expected).sum()
  assert chi_squared < 39 + 5 * np.sqrt(2 * 39)


@both_kinds
def test_temperature_zero_is_the_heaviest_component(kind):
  loc = np.array([[-2.0, 0.0, 1.5], [1.0, -1.0, 0.0]])
  scale = np.full((2, 3), 0.5)
  weights = np.array([[0.2, 0.5, 0.3], [0.1, 0.3, 0.6]])
  head = _fixed_head(weights if kind == "per_dimension" else weights[0], loc, scale)
  expected = [0.0, 0.0] if kind == "per_dimension" else [0.0, -1.0]
  x = _draw(head, 1000, 0.0)
  # What noise is left is at most 1% of the scale.
  np.testing.assert_allclose(x, np.broadcast_to(expected, x.shape), atol=0.01 * 0.51 * 4.5)


@both_kinds
def test_temperature_of_each_row(kind):
  head = _random_head(kind)
  generator = np.random.default_rng(2)
  h = generator.normal(size=(4, _U)).astype(np.float32)
  choice = generator.uniform(size=(4, _Z)).astype(np.float32)
  noise = generator.normal(size=(4, _Z)).astype(np.float32)
  temperatures = [0.0, 0.5, 1.0, 2.0]
  together = head.sample(h, choice, noise, tf.constant(temperatures))
  for row, t in enumerate(temperatures):
    alone = head.sample(h[row : row + 1], choice[row : row + 1], noise[row : row + 1], t)
    np.testing.assert_allclose(together[row], alone[0], rtol=1e-5, atol=1e-6)
  for one, two in ((1, 1.0), (np.float64(0.5), 0.5)):
    np.testing.assert_array_equal(
      head.sample(h, choice, noise, one), head.sample(h, choice, noise, two)
    )


@both_kinds
def test_the_draw_picks_by_cumulative_weight(kind):
  loc, scale = np.arange(7.0)[None], np.full((1, 7), 0.01)
  head = _fixed_head(np.full((1, 7) if kind == "per_dimension" else 7, 1 / 7), loc, scale)

  def draw(choice):
    choice, noise = np.full((1, 1), choice, np.float32), np.zeros((1, 1), np.float32)
    return head.sample(tf.zeros([1, 1]), choice, noise, 1.0)[0, 0]

  assert draw(0.0) == 0.0
  for k in range(7):
    assert draw((k + 0.5) / 7) == k


def test_the_last_component_takes_what_rounding_leaves():
  """Float32 weights need not add up to 1, and a draw may be above what they add up to."""
  weights = np.random.default_rng(0).dirichlet(np.ones(7), 100)
  head = _fixed_head(weights, np.tile(np.arange(1.0, 8.0), (100, 1)), np.full((100, 7), 0.01))
  h, choice = tf.zeros([1, 1]), np.full((1, 100), np.nextafter(np.float32(1), np.float32(0)))
  total = tf.cumsum(tf.nn.softmax(head.parameters(h)[0]), axis=-1)[..., -1]
  assert np.any(total <= choice)
  sample = head.sample(h, choice, tf.zeros([1, 100]), 1.0)
  np.testing.assert_allclose(sample, np.full((1, 100), 7.0))


def test_unknown_kind_is_an_error():
  with pytest.raises(ValueError, match=r"must be one of \('per_dimension', 'joint'\).*'diagonal'"):
    MixtureHead(_Z, _K, "diagonal", _U)


def test_soft_bound():
  x = tf.constant(np.linspace(-60, 60, 2401), tf.float32)
  with tf.GradientTape() as tape:
    tape.watch(x)
    y = soft_bound(x, -5.0, 2.0)
  y, slope = y.numpy(), tape.gradient(y, x).numpy()
  # The second squeeze lifts the upper bound by less than softplus(-7) = 0.0009.
  assert y.min() >= -5.0 and y.max() <= 2.001
  assert np.all(np.diff(y) >= 0)
  np.testing.assert_allclose(y[[0, -1]], [-5.0, 2.0], atol=1e-3)
  middle = np.abs(x + 1.5) < 1.0
  np.testing.assert_allclose(y[middle], x[middle], atol=0.08)
  at_bounds = [slope[np.argmin(np.abs(x - bound))] for bound in (-5.0, 2.0)]
  np.testing.assert_allclose(at_bounds, 0.5, atol=0.01)
  assert np.all(slope[np.abs(x) < 12] > 1e-5)  # Nowhere near the bounds is it lost.


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


@pytest.mark.parametrize(("weight", "ends"), list(itertools.product([1.0, 10.0], [0.02, 0.4])))
def test_termination_is_a_probability_whatever_the_weight(weight, ends):
  """At the minimum of the weighted loss the discount is the true frequency."""
  head = TerminationHead(_U, weight)
  kernel, bias = head.network.output_layer.kernel, head.network.output_layer.bias
  kernel.assign(tf.zeros_like(kernel))
  # The odds that the weighted loss asks for.
  bias.assign([np.log(weight * ends / (1 - ends))])
  h = tf.random.stateless_normal([100, _U], [0, 1])
  discount = tf.constant(np.arange(100) >= 100 * ends, tf.float32)
  with tf.GradientTape() as tape:
    loss = tf.reduce_mean(head.loss(head.network(h), discount))
  np.testing.assert_allclose(tape.gradient(loss, bias.value), [0.0], atol=1e-5)
  np.testing.assert_allclose(head.discount(head.network(h)), np.full(100, 1 - ends), rtol=1e-4)
  p = weight * ends / (1 - ends + weight * ends)
  expected = -weight * ends * np.log(p) - (1 - ends) * np.log(1 - p)
  np.testing.assert_allclose(loss, expected, rtol=1e-4)


def test_termination_head_has_a_hidden_layer():
  head = TerminationHead(_U, 10.0, hidden_size=7)
  assert [w.shape for w in head.weights] == [(_U, 7), (7,), (7, 1), (1,)]
  assert head.discount(head.network(tf.zeros([2, 3, _U]))).shape == (2, 3)


@pytest.mark.parametrize("weight", [0.0, -1.0])
def test_a_weight_that_is_not_positive_is_an_error(weight):
  with pytest.raises(ValueError, match="positive_weight must be positive"):
    TerminationHead(_U, weight)
