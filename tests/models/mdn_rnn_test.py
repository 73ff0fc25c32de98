import numpy as np
import pytest
import tensorflow as tf

from tests.contracts import ManyWorldsContract
from tests.worlds import (
  OBSERVATIONS,
  assert_same,
  embedded_batch,
  latents_of,
  make_batch,
  random_frames,
  random_observation,
  rows_of,
  set_mixture,
  small_mdn_rnn,
  small_vae,
)
from wm_tf import rng
from wm_tf.imagination import observe_sequence
from wm_tf.models.heads import RewardRangeError
from wm_tf.models.mdn_rnn import MDNRNN, MDNRNNConfig

_SEED = rng.make_seed(3)
# Each kind with and without predicting the change, and with and without the skip connection.
_KINDS = [
  ("per_dimension", True, True),
  ("per_dimension", False, False),
  ("joint", True, False),
  ("joint", False, True),
]
_OPTIONS = "mixture_kind", "predict_change", "skip_connection"
every_kind = pytest.mark.parametrize(("kind", "change", "skip"), _KINDS)


# An observation, groups of choices (none: continuous actions), a kind, and other options.
_WORLDS = [
  ("image", (), _KINDS[0], {}),
  ("gray", (3,), _KINDS[1], {}),
  ("vector", (2, 3), _KINDS[2], {"reward_bins": None}),
  ("mixed", (), _KINDS[3], {"reward_bins": None}),
]


class TestMDNRNN(ManyWorldsContract):
  @pytest.fixture(scope="class", params=_WORLDS, ids=lambda world: world[0])
  @classmethod
  def world(cls, request):
    return request.param

  @pytest.fixture(scope="class")
  @classmethod
  def make_model(cls, world):
    observation, num_choices, kind, options = world
    options = {"num_choices": num_choices, "observation": OBSERVATIONS[observation]} | options
    return lambda seed: _model(*kind, seed=seed, **options)


def _model(*kind, **options):
  return small_mdn_rnn(**dict(zip(_OPTIONS, kind, strict=True)), **options)


def _normal_log_density(x, loc, scale):
  return -0.5 * np.square((x - loc) / scale) - np.log(scale) - 0.5 * np.log(2 * np.pi)


@every_kind
def test_nll_is_the_density_of_the_standardised_latent(kind, change, skip):
  """The change of variables by hand: the density of z itself, times what standardising adds."""
  model = _model(kind, change, skip, sample_latents=False)
  generator = np.random.default_rng(5)
  rows = 4 if kind == "per_dimension" else 1
  weights = generator.dirichlet(np.ones(3), rows)
  loc, scale = generator.normal(size=(4, 3)), generator.uniform(0.3, 2.0, (4, 3))
  set_mixture(model.mixture, weights, loc, scale)
  lengths = np.array([6, 3, 2])
  batch = embedded_batch(latents_of(model, 3, 6), lengths=lengths)
  _, metrics = model.loss(batch, _SEED)

  z = batch.observation.value.numpy()[..., :4].astype(np.float64)
  unit = (model.change_scale if change else model.latent_scale).numpy()
  origin = z[:, :-1] if change else model.latent_loc.numpy()
  # Density of z[t + 1] in its own units, for each component: [B, T - 1, Z, K].
  components = _normal_log_density(
    z[:, 1:, :, None],
    np.broadcast_to(origin, z[:, 1:].shape)[..., None] + unit[:, None] * loc,
    unit[:, None] * scale,
  )
  if kind == "per_dimension":
    log_density = np.log((weights * np.exp(components)).sum(-1)).sum(-1)
  else:
    log_density = np.log((weights[0] * np.exp(components.sum(-2))).sum(-1))
  log_density += np.log(model.latent_scale.numpy()).sum()
  mask = np.arange(1, 6) < lengths[:, None]
  expected = -log_density[mask].mean() / 4
  np.testing.assert_allclose(metrics["nll_per_dimension"], expected, rtol=1e-4)


def test_a_standard_normal_has_1_419_nats():
  model = small_mdn_rnn(predict_change=False, sample_latents=False)
  set_mixture(model.mixture, np.full((4, 3), 1 / 3), np.zeros((4, 3)), np.ones((4, 3)))
  standard = np.random.default_rng(0).normal(size=(64, 101, 4))
  loc = model.latent_loc.numpy() + model.latent_scale.numpy() * standard
  latents = np.concatenate([loc, np.zeros_like(loc)], -1).astype(np.float32)
  nll = model.loss(embedded_batch(latents), _SEED)[1]["nll_per_dimension"]
  # The standard error of the mean of 25600 halved chi squares is 0.0044.
  assert abs(nll - 0.5 * np.log(2 * np.pi * np.e)) < 0.02


@every_kind
def test_the_loss_is_of_what_is_imagined(kind, change, skip):
  """Every term from the seam alone, step by step; what trained it is what dreams."""
  model = _model(
    kind, change, skip, sample_latents=False, reward_weight=0.7, termination_weight=0.3
  )
  lengths = np.array([6, 3])
  batch = embedded_batch(latents_of(model, 2, 6), lengths=lengths)
  loss, metrics = model.loss(batch, _SEED)
  states = observe_sequence(model, batch, _SEED)
  # The state in row t was stepped with what led there, so its h is what frame t was predicted from.
  h = states.h[:, 1:]
  z, mask = batch.observation.value[..., :4], batch.mask[:, 1:].numpy()
  if change:
    target = (z[:, 1:] - z[:, :-1]) / model.change_scale
  else:
    target = (z[:, 1:] - model.latent_loc) / model.latent_scale
  seen = h
  if skip:
    standardised = (z[:, :-1] - model.latent_loc) / model.latent_scale
    seen = tf.concat([h, standardised, batch.prev_action[:, 1:]], axis=-1)
  nll = model.mixture.nll(seen, target).numpy()[mask].mean() / 4
  rewards, discounts = [], []
  for t in range(5):
    state = tf.nest.map_structure(lambda x, t=t: x[:, t], states)
    prediction = model.imagine(state, batch.prev_action[:, t + 1], _SEED, 0.0)
    np.testing.assert_allclose(prediction.state.h, h[:, t], atol=1e-6)
    rewards.append(prediction.reward)
    discounts.append(prediction.discount)
  logits = model.reward.network(h)
  reward = model.reward.loss(logits, batch.reward[:, 1:]).numpy()[mask].mean()
  np.testing.assert_allclose(model.reward.mean(logits), np.stack(rewards, 1), rtol=1e-5, atol=1e-6)
  np.testing.assert_allclose(metrics["reward_loss"], reward, rtol=1e-5)
  odds = np.log(10.0) + np.log(1 / np.stack(discounts, 1) - 1)  # As the weighted loss has them.
  ends = 1 - batch.discount[:, 1:].numpy()
  term = 10 * ends * np.log1p(np.exp(-odds)) + (1 - ends) * np.log1p(np.exp(odds))
  np.testing.assert_allclose(metrics["termination_loss"], term[mask].mean(), rtol=1e-4)
  expected = nll + 0.7 * reward + 0.3 * metrics["termination_loss"]
  np.testing.assert_allclose(loss, expected, rtol=1e-5)


def test_sampled_latents_are_samples_of_the_posterior():
  kwargs = {"mixture_kind": "joint"}
  sampled, mean = small_mdn_rnn(**kwargs), small_mdn_rnn(sample_latents=False, **kwargs)
  latents = latents_of(mean, 2, 5)
  other = rng.make_seed(4)
  batch = embedded_batch(latents)
  assert sampled.loss(batch, _SEED)[0] != sampled.loss(batch, other)[0]
  assert mean.loss(batch, _SEED)[0] == mean.loss(batch, other)[0]
  # A sample given as a mean, by hand.
  noise = rng.normal([2, 5, 4], _SEED)
  latents[..., :4] += np.exp(latents[..., 4:]) * noise
  assert_same(mean.loss(embedded_batch(latents), _SEED), sampled.loss(batch, _SEED))


@pytest.mark.parametrize("sample_latents", [True, False])
def test_adapt(sample_latents):
  model = small_mdn_rnn(sample_latents=sample_latents)
  latents = [latents_of(model, 3, 6, seed=0), latents_of(model, 2, 8, seed=1, log_scale=-0.5)]
  lengths = [np.array([6, 2, 4]), np.array([8, 1])]
  for x, n in zip(latents, lengths, strict=True):
    x[..., 2] = 0.7  # A latent that says nothing
    x[..., 6] = -5.0
    x[np.arange(x.shape[1]) >= n[:, None]] = 9.0  # Padding
  model.adapt(embedded_batch(x, lengths=n) for x, n in zip(latents, lengths, strict=True))

  pairs = zip(latents, lengths, strict=True)
  rows = [row[:n] for x, ns in pairs for row, n in zip(x, ns, strict=True)]
  loc = [row[:, :4].astype(np.float64) for row in rows]
  variance = [sample_latents * np.exp(2.0 * row[:, 4:]) for row in rows]
  every, every_variance = np.concatenate(loc), np.concatenate(variance)
  np.testing.assert_allclose(model.latent_loc, every.mean(0), rtol=1e-5)
  # Of samples: the variance of the means plus the mean of the variances.
  scale = np.sqrt(every.var(0) + every_variance.mean(0))
  scale[2] = 0.1
  np.testing.assert_allclose(model.latent_scale, scale, rtol=1e-4)
  square = [np.diff(x, axis=0) ** 2 + v[1:] + v[:-1] for x, v in zip(loc, variance, strict=True)]
  change = np.sqrt(np.concatenate(square).mean(0))
  change[2] = 0.05
  np.testing.assert_allclose(model.change_scale, change, rtol=1e-4)


def test_adapt_takes_frames():
  frames, cached = small_mdn_rnn(0), small_mdn_rnn(0)
  batch = make_batch(random_frames(2, 3))
  frames.adapt([batch])
  cached.adapt([batch._replace(observation=cached.embed(batch.observation))])
  for name in ("latent_loc", "latent_scale", "change_scale"):
    np.testing.assert_allclose(getattr(frames, name), getattr(cached, name), rtol=1e-4)


def test_adapt_passes_over_what_is_not_finite():
  broken, pieces = small_mdn_rnn(0), small_mdn_rnn(0)
  latents = latents_of(broken, 2, 7)
  apart = [latents[:1, :3], latents[:1, 4:], latents[1:, :2], latents[1:, 3:]]
  pieces.adapt(embedded_batch(x) for x in apart)
  latents[0, 3, 1], latents[1, 2, -1] = np.nan, np.inf
  broken.adapt([embedded_batch(latents)])
  for name in ("latent_loc", "latent_scale", "change_scale"):
    np.testing.assert_allclose(getattr(broken, name), getattr(pieces, name), rtol=1e-5)


def test_adapt_sees_the_rewards():
  model = small_mdn_rnn(reward_bins=None, reward_limit=5.0)
  batch = embedded_batch(latents_of(model, 2, 4), lengths=(4, 2))
  reward = np.float32([[99.0, 3.0, -4.5, 1.0], [0.0, 2.0, 88.0, 77.0]])
  # Neither an episode's first reward nor padding counts.
  model.adapt([batch._replace(reward=tf.constant(reward))])
  assert float(model.reward.data_limit) == 4.5
  model.check_rewards([-5.0, 5.0])
  for value, message in (
    (6.0, r"to 6 .* represents -5 to 5.*dynamics\.reward_limit"),
    (np.nan, "not a"),
  ):
    reward[0, 1] = value
    with pytest.raises(RewardRangeError, match=message):
      model.adapt([batch._replace(reward=tf.constant(reward))])
  fixed = small_mdn_rnn()
  reward[0, 1] = 2.5
  with pytest.raises(RewardRangeError, match=r"represents -1 to 2\. Widen dynamics\.reward_bins"):
    fixed.adapt([batch._replace(reward=tf.constant(reward))])


def test_a_wrong_observation_is_named():
  model, frames = small_mdn_rnn(), random_frames(2, 3)
  inputs = model.initial_state(2), tf.zeros([2, 2]), tf.constant([True, True])
  wrong = {
    r"uint8\[\.\.\., 64, 64, 3\], got uint8\(2, 64, 32, 3\)": frames[:, 0, :, :32],
    r"got float32\(2, 8\)\. Cached posteriors must be wrapped in `Embedded`": np.zeros(
      (2, 8), np.float32
    ),
    "must be one array, got dict": {"frame": frames[:, 0]},
  }
  for message, observation in wrong.items():
    with pytest.raises(ValueError, match=message):
      model.observe(*inputs[:2], observation, inputs[2])
  mixed = small_mdn_rnn(observation=OBSERVATIONS["mixed"])
  observation = random_observation(OBSERVATIONS["mixed"], 2)
  with pytest.raises(ValueError, match=r"must be a dict of \['camera', 'joints', 'speed'\]"):
    mixed.embed(frames)
  with pytest.raises(ValueError, match=r"lacks \['speed'\]"):
    mixed.embed({name: observation[name] for name in ("camera", "joints")})
  with pytest.raises(ValueError, match=r"'joints' must be float32\[\.\.\., 5\]"):
    mixed.embed(observation | {"joints": np.zeros((2, 4), np.float32)})


def test_choices_add_up_to_the_actions():
  model = small_mdn_rnn(num_choices=(2, 3))
  assert (model.num_choices, model.action_size) == ((2, 3), 5)
  assert small_mdn_rnn().num_choices == ()
  with pytest.raises(ValueError, match=r"num_choices \(2, 2\) must add up to action_size 5"):
    MDNRNN(small_vae(), 5, MDNRNNConfig(), (2, 2))


def test_features_that_are_only_centred_are_the_standardised_latents():
  model = small_mdn_rnn()
  batch = embedded_batch(latents_of(model, 2, 4))
  states = observe_sequence(model, batch, _SEED)
  scaled = model.features(states).numpy()[..., model.only_centred_features()]
  expected = (states.z - model.latent_loc) / model.latent_scale
  np.testing.assert_allclose(scaled, expected, atol=1e-6)
  latent = model.diagnostic_latent(states).numpy()
  np.testing.assert_allclose(np.diff(latent, axis=1), np.diff(scaled, axis=1), atol=1e-5)


def test_adapt_without_two_frames_in_a_row_is_an_error():
  model = small_mdn_rnn()
  with pytest.raises(ValueError, match="no pair of consecutive frames"):
    model.adapt([embedded_batch(latents_of(model, 3, 4), lengths=(1, 1, 1))])
  with pytest.raises(ValueError, match="no pair of consecutive frames"):
    model.adapt([])


def test_the_vae_is_not_trained():
  model = small_mdn_rnn()
  trained = {id(v) for v in model.trainable_variables}
  assert trained and not trained & {id(v) for v in model.vae.weights}
  assert {id(v) for v in model.vae.weights} < {id(v) for v in model.weights}


@every_kind
def test_dreams_stay_where_the_data_is(kind, change, skip):
  model = _model(kind, change, skip)
  rows = 4 if kind == "per_dimension" else 1
  set_mixture(model.mixture, np.full((rows, 3), 1 / 3), np.full((4, 3), 4.0), np.full((4, 3), 2.0))
  state = model.initial_state(8)
  for seed in range(30):
    state = model.imagine(state, tf.zeros([8, 2]), rng.make_seed(seed)).state
  deviation = (state.z - model.latent_loc) / model.latent_scale
  assert np.abs(deviation).max() <= 5.0001
  assert np.mean(deviation > 4.999) > 0.2


@every_kind
def test_imagined_latents_come_from_the_mixture(kind, change, skip):
  """By hand: a mixture of one normal for each dimension, at temperature 1.5."""
  model = _model(kind, change, skip, num_mixtures=1)
  loc, scale = np.array([[0.5], [-0.2], [0.1], [0.0]]), np.array([[0.5], [1.0], [0.7], [0.2]])
  set_mixture(model.mixture, np.ones((4 if kind == "per_dimension" else 1, 1)), loc, scale)
  state = rows_of(model.initial_state(1), [0] * 5)._replace(z=tf.fill([5, 4], 0.25))
  noise = model.draw_noise(5, 1, _SEED)
  _, normal = tf.nest.map_structure(lambda x: x[:, 0], noise)
  sample = loc[:, 0] + np.sqrt(1.5) * scale[:, 0] * normal
  if change:
    expected = 0.25 + model.change_scale * sample
  else:
    expected = model.latent_loc + model.latent_scale * sample
  actual = model.imagine(state, tf.zeros([5, 2]), _SEED, 1.5).state.z
  np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-5)
