"""Distributions of actions against NumPy, and actors that use them."""

import math
from statistics import NormalDist

import numpy as np
import pytest
import tensorflow as tf

from tests.nonlinear_world import NonlinearWorld
from tests.worlds import AdditiveWorld, state_at
from wm_tf import rng
from wm_tf.checks import ConfigError
from wm_tf.policies.actor import Actor, Critic, TwoHotCritic
from wm_tf.policies.distributions import (
  ClippedNormal,
  OneHot,
  TanhNormal,
  TruncatedNormal,
  make_distribution,
)
from wm_tf.policies.networks import LayersPolicy, Network, become
from wm_tf.policies.planner import Planner, PlannerConfig

_SEED = rng.make_seed(3)
# Outputs of a network: loc and scale before their bounds. The last two are close to a bound.
_OUTPUTS = [[0.0, 0.5], [0.4, -2.0], [-1.0, -6.0], [3.0, -6.0], [-4.0, 4.0]]
_GRID = np.linspace(-1.0, 1.0, 200_001)


def _density(outputs):
  """The density on `_GRID` by its definition, `float64[200001]`."""
  loc = math.tanh(outputs[0])
  scale = 0.1 + 0.9 / (1.0 + math.exp(-outputs[1] - 2.0))
  density = np.exp(-0.5 * ((_GRID - loc) / scale) ** 2)
  return density / np.trapezoid(density, _GRID)


@pytest.mark.parametrize("outputs", _OUTPUTS, ids=str)
def test_truncated_normal(outputs):
  distribution, density = TruncatedNormal(1), _density(outputs)
  outputs = tf.constant([outputs])
  np.testing.assert_allclose(
    distribution.log_prob(outputs, tf.constant([[-1.0], [-0.3], [0.9]])),
    np.log(np.interp([-1.0, -0.3, 0.9], _GRID, density)),
    rtol=1e-3,
    atol=2e-3,
  )
  entropy = -np.trapezoid(density * np.log(density + 1e-300), _GRID)
  np.testing.assert_allclose(distribution.entropy(outputs), [entropy], atol=2e-3)
  # A sample is the quantile of its noise.
  noise = np.linspace(0.01, 0.99, 50)[:, None].astype(np.float32)
  sample = distribution.sample(outputs, noise).numpy()
  cumulative = np.cumsum(density) * (_GRID[1] - _GRID[0])
  np.testing.assert_allclose(np.interp(sample, _GRID, cumulative), noise, atol=2e-3)
  most_likely = [[_GRID[np.argmax(density)]]]
  np.testing.assert_allclose(distribution.deterministic(outputs), most_likely, atol=2e-5)


@pytest.mark.parametrize("outputs", [*_OUTPUTS, [40.0, -9.0], [0.9, 9.0]], ids=str)
def test_a_clipped_normal_acts_by_its_mean(outputs):
  distribution = ClippedNormal(1)
  loc, scale = (float(x[0]) for x in distribution.parameters(tf.constant(outputs)))
  normal = NormalDist(loc, scale)
  quantiles = [normal.inv_cdf((index + 0.5) / 20_000) for index in range(20_000)]
  mean = distribution.deterministic(tf.constant([outputs]))
  np.testing.assert_allclose(mean, [[np.clip(quantiles, -1.0, 1.0).mean()]], atol=1e-4)


def test_the_policy_gradient_of_a_clipped_normal():
  """E[f(a) d log p(a)] against finite differences of E[f(a)], with a third of actions clipped."""
  distribution, outputs = ClippedNormal(1), [0.9, -2.0]
  quantiles = [NormalDist().inv_cdf((index + 0.5) / 50_000) for index in range(50_000)]
  noise = tf.constant(quantiles, tf.float32)[:, tf.newaxis]

  def value(outputs):
    action = distribution.sample(tf.constant([outputs], tf.float32), noise)
    return action, (action[:, 0] - 0.3) ** 2

  variable = tf.constant([outputs])
  action, found = value(outputs)
  assert 0.2 < np.mean(action >= 1.0) < 0.5
  with tf.GradientTape() as tape:
    tape.watch(variable)
    mean = tf.reduce_mean(distribution.log_prob(variable, action) * found)
  for index, gradient in enumerate(tape.gradient(mean, variable)[0].numpy()):
    ends = []
    for sign in (1, -1):
      changed = list(outputs)
      changed[index] += sign * 1e-2
      ends.append(np.mean(value(changed)[1], dtype=np.float64))
    np.testing.assert_allclose(gradient, (ends[0] - ends[1]) / 2e-2, rtol=1e-2)


@pytest.mark.parametrize("bounded", [TruncatedNormal, ClippedNormal])
@pytest.mark.parametrize("jit_compile", [False, True])
def test_samples_of_a_bounded_normal_are_actions(bounded, jit_compile):
  distribution = bounded(2)
  outputs = tf.constant(np.random.default_rng(0).normal(size=(500, 4)) * 20.0, tf.float32)
  extremes = {TruncatedNormal: [0.0, 1e-7, 0.5, 1.0 - 6e-8], ClippedNormal: [-5.0, 1e-7, 0.7, 5.0]}
  noise = np.random.default_rng(1).choice(extremes[bounded], size=(500, 2))

  @tf.function(jit_compile=jit_compile, autograph=False)
  def total_and_gradient(outputs, noise):
    with tf.GradientTape() as tape:
      tape.watch(outputs)
      sample = distribution.sample(outputs, noise)
      total = tf.reduce_sum(sample) + tf.reduce_sum(distribution.log_prob(outputs, sample))
      total += tf.reduce_sum(distribution.entropy(outputs))
    return sample, total, tape.gradient(total, outputs)

  sample, total, gradient = total_and_gradient(outputs, tf.constant(noise, tf.float32))
  assert np.all(np.abs(sample) <= 1.0)
  assert np.all(np.isfinite(total)) and np.all(np.isfinite(gradient))


def test_the_gradient_of_a_sample_is_that_of_its_mean():
  """The mean over uniform noise, against finite differences of the mean by its density."""
  distribution, outputs = TruncatedNormal(1), [0.4, -2.0]
  noise = tf.constant((np.arange(100_000) + 0.5) / 100_000, tf.float32)[:, tf.newaxis]
  variable = tf.constant([outputs])
  with tf.GradientTape() as tape:
    tape.watch(variable)
    mean = tf.reduce_mean(distribution.sample(variable, noise))
  for index, gradient in enumerate(tape.gradient(mean, variable)[0].numpy()):
    ends = []
    for sign in (1, -1):
      changed = list(outputs)
      changed[index] += sign * 1e-3
      ends.append(np.trapezoid(_density(changed) * _GRID, _GRID))
    np.testing.assert_allclose(gradient, (ends[0] - ends[1]) / 2e-3, rtol=1e-2)


def test_a_uniform_share_is_mixed_with_each_group():
  logits = np.array([[3.0, -1.0, 0.5, 200.0, -200.0]], np.float32)
  distribution, p = OneHot((3, 2), uniform_share=0.1), []
  for group in (logits[0, :3], logits[0, 3:]):
    softmax = np.exp(group - group.max()) / np.exp(group - group.max()).sum()
    p.append(0.9 * softmax + 0.1 / len(group))
  for first in range(3):
    for second in range(2):
      action = np.concatenate([np.eye(3)[first], np.eye(2)[second]])[None].astype(np.float32)
      expected = np.log(p[0][first] * p[1][second])
      np.testing.assert_allclose(distribution.log_prob(logits, action), [expected], rtol=1e-5)
  entropy = -sum((group * np.log(group)).sum() for group in p)
  np.testing.assert_allclose(distribution.entropy(logits), [entropy], rtol=1e-5)
  noise = distribution.draw_noise([20_000, 5], _SEED)
  found = distribution.sample(np.tile(logits, (20_000, 1)), noise)
  np.testing.assert_allclose(np.mean(found, axis=0), np.concatenate(p), atol=0.01)


def test_the_distribution_of_a_world_model():
  assert isinstance(make_distribution(NonlinearWorld(True), "truncated_normal"), OneHot)
  assert isinstance(make_distribution(NonlinearWorld()), TanhNormal)
  assert isinstance(make_distribution(NonlinearWorld(), "truncated_normal"), TruncatedNormal)
  assert isinstance(make_distribution(NonlinearWorld(), "clipped_normal"), ClippedNormal)


def _truncated_actor(world):
  actor = Actor(world, (6,), distribution=TruncatedNormal(world.action_size))
  generator = np.random.default_rng(0)
  for weight in actor.network.weights:
    weight.assign(generator.normal(size=weight.shape))
  return actor


@pytest.mark.slow
def test_an_actor_with_a_learned_scale_samples_to_explore():
  world = AdditiveWorld()
  actor, state = _truncated_actor(world), state_at(np.tile([[0.3, -0.2]], (4000, 1)))
  outputs = actor.network(world.features(state))
  usual, _ = actor.act(state, ())
  np.testing.assert_allclose(usual, tf.tanh(outputs[:, :2]), atol=1e-6)
  explored, _ = actor.act(state, (), _SEED, explore=True)
  assert np.all(np.std(explored, axis=0) > 0.05)
  log_prob = actor.distribution.log_prob(outputs, explored)
  entropy = actor.distribution.entropy(outputs)
  np.testing.assert_allclose(-np.mean(log_prob), np.mean(entropy), atol=0.05)
  seeds = tf.stack([tf.range(4000), tf.zeros([4000], tf.int32)], axis=1)
  together, _ = actor.act(state, (), seeds, explore=True)
  alone, _ = actor.act(state_at([[0.3, -0.2]]), (), seeds[7:8], explore=True)
  np.testing.assert_array_equal(together[7:8], alone)


def test_an_actor_with_a_learned_scale_as_layers():
  """The layers compute its actions; layers that are assigned to an actor keep its scale."""
  world = AdditiveWorld()
  actor = _truncated_actor(world)
  state = state_at(np.random.default_rng(1).normal(size=(9, 2)))
  expected, _ = actor.act(state, ())
  network = Network.of(actor)
  assert network.layers[-1].shape == (7, 2)
  np.testing.assert_allclose(LayersPolicy(world, network.fold()).act(state, ())[0], expected, 1e-4)
  other = _truncated_actor(world)
  before = other.network.layers[-1].kernel.numpy()
  become(other, network._replace(layers=tuple(2.0 * layer for layer in network.layers)))
  after = other.network.layers[-1].kernel.numpy()
  np.testing.assert_allclose(after[:, :2], 2.0 * before[:, :2])
  np.testing.assert_array_equal(after[:, 2:], before[:, 2:])


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"distribution": ClippedNormal(2)}, "clipped_normal actions cannot be varied; set contr"),
    ({"normalised": True}, "normalised layers cannot be varied; set controller"),
  ],
)
def test_an_actor_of_which_layers_do_not_tell_the_actions(options, message):
  with pytest.raises(ConfigError, match=message):
    Network.of(Actor(AdditiveWorld(), (6,), **options))


def test_the_values_of_a_two_hot_critic():
  """It starts at 0, learns returns of any scale, and gives them in units of reward."""
  world = AdditiveWorld(action_size=1)
  critic = TwoHotCritic(world, (8,), reward_scale=0.5, discount=0.9)
  state = state_at([[0.0], [1.0]])
  np.testing.assert_array_equal(critic.value(state), [0.0, 0.0])
  target = tf.constant([3.0, 3.0])
  np.testing.assert_allclose(critic.loss(tf.zeros([2, 101]), target), np.log([101.0, 101.0]), 1e-5)
  # All weight on the value symexp(6) of bin 80.
  critic.network.layers[-1].bias.assign(100.0 * np.eye(101, dtype=np.float32)[80])
  np.testing.assert_allclose(critic.value(state), np.full(2, np.expm1(6.0) / 0.5), rtol=1e-5)
  assert critic.network(world.features(state)).shape == (2, 101)


@pytest.mark.parametrize("critic_class", [Critic, TwoHotCritic])
def test_a_planner_adds_the_value(critic_class):
  world = AdditiveWorld(goal=1.0)
  critic = critic_class(world, (4,), reward_scale=0.5, discount=0.9)
  bias = 100.0 * np.eye(101, dtype=np.float32)[80] if critic.output_size > 1 else [200.0]
  critic.network.layers[-1].bias.assign(bias)
  config = PlannerConfig(horizon=1, num_candidates=8, num_elites=2, num_iterations=1)
  planners = [Planner(world, config, critic=each) for each in (None, critic)]
  state = state_at([[0.0, 0.0]])
  (_, without), (_, found) = (p.plan(state, p.initial_memory(1), _SEED) for p in planners)
  np.testing.assert_allclose(found - without, 0.9 * critic.value(state), rtol=1e-2)
