import itertools

import numpy as np
import pytest
import tensorflow as tf

from tests.worlds import random_head, set_mixture
from wm_tf.models.heads import TerminationHead
from wm_tf.models.mixture_head import MIXTURE_KINDS, MixtureHead, soft_bound

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
