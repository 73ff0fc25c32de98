"""The options of `ActorCritic`: closed forms, gradients in expectation, resume."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from tests.learners.small_actor_critic import (
  BASE,
  SEED,
  drawn_noise,
  flat,
  make_learner,
  randomise,
)
from tests.nonlinear_world import NonlinearWorld
from tests.worlds import AdditiveWorld, assert_same, small_mdn_rnn, state_at
from wm_tf import rng
from wm_tf.checks import ConfigError
from wm_tf.config import make_config
from wm_tf.config.presets import DREAMER_LEARNER
from wm_tf.core import Prediction
from wm_tf.learners.actor_critic import ActorCritic, ActorCriticConfig
from wm_tf.learners.actor_rollouts import (
  differentiable_rollout,
  forward_rollout,
)
from wm_tf.learners.optimizers import Schedule
from wm_tf.learners.returns import range_scale
from wm_tf.models.world_model import WorldModel
from wm_tf.policies.networks import Network
from wm_tf.training import checkpoints

_SIZES = dict(actor_hidden_sizes=(8, 6), critic_hidden_sizes=(7, 5))
_V3 = dataclasses.replace(
  make_config("default", DREAMER_LEARNER).controller.derived(500).actor_critic,
  **{name: BASE[name] for name in ("batch_size", "actor_hidden_sizes", "critic_hidden_sizes")},
  horizon=2,
)


class Bandit(WorldModel):
  """A world of one state, whose reward is a function of the action."""

  latent_size = feature_size = 1

  def __init__(self, reward_fn, action_size, num_choices=()):
    super().__init__(name="bandit")
    self._reward_fn, self.action_size, self.num_choices = reward_fn, action_size, num_choices
    self.built = True

  def features(self, state):
    return state

  def draw_noise(self, batch_size, num_steps, seed):
    return tf.zeros([batch_size, num_steps])

  def imagine_with_noise(self, state, action, noise, temperature=1.0):
    reward = self._reward_fn(action)
    return Prediction(state, reward, tf.ones_like(reward), tf.zeros_like(reward))


# --- The gradient of the actor --------------------------------------------------------------------


def test_reinforce_is_the_policy_gradient_of_a_bandit():
  """`d E[r] / d logit_i = p_i (r_i - E[r])`, whatever the baseline."""
  rewards, logits = np.array([1.0, -0.5, 3.0]), np.array([0.3, 0.0, -0.6], np.float32)
  world = Bandit(lambda action: tf.linalg.matvec(action, tf.constant(rewards, tf.float32)), 3, (3,))
  learner = make_learner(world, horizon=1, discount=0.0, actor_gradient="reinforce")
  for network, bias in ((learner.policy.network, logits), (learner._slow_critic, [0.7])):
    network.weights[-2].assign(tf.zeros_like(network.weights[-2]))
    network.weights[-1].assign(bias)
  starts = tf.zeros([100_000, 1])
  gradients, _, _ = learner._reinforce(starts, drawn_noise(learner, starts))
  p = np.exp(logits) / np.exp(logits).sum()
  np.testing.assert_allclose(-gradients[-1], p * (rewards - p @ rewards), atol=0.01)


def test_reinforce_is_the_policy_gradient_of_a_continuous_bandit():
  """Against the gradient of the mean reward, by quadrature of the truncated normal's density."""

  def reward_fn(action):
    return 2.0 - tf.square(action[:, 0] - 0.5)

  outputs, grid = np.array([-0.3, -2.5]), np.linspace(-1.0, 1.0, 20_001)

  def mean_reward(outputs):
    scale = 0.1 + 0.9 / (1.0 + np.exp(-outputs[1] - 2.0))
    density = np.exp(-0.5 * ((grid - np.tanh(outputs[0])) / scale) ** 2)
    return np.trapezoid(density * (2.0 - (grid - 0.5) ** 2), grid) / np.trapezoid(density, grid)

  learner = make_learner(Bandit(reward_fn, 1), horizon=1, discount=0.0, actor_gradient="reinforce")
  network = learner.policy.network
  network.weights[-2].assign(tf.zeros_like(network.weights[-2]))
  network.weights[-1].assign(outputs)
  starts = tf.zeros([100_000, 1])
  gradients, _, _ = learner._reinforce(starts, drawn_noise(learner, starts))
  steps = 1e-4 * np.eye(2)
  expected = [(mean_reward(outputs + s) - mean_reward(outputs - s)) / 2e-4 for s in steps]
  np.testing.assert_allclose(-gradients[-1], expected, atol=0.02)


def test_both_gradients_of_one_step_are_equal_in_expectation():
  """In a linear-quadratic world, with a value after the step that is not linear."""
  world = AdditiveWorld(goal=1.0, action_size=1)
  starts = state_at(np.linspace(-1.0, 2.0, 200_000)[:, None])
  found = []
  for actor_gradient in ("dynamics", "reinforce"):
    learner = randomise(make_learner(world, horizon=1, actor_gradient=actor_gradient))
    dream = learner._reinforce if actor_gradient == "reinforce" else learner._dream
    found.append(flat(dream(starts, drawn_noise(learner, starts))[0]))
  assert np.linalg.norm(found[1] - found[0]) < 0.03 * np.linalg.norm(found[0])


def test_reinforce_is_the_gradient_of_the_whole_return():
  """The sum over steps equals the gradient of the first return through the dynamics."""
  world = AdditiveWorld(goal=1.0, action_size=1)
  options = dict(horizon=3, discount=1.0, lambda_=1.0, actor_gradient="reinforce")
  learner = randomise(make_learner(world, **options))
  starts = state_at(np.linspace(-1.0, 2.0, 200_000)[:, None])
  gradients, _, _ = learner._reinforce(starts, drawn_noise(learner, starts))
  with tf.GradientTape() as tape:
    rollout = learner._roll_out(
      differentiable_rollout, starts, drawn_noise(learner, starts, rng.make_seed(4))
    )
    last = learner.slow_values(rollout.features[:, -1])
    objective = tf.reduce_mean(tf.reduce_sum(rollout.reward, axis=1) + last)
  weights = [weight.value for weight in learner.policy.network.weights]
  expected = flat(tape.gradient(objective, weights))
  assert np.linalg.norm(-3.0 * flat(gradients) - expected) < 0.05 * np.linalg.norm(expected)


@pytest.mark.parametrize("actor_gradient", ["dynamics", "reinforce"])
def test_without_rewards_the_entropy_increases(actor_gradient):
  world, scale = AdditiveWorld(goal=0.0, gain=0.0), 0.3
  learner = make_learner(
    world,
    horizon=1,
    entropy_scale=scale,
    critic="symexp_twohot",
    actor_gradient=actor_gradient,
  )
  starts = state_at([[0.0, 0.0]])
  with tf.GradientTape() as tape:
    outputs = learner.policy.network(world.features(starts))
    entropy = tf.reduce_mean(learner.policy.distribution.entropy(outputs))
  weights = [weight.value for weight in learner.policy.network.weights]
  expected = [-scale * gradient for gradient in tape.gradient(entropy, weights)]
  dream = learner._reinforce if actor_gradient == "reinforce" else learner._dream
  gradients, _, report = dream(starts, drawn_noise(learner, starts))
  assert_same(gradients, expected, rtol=1e-4, atol=1e-6)
  np.testing.assert_allclose(report.entropy, entropy, rtol=1e-6)


@pytest.mark.parametrize("actor_gradient", ["dynamics", "reinforce"])
def test_percentiles_divide_the_returns_of_the_actor(actor_gradient):
  world, found = AdditiveWorld(goal=30.0), []
  starts = state_at(np.random.default_rng(0).normal(size=(50, 2)))
  for normalisation in ("scale", "percentiles"):
    learner = make_learner(
      world, return_normalisation=normalisation, actor_gradient=actor_gradient, lambda_=1.0
    )
    randomise(learner)._return_range.assign([-5.0, 7.0])
    dream = learner._reinforce if actor_gradient == "reinforce" else learner._dream
    found.append(dream(starts, drawn_noise(learner, starts)))
  (plain, critic, report), (divided, same_critic, ranged) = found
  scale = range_scale(tf.stack([ranged.return_low, ranged.return_high]))
  assert scale > 12.0  # It has moved from the 12 before this update.
  assert_same([scale * gradient for gradient in divided], plain, rtol=1e-3, atol=1e-3)
  assert_same(critic, same_critic, rtol=0, atol=0)
  assert report.return_low is None


# --- The loss of the critic -----------------------------------------------------------------------


def _numpy_loss(learner, rollout):
  """The loss of the critic and the lambda-returns, from a rollout."""
  config = learner._config

  def values(network, features):
    outputs = network(features).numpy().astype(np.float64)
    if config.critic == "mse":
      return outputs, outputs[..., 0]
    p = np.exp(outputs - outputs.max(-1, keepdims=True))
    p /= p.sum(-1, keepdims=True)
    return np.log(p), p @ _bins()

  def loss(outputs, target):
    if config.critic == "mse":
      return np.square(outputs[..., 0] - target)
    above = np.clip(np.searchsorted(_bins(), target, side="right"), 1, 100)
    low, high = _bins()[above - 1], _bins()[above]
    share = (target - low) / (high - low)
    below = np.take_along_axis(outputs, above[..., None] - 1, -1)[..., 0]
    return -(1 - share) * below - share * np.take_along_axis(outputs, above[..., None], -1)[..., 0]

  before, after = rollout.features[:, :-1], rollout.features[:, 1:]
  regularised = config.slow_critic == "regulariser"
  bootstrap = learner.critic.network if regularised else learner._slow_critic
  value = values(bootstrap, after)[1]
  reward, discount = rollout.reward.numpy(), config.discount * rollout.discount.numpy()
  target, targets = value[:, -1], []
  for t in reversed(range(config.horizon)):
    mixed = (1 - config.lambda_) * value[:, t] + config.lambda_ * target
    target = reward[:, t] + discount[:, t] * mixed
    targets.insert(0, target)
  targets = np.stack(targets, axis=1)
  outputs, _ = values(learner.critic.network, before)
  found = loss(outputs, targets)
  if regularised:
    found = found + loss(outputs, values(learner._slow_critic, before)[1])
  # The world ends each dream with probability 0.2 at each step.
  return np.mean(0.8 ** np.arange(config.horizon) * found), targets


def _bins():
  spaced = np.linspace(-10.0, 10.0, 101)
  return np.sign(spaced) * np.expm1(np.abs(spaced))


@pytest.mark.parametrize("actor_gradient", ["dynamics", "reinforce"])
@pytest.mark.parametrize("slow_critic", ["target", "regulariser"])
@pytest.mark.parametrize("critic", ["mse", "symexp_twohot"])
def test_the_critic_loss(critic, slow_critic, actor_gradient):
  """Against NumPy, with continuation weights: the discount of the world is 0.8."""
  world = AdditiveWorld(goal=1.0, discount=0.8)
  learner = make_learner(
    world, critic=critic, slow_critic=slow_critic, actor_gradient=actor_gradient, lambda_=0.7
  )
  randomise(learner, 0.1)
  starts = state_at(np.random.default_rng(0).normal(size=(6, 2)))
  dream = learner._reinforce if actor_gradient == "reinforce" else learner._dream
  _, _, report = dream(starts, drawn_noise(learner, starts))
  rollout = learner._roll_out(forward_rollout, starts, drawn_noise(learner, starts))
  loss, targets = _numpy_loss(learner, rollout)
  np.testing.assert_allclose(report.critic_loss, loss, rtol=2e-3)
  np.testing.assert_allclose(report.value, targets.mean(), rtol=2e-3)


def test_the_slow_critic_starts_as_a_copy_and_follows():
  learner = make_learner(
    AdditiveWorld(), seed=5, slow_critic="regulariser", critic="symexp_twohot", target_rate=0.02
  )
  slow, critic = learner._slow_critic, learner.critic.network
  assert_same(slow.state(), critic.state(), rtol=0, atol=0)
  before = [weight.numpy() for weight in slow.weights]
  learner.update(state_at([[1.0, 0.0]]), SEED)
  for old, new, fast in zip(before, slow.weights, critic.weights, strict=True):
    np.testing.assert_allclose(new, old + 0.02 * (fast.numpy() - old), atol=1e-7)


# --- Updates --------------------------------------------------------------------------------------


def test_warmup():
  """The first step of Adam is the learning rate, in each weight with a gradient."""
  schedule = Schedule(3e-4, 4)
  found = [float(schedule(tf.constant(step))) for step in range(6)]
  np.testing.assert_allclose(found, 3e-4 * np.array([0.25, 0.5, 0.75, 1.0, 1.0, 1.0]), rtol=1e-6)
  learner = make_learner(AdditiveWorld(), warmup_updates=10, actor_learning_rate=1e-2)
  weight = learner.policy.network.weights[-1]
  before = weight.numpy()
  learner.update(state_at([[1.0, 0.0]]), SEED)
  np.testing.assert_allclose(np.abs(weight.numpy() - before)[:2], 1e-3, rtol=1e-2)


def test_cooldown():
  """Learning rates and the weight of the entropy fall over the last half, to a twentieth."""
  schedule = Schedule(3e-4, 2, 20, cooldown=0.5)
  found = [float(schedule(tf.constant(step))) for step in (0, 1, 10, 15, 19, 25)]
  np.testing.assert_allclose(found, 3e-4 * np.array([0.5, 1.0, 1.0, 0.5, 0.1, 0.05]), rtol=1e-5)
  learner = make_learner(
    AdditiveWorld(), warmup_updates=1, cooldown=0.5, actor_learning_rate=1e-2, entropy_scale=0.3
  )
  learner.anneal_over(4)
  weight, steps, weights = learner.policy.network.weights[-1], [], []
  for _ in range(4):
    before = weight.numpy()
    weights.append(float(learner.entropy_scale()))
    learner.update(state_at([[1.0, 0.0]]), SEED)
    steps.append(float(np.abs(weight.numpy() - before)[0]))
  np.testing.assert_allclose(weights, [0.3, 0.3, 0.3, 0.15], rtol=1e-5)
  np.testing.assert_allclose(steps[0], 1e-2, rtol=1e-2)
  assert steps[3] < 0.7 * steps[2]


@pytest.mark.parametrize(
  ("kind", "actor_gradient"),
  [
    ("categorical", "reinforce"),
    pytest.param("categorical", "dynamics", marks=pytest.mark.slow),
    pytest.param("mdn_rnn", "reinforce", marks=pytest.mark.slow),
    pytest.param("mdn_rnn", "dynamics", marks=pytest.mark.slow),
  ],
)
def test_the_options_of_dreamer_resume_exactly(kind, actor_gradient, tmp_path):
  """Two updates, a checkpoint on disk, two more in another learner."""
  world = NonlinearWorld(categorical=True) if kind == "categorical" else small_mdn_rnn()
  starts = world.initial_state(5)
  config = dataclasses.replace(_V3, actor_gradient=actor_gradient)
  learner, other = (ActorCritic(world, config, seed, jit_compile=False) for seed in (1, 2))
  for each in (learner, other):
    each.begin(np.zeros([2, world.feature_size], np.float32), None)
  for step in range(2):
    learner.step(starts, rng.fold_in(SEED, step))
  assert np.all(learner.state()["normalisation"]["range"] != 0.0)
  checkpoints.save_nest(tmp_path / "state.npz", learner.state())
  other.restore(checkpoints.load_nest(tmp_path / "state.npz", other.state()))
  for step in range(2, 4):
    metrics = [each.step(starts, rng.fold_in(SEED, step)) for each in (learner, other)]
    assert metrics[0] == metrics[1] and np.all(np.isfinite(list(metrics[0].values())))
  assert {"dream/entropy", "dream/return_low", "dream/return_high"} <= metrics[0].keys()
  assert_same(learner.state(), other.state(), rtol=0, atol=0)
  # A new iteration forgets the range, as it forgets the optimisers.
  learner.begin(np.zeros([2, world.feature_size], np.float32), None)
  np.testing.assert_array_equal(learner.state()["normalisation"]["range"], [0.0, 0.0])


def test_nothing_is_learned_from_dreams_that_are_not_finite():
  learner = ActorCritic(AdditiveWorld(), _V3, jit_compile=False)
  learner._return_range.assign([1.0, 2.0])
  weights = [weight.numpy() for weight in learner.policy.network.weights]
  learner.update(state_at([[np.nan, 0.0]]), SEED)
  assert_same(weights, [weight.numpy() for weight in learner.policy.network.weights], 0, 0)
  np.testing.assert_array_equal(learner._return_range, [1.0, 2.0])


def test_defaults_add_nothing_to_a_checkpoint():
  config = ActorCriticConfig(reward_scale=1.0, horizon=2)
  learner = ActorCritic(AdditiveWorld(), config, jit_compile=False)
  assert set(learner.state()) == {
    "actor",
    "critic",
    "slow_critic",
    "actor_optimizer",
    "critic_optimizer",
  }
  assert learner.policy.network.weights[-1].shape == (2,)
  assert set(learner.step(state_at([[1.0, 0.0]]), SEED)) == {
    f"dream/{name}"
    for name in (
      "return_mean",
      "value",
      "critic_loss",
      "actor_gradient_norm",
      "clipped",
      "saturated",
    )
  }


# --- Settings that are refused --------------------------------------------------------------------


def test_reinforce_needs_a_density():
  override = "controller.actor_critic.actor_gradient=reinforce"
  settings = make_config("debug", ["controller.method=actor_critic", override]).controller
  with pytest.raises(ConfigError, match="action_distribution=clipped_normal"):
    ActorCritic.check(settings, AdditiveWorld())
  with pytest.raises(ConfigError, match="action_distribution=clipped_normal"):
    ActorCritic(AdditiveWorld(), settings.actor_critic)
  ActorCritic.check(settings, NonlinearWorld(categorical=True))


@pytest.mark.parametrize(
  "options",
  [
    {"actor_gradient": "both"},
    {"action_distribution": "normal"},
    {"critic": "symexp"},
    {"slow_critic": "none"},
    {"return_normalisation": "std"},
    {"uniform_share": 1.5},
    {"warmup_updates": -1},
    {"cooldown": 1.5},
    {"cooldown": 0.5, "warmup_updates": 0},
  ],
  ids=str,
)
def test_refuses(options):
  with pytest.raises(ValueError, match=next(iter(options))):
    ActorCriticConfig(**options)


def test_normalised_layers():
  learner = randomise(make_learner(AdditiveWorld(), normalised_layers=True, **_SIZES))
  for network in (learner.policy.network, learner.critic.network, learner._slow_critic):
    x = np.random.default_rng(1).normal(size=(5, network.loc.shape[0])).astype(np.float32)
    expected = x
    for dense, norm in zip(network.layers[:-1], network.norms, strict=True):
      hidden = expected @ dense.kernel.numpy() + dense.bias.numpy()
      hidden /= np.sqrt(np.mean(np.square(hidden), axis=-1, keepdims=True) + 1e-4)
      hidden *= norm.gain.numpy()
      expected = hidden / (1.0 + np.exp(-hidden))
    expected = expected @ network.layers[-1].kernel.numpy() + network.layers[-1].bias.numpy()
    np.testing.assert_allclose(network(x), expected, rtol=1e-4, atol=1e-5)
    assert sum("gain" in weight.name for weight in network.weights) == 2
  with pytest.raises(ConfigError, match="normalised_layers=False"):
    Network.of(learner.policy)


def test_normalised_layers_are_restored():
  learner = randomise(make_learner(AdditiveWorld(), normalised_layers=True, **_SIZES))
  other = make_learner(AdditiveWorld(), seed=1, normalised_layers=True, **_SIZES)
  other.restore(learner.state())
  assert_same(other.state(), learner.state(), rtol=0, atol=0)
