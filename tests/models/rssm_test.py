import numpy as np
import pytest
import tensorflow as tf

from tests.contracts import ManyWorldsContract
from tests.worlds import (
  OBSERVATIONS,
  assert_same,
  make_batch,
  random_observation,
  rows_of,
  small_rssm,
)
from wm_tf import rng
from wm_tf.core import ObservationPart, ObservationSpec
from wm_tf.imagination import observe_sequence
from wm_tf.models.heads import RewardRangeError
from wm_tf.models.rssm import RSSM, RSSMConfig
from wm_tf.models.stochastic import Categoricals, DiagonalGaussian, balanced_kl

_SEED = rng.make_seed(3)

# An observation, groups of choices (none: continuous actions), and other options.
_WORLDS = [
  ("image", (), {}),
  ("gray", (3,), {"cell": "block_gru"}),
  ("vector", (2, 3), {"prior_layers": 2}),
  ("mixed", (), {"stochastic": "gaussian"}),
  ("vector", (), {"stochastic": "gaussian", "cell": "block_gru", "head_hidden_size": 0}),
  ("image", (4,), {"stochastic": "gaussian"}),
]


class TestRSSM(ManyWorldsContract):
  @pytest.fixture(scope="class", params=_WORLDS, ids=lambda x: f"{x[0]}-{'-'.join(x[2]) or 'gru'}")
  @classmethod
  def world(cls, request):
    return request.param

  @pytest.fixture(scope="class")
  @classmethod
  def make_model(cls, world):
    observation, num_choices, options = world
    options = {"num_choices": num_choices, "observation": OBSERVATIONS[observation]} | options
    return lambda seed: small_rssm(seed, **options)


# --- The stochastic state ---------------------------------------------------------------------


def _probabilities(logits, unimix):
  weights = np.exp(logits - logits.max(-1, keepdims=True))
  mixed = (1 - unimix) * weights / weights.sum(-1, keepdims=True) + unimix / logits.shape[-1]
  return mixed.astype(np.float64)


def _logits(*shape, seed=0, scale=2.0):
  return np.random.default_rng(seed).normal(0.0, scale, shape).astype(np.float32)


def test_a_share_of_the_probability_is_uniform():
  distribution = Categoricals(2, 5, unimix=0.1)
  logits = _logits(3, 2, 5, scale=30.0)
  found = np.exp(distribution.log_probabilities(logits.reshape(3, 10)))
  np.testing.assert_allclose(found, _probabilities(logits, 0.1), rtol=1e-4)
  assert found.min() > 0.0199  # 0.1 / 5
  np.testing.assert_allclose(found.sum(-1), 1.0, rtol=1e-5)


def test_kl_of_categoricals():
  distribution = Categoricals(2, 5, unimix=0.01)
  p, q = _logits(3, 2, 5, seed=1), _logits(3, 2, 5, seed=2)
  a, b = _probabilities(p, 0.01), _probabilities(q, 0.01)
  expected = (a * np.log(a / b)).sum((-2, -1))
  found = distribution.kl(p.reshape(3, 10), q.reshape(3, 10))
  np.testing.assert_allclose(found, expected, rtol=1e-4)
  # A certain class against its opposite: finite, because of the uniform share.
  certain = np.float32([[100.0, 0, 0, 0, 0] * 2])
  assert 5.0 < distribution.kl(certain, certain[:, ::-1])[0] < 20.0


def test_kl_of_gaussians():
  distribution = DiagonalGaussian(3, min_scale=0.1)
  p, q = _logits(4, 6, seed=1), _logits(4, 6, seed=2)

  def loc_and_scale(x):
    return x[:, :3].astype(np.float64), np.log1p(np.exp(x[:, 3:].astype(np.float64))) + 0.1

  (m, s), (n, t) = loc_and_scale(p), loc_and_scale(q)
  expected = (np.log(t / s) + (s**2 + (m - n) ** 2) / (2 * t**2) - 0.5).sum(-1)
  np.testing.assert_allclose(distribution.kl(p, q), expected, rtol=1e-4)


def test_balanced_kl_with_free_nats():
  distribution = Categoricals(2, 5, unimix=0.01)
  posterior, prior = _logits(6, 10, seed=1, scale=1.0), _logits(6, 10, seed=2, scale=1.0)
  kl = distribution.kl(posterior, prior).numpy()
  free = float(np.sort(kl)[2:4].mean())  # Three rows are below it, and three above.

  def gradients(dynamics_weight, representation_weight):
    p, q = tf.constant(posterior), tf.constant(prior)
    with tf.GradientTape() as tape:
      tape.watch((p, q))
      value = balanced_kl(
        distribution.kl,
        p,
        q,
        dynamics_weight=dynamics_weight,
        representation_weight=representation_weight,
        free_nats=free,
      )
    return value, *tape.gradient(value, (p, q), unconnected_gradients="zero")

  value, of_posterior, of_prior = gradients(0.8, 0.2)
  np.testing.assert_allclose(value, np.maximum(kl, free), rtol=1e-5)
  # Below the free nats nothing learns; each weight is that of one side.
  free_rows = kl < free
  assert not np.any(of_posterior.numpy()[free_rows]) and not np.any(of_prior.numpy()[free_rows])
  _, _, only_prior = gradients(1.0, 0.0)
  _, only_posterior, _ = gradients(0.0, 1.0)
  assert np.abs(only_prior.numpy()[~free_rows]).max(-1).min() > 1e-3
  np.testing.assert_allclose(of_prior, 0.8 * only_prior, rtol=1e-5, atol=1e-7)
  np.testing.assert_allclose(of_posterior, 0.2 * only_posterior, rtol=1e-5, atol=1e-7)
  assert not np.any(gradients(1.0, 0.0)[1]) and not np.any(gradients(0.0, 1.0)[2])


def test_the_gradient_of_a_sample_is_that_of_the_probabilities():
  distribution = Categoricals(2, 4, unimix=0.01)
  logits, weights = tf.constant(_logits(3, 8)), tf.constant(_logits(3, 8, seed=1))
  noise = distribution.draw_noise([3], _SEED)
  with tf.GradientTape(persistent=True) as tape:
    tape.watch(logits)
    sample = tf.reduce_sum(weights * distribution.sample(logits, noise))
    probabilities = tf.reshape(tf.exp(distribution.log_probabilities(logits)), [3, 8])
    mean = tf.reduce_sum(weights * probabilities)
  np.testing.assert_allclose(tape.gradient(sample, logits), tape.gradient(mean, logits), atol=1e-6)


def test_samples_are_one_hot_and_as_frequent_as_they_are_likely():
  distribution = Categoricals(2, 4, unimix=0.2)
  logits = _logits(1, 8, scale=1.0)
  num = 20_000
  noise = distribution.draw_noise([num], _SEED)
  sample = distribution.sample(np.repeat(logits, num, 0), noise).numpy().reshape(num, 2, 4)
  np.testing.assert_allclose(sample.sum(-1), 1.0, atol=1e-5)
  np.testing.assert_allclose(sample.max(-1), 1.0, atol=1e-5)
  expected = _probabilities(logits.reshape(2, 4), 0.2)
  np.testing.assert_allclose(sample.mean(0), expected, atol=4 * 0.5 / np.sqrt(num))


def test_temperature_divides_the_log_probabilities():
  distribution = Categoricals(1, 3, unimix=0.0)
  probabilities = np.float32([0.5, 0.3, 0.2])
  noise = np.linspace(0.0, 0.9999, 1001, dtype=np.float32)[:, None]
  logits = np.tile(np.log(probabilities), (1001, 1))
  for temperature in (0.5, 2.0):
    weights = probabilities ** (1 / temperature)
    found = distribution.sample(logits, noise, temperature).numpy().mean(0)
    np.testing.assert_allclose(found, weights / weights.sum(), atol=3e-3)
  np.testing.assert_allclose(distribution.sample(logits, noise, 0.0)[:, 0], 1.0, atol=1e-6)


# --- The model --------------------------------------------------------------------------------


def _vector_batch(lengths=(6, 3), **options):
  model = small_rssm(observation=OBSERVATIONS["vector"], **options)
  observation = random_observation(OBSERVATIONS["vector"], len(lengths), 6)
  return model, make_batch(observation, lengths=lengths)


@pytest.mark.parametrize("stochastic", ["categorical", "gaussian"])
def test_the_loss_by_hand(stochastic):
  """From the states and the public parts of the model, step by step."""
  model, batch = _vector_batch(
    stochastic=stochastic,
    free_nats=0.3,
    dynamics_weight=0.7,
    representation_weight=0.2,
    reward_weight=0.6,
    termination_weight=0.4,
    vector_scale=0.5,
  )
  loss, metrics, states = model.loss_and_states(batch, model.draw_noise(*batch.mask.shape, _SEED))
  mask = batch.mask.numpy()
  embedding = model.embed(batch.observation).value[..., :6]
  posterior, prior = model.posterior(states.deter, embedding), model.prior(states.deter)
  kl = model.distribution.kl(posterior, prior).numpy()[mask]
  features = model.features(states)
  real = model.scalers[0].standardise(batch.observation)
  error = np.square(model.decoder(tf.reshape(features, [12, -1])) - tf.reshape(real, [12, 3]))
  error = error.reshape(2, 6, 3).sum(-1)[mask]
  reward = model.reward.loss(model.reward.network(features), batch.reward).numpy()[mask]
  odds = model.termination.network(features).numpy()[..., 0][mask]
  ends = 1 - batch.discount.numpy()[mask]
  termination = ends * np.log1p(np.exp(-odds)) + (1 - ends) * np.log1p(np.exp(odds))
  expected = (
    error / (2 * 0.5**2) + 0.6 * reward + 0.4 * termination + 0.9 * np.maximum(kl, 0.3)
  ).mean()
  np.testing.assert_allclose(loss, expected, rtol=1e-4)
  for name, value in {
    "vector_mse": error.mean() / 3,
    "kl": kl.mean(),
    "reward_loss": reward.mean(),
    "termination_loss": termination.mean(),
  }.items():
    np.testing.assert_allclose(metrics[name], value, rtol=1e-4, err_msg=name)


def test_the_states_of_the_loss_are_those_of_observe():
  """At a temperature that leaves no choice: each class is nearly certain."""
  model, batch = _vector_batch(unimix=0.0)
  kernel = model.posterior_output.kernel
  kernel.assign(1e4 * kernel)
  _, _, states = model.loss_and_states(batch, model.draw_noise(*batch.mask.shape, _SEED))
  assert_same(states, observe_sequence(model, batch, _SEED), atol=1e-4)


def test_a_first_step_ignores_what_was_before():
  """A sequence of two episodes is two sequences."""
  model, batch = _vector_batch(lengths=(6, 6))
  is_first = np.zeros((2, 6), bool)
  is_first[:, [0, 3]] = True
  joined = batch._replace(is_first=tf.constant(is_first))
  halves = [tf.nest.map_structure(lambda x, s=s: x[:, s], joined) for s in (slice(3), slice(3, 6))]
  embedding = model.embed(batch.observation).value[..., :6]
  noise = model.draw_noise(2, 6, _SEED)

  def states(batch, columns):
    state = model.initial_state(2)
    found = []
    for t, column in enumerate(range(*columns)):
      inputs = batch.prev_action[:, t], embedding[:, column], batch.is_first[:, t]
      state, _ = model._observe(state, *inputs, noise[:, column])
      found.append(state)
    return tf.nest.map_structure(lambda *x: tf.stack(x, 1), *found)

  whole = states(joined, (0, 6))
  apart = states(halves[0], (0, 3)), states(halves[1], (3, 6))
  assert_same(whole, tf.nest.map_structure(lambda *x: tf.concat(x, 1), *apart))
  # The scan of the loss does the same.
  assert_same(model.loss_and_states(joined, noise)[2], whole, atol=1e-4)


def test_sequences_may_begin_within_an_episode():
  model, batch = _vector_batch(lengths=(6, 6))
  later = batch._replace(is_first=tf.zeros([2, 6], tf.bool))
  loss, _ = model.loss(later, _SEED)
  assert np.isfinite(loss)


def test_gradients_flow_through_a_dream():
  model = small_rssm(observation=OBSERVATIONS["vector"])
  state = model.initial_state(3)
  action = tf.constant(_logits(3, 2))
  with tf.GradientTape() as tape:
    tape.watch(action)
    one = model.imagine(state, action, _SEED)
    two = model.imagine(one.state, action, _SEED)
    total = tf.reduce_sum(two.reward)
  assert np.abs(tape.gradient(total, action)).min() > 0


def test_adapt():
  model = small_rssm(observation=OBSERVATIONS["mixed"], standardise_vectors=True)
  model.reward.data_limit.assign(22_000.0)
  observation = random_observation(OBSERVATIONS["mixed"], 2, 5)
  batch = make_batch(observation, lengths=(5, 2))
  reward = np.float32([[9.0, 1.0, -3.0, 0.0, 0.5], [8.0, 2.0, 7.0, 7.0, 7.0]])
  # Neither an episode's first reward nor padding counts.
  batch = batch._replace(reward=tf.constant(reward))
  model.adapt([batch])
  assert float(model.reward.data_limit) == 3.0
  kept = observation["joints"][batch.mask.numpy()]
  symlog = np.sign(kept) * np.log1p(np.abs(kept))
  np.testing.assert_allclose(model.scalers[0].loc, symlog.mean(0), rtol=1e-4)
  np.testing.assert_allclose(model.scalers[0].scale, symlog.std(0), rtol=1e-4)
  with pytest.raises(RewardRangeError, match=r"Widen rssm\.reward_limit"):
    model.adapt([batch._replace(reward=tf.constant(1e6 * reward))])
  # Without the option vectors are not standardised; rewards are seen all the same.
  plain = small_rssm(observation=OBSERVATIONS["mixed"])
  before = plain.scalers[0].loc.numpy()
  plain.adapt([batch])
  assert float(plain.reward.data_limit) == 3.0
  np.testing.assert_array_equal(plain.scalers[0].loc, before)
  image = small_rssm()
  frames = make_batch(random_observation(OBSERVATIONS["image"], 2, 5), lengths=(5, 2))
  image.adapt([frames._replace(reward=tf.constant(reward))])
  assert float(image.reward.data_limit) == 3.0


def test_the_range_of_rewards_grows():
  """Online training meets rewards that its first data did not have."""
  model = small_rssm()
  model.reward.adapt([-3.0, 1.0])
  model.reward.extend([2.0, 0.0])
  assert float(model.reward.data_limit) == 3.0
  model.reward.extend([2.0, 100.0])
  assert float(model.reward.data_limit) == 100.0
  with pytest.raises(RewardRangeError, match=r"Widen rssm\.reward_limit"):
    model.reward.extend([1e6])
  assert float(model.reward.data_limit) == 100.0


def test_features_of_the_stochastic_state_are_only_centred():
  model = small_rssm()
  features = model.features(model.initial_state(2)._replace(stoch=tf.ones([2, 12])))
  np.testing.assert_array_equal(features[0].numpy() == 1.0, model.only_centred_features())


def test_the_diagnostic_latent_is_what_is_decoded():
  model = small_rssm(observation=OBSERVATIONS["mixed"])
  batch = make_batch(random_observation(OBSERVATIONS["mixed"], 2, 4))
  state = rows_of(observe_sequence(model, batch, _SEED), [0])
  state = tf.nest.map_structure(lambda x: x[:, 2], state)
  latent, decoded = model.diagnostic_latent(state)[0], model.decode(state)
  pooled = decoded["camera"][0].numpy().reshape(4, 8, 5, 8, 2).mean((1, 3)).ravel()
  joints = model.scalers[0].standardise(decoded["joints"])[0]
  speed = model.scalers[1].standardise(decoded["speed"])[0]
  np.testing.assert_allclose(latent, np.concatenate([pooled, joints, speed]), atol=1e-4)


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"cell": "lstm"}, r"rssm\.cell must be one of"),
    ({"stochastic": "normal"}, r"rssm\.stochastic must be one of"),
    ({"cell": "block_gru", "deter_size": 9}, r"deter_size=9 must be a multiple of .*num_blocks=2"),
    ({"stoch_size": 0}, r"rssm\.stoch_size must be positive"),
    ({"unimix": 1.5}, "unimix must be between 0 and 1"),
  ],
)
def test_settings_that_cannot_work_are_refused(options, message):
  with pytest.raises(ValueError, match=message):
    RSSMConfig(**{"num_blocks": 2} | options)


def test_an_environment_that_does_not_fit_is_refused():
  with pytest.raises(ValueError, match=r"num_choices \(2, 2\) must add up to action_size 5"):
    RSSM(OBSERVATIONS["vector"], 5, RSSMConfig(), (2, 2))
  large = ObservationSpec((ObservationPart("", "image", (200, 64, 3), (200, 64, 3), "uint8"),))
  with pytest.raises(ValueError, match="200 x 64 pixels"):
    RSSM(large, 2)
