"""The mixture by component is the readable one."""

import numpy as np
import pytest
import tensorflow as tf
from tensorflow_probability import distributions as tfd

from tests.worlds import assert_same, random_head
from wm_tf.models.kernels import mixture
from wm_tf.models.mixture_head import MIXTURE_KINDS, MixtureHead, soft_bound

_Z, _K, _U = 3, 4, 5
both_kinds = pytest.mark.parametrize("kind", MIXTURE_KINDS)
members = pytest.mark.parametrize("num_members", [None, 2])


def _head_and_inputs(kind, num_members, rows=64):
  head = random_head(MixtureHead(_Z, _K, kind, _U, num_members))
  lead = [rows] if num_members is None else [num_members, rows]
  return head, tf.random.stateless_normal([*lead, _U], [0, 1])


@both_kinds
@members
def test_mean(kind, num_members):
  head, h = _head_and_inputs(kind, num_members)
  projected = mixture.project(h, mixture.by_component(head))
  assert_same(mixture.mean(projected, _K), head.mean(h), rtol=1e-4)


@both_kinds
@members
@pytest.mark.parametrize("temperature", [0.0, 1, 1.3, np.linspace(0, 2, 64)])
def test_samples(kind, num_members, temperature):
  head, h = _head_and_inputs(kind, num_members)
  choice = tf.random.stateless_uniform([64, _Z], [0, 2])
  noise = tf.random.stateless_normal([64, _Z], [0, 3])
  components = mixture.split_components(mixture.project(h, mixture.by_component(head)), _K)
  found = mixture.sample(kind, components, choice, noise, temperature)
  assert_same(found, head.sample(h, choice, noise, temperature), rtol=1e-4)


@members
@pytest.mark.parametrize("lead", [(7,), (2, 3)])
def test_nll_is_that_of_the_distribution(num_members, lead):
  """Its value, and its gradient by every weight and by what it is given."""
  head = random_head(MixtureHead(_Z, _K, "per_dimension", _U, num_members))
  full = lead if num_members is None else (num_members, *lead)
  h = tf.random.stateless_normal([*full, _U], [0, 1])
  target = tf.random.stateless_normal([*full, _Z], [0, 2])

  def readable(h, target):
    return -tf.reduce_sum(head.distribution(h).log_prob(target), axis=-1)

  found = []
  for function in (lambda h, x: mixture.head_nll(head, h, x), readable, head.nll):
    with tf.GradientTape() as tape:
      tape.watch([h, target])
      nll = function(h, target)
      total = tf.reduce_sum(nll * tf.random.stateless_normal(full, [0, 3]))
    sources = [h, target, *(weight.value for weight in head.weights)]
    found.append((nll, tape.gradient(total, sources)))
  assert found[0][0].shape == full
  assert_same(found[0], found[1], rtol=1e-4, atol=1e-4)
  assert_same(found[0], found[2], rtol=0, atol=0)


def test_the_gradient_of_the_nll_is_that_of_the_density():
  """Written out against automatic differentiation of tfp's; some far out, some at the bounds."""
  generator = np.random.default_rng(0)
  shapes = [(6, _K * _Z)] * 3 + [(6, _Z)]
  arrays = [generator.normal(size=shape) for shape in shapes]
  arrays[3][0, 0] = 40.0
  arrays[2][1], arrays[2][2] = -8.0, 5.0
  arguments = [tf.constant(x, tf.float32) for x in arrays]
  weight = tf.constant(generator.normal(size=6), tf.float32)

  def density(logits, loc, unbounded, x):
    parts = (tf.reshape(y, [-1, _K, _Z]) for y in (logits, loc, unbounded))
    logits, loc, unbounded = map(tf.linalg.matrix_transpose, parts)
    components = tfd.Normal(loc, tf.exp(soft_bound(unbounded, -5.0, 2.0)))
    density = tfd.MixtureSameFamily(tfd.Categorical(logits=logits), components)
    return -tf.reduce_sum(density.log_prob(x), axis=-1)

  found = []
  for function in (mixture.mixture_nll, density):
    with tf.GradientTape() as tape:
      tape.watch(arguments)
      nll = function(*arguments)
      total = tf.reduce_sum(nll * weight)
    found.append([nll, *tape.gradient(total, arguments)])
  for ours, expected in zip(*found, strict=True):
    np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-4)


def test_bounded_scale():
  x = tf.constant(np.linspace(-60, 60, 2401), tf.float32)
  with tf.GradientTape() as tape:
    tape.watch(x)
    y = soft_bound(x, *mixture.LOG_SCALE_BOUNDS)
  slope = tape.gradient(y, x)
  scale, scale_slope = mixture.bounded_scale(x)
  np.testing.assert_allclose(scale, np.exp(y.numpy().astype(np.float64)), rtol=2e-5)
  np.testing.assert_allclose(scale_slope, np.exp(y) * slope, rtol=1e-3, atol=1e-6)
