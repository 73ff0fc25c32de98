import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorflow_probability import distributions as tfd

from tests.worlds import OBSERVATIONS, assert_same, random_frames, random_observation, small_vae
from wm_tf import rng
from wm_tf.core import ObservationPart, ObservationSpec, image_observation
from wm_tf.envs import make_env
from wm_tf.models.vae import VAE, VAEConfig, kl_to_standard_normal, to_float

_SEED = rng.make_seed(5)


def test_the_default_is_the_papers():
  """Ha & Schmidhuber's own code has 4,348,547 parameters (CarRacing, Z = 32)."""
  vae = VAE()
  assert vae.count_params() == 4_348_547
  kernels = [tuple(w.shape) for w in vae.weights if w.path.endswith("kernel")]
  assert kernels == [
    (4, 4, 3, 32),
    (4, 4, 32, 64),
    (4, 4, 64, 128),
    (4, 4, 128, 256),
    (1024, 64),
    (32, 1024),
    (5, 5, 128, 1024),
    (5, 5, 64, 128),
    (6, 6, 32, 64),
    (6, 6, 3, 32),
  ]


@pytest.mark.parametrize("rows", [1, 5])
def test_shapes(rows):
  vae = small_vae()
  frames = random_frames(rows)
  loc, log_scale = vae.encode(frames)
  for x in (loc, log_scale):
    assert (x.shape, x.dtype) == ((rows, 4), tf.float32)
  decoded = vae.decode(loc)
  assert (decoded.shape, decoded.dtype) == ((rows, 64, 64, 3), tf.float32)
  assert decoded.numpy().min() >= 0 and decoded.numpy().max() <= 1
  np.testing.assert_allclose(vae(frames), decoded, atol=1e-6)


def test_log_scales_are_bounded():
  vae = small_vae()
  bias = vae.encoder.get_layer("posterior").bias
  for value, bound in ((100.0, 2.0), (-100.0, -7.0)):
    bias.assign(tf.fill(bias.shape, value))
    np.testing.assert_array_equal(vae.encode(random_frames(2))[1], np.full((2, 4), bound))


def test_to_float():
  values = np.arange(256, dtype=np.uint8)
  np.testing.assert_allclose(to_float(values), values / 255, rtol=1e-6)
  assert float(to_float(values)[255]) == 1.0


def test_kl_against_tfp():
  generator = np.random.default_rng(0)
  loc = generator.normal(0, 2, (6, 4)).astype(np.float32)
  log_scale = generator.uniform(-3, 1, (6, 4)).astype(np.float32)
  expected = tfd.kl_divergence(tfd.Normal(loc, np.exp(log_scale)), tfd.Normal(0.0, 1.0))
  np.testing.assert_allclose(kl_to_standard_normal(loc, log_scale), expected, rtol=1e-4, atol=1e-6)
  assert float(kl_to_standard_normal(0.0, 0.0)) == 0.0


@pytest.mark.parametrize(
  "options",
  [
    {"free_nats": 0.0},
    {"free_nats": 0.0, "beta": 3.0},
    {"free_nats": 100.0, "beta": 2.0},
    {"free_nats": None},
    {"free_nats": 0.0, "row_weights": ((56, 64, 4.0), (0, 2, 0.0))},
  ],
  ids=str,
)
def test_loss_by_hand(options):
  frames = random_frames(5)
  loc, log_scale = (x.numpy().astype(np.float64) for x in small_vae().encode(frames))
  kl = 0.5 * (loc**2 + np.exp(2 * log_scale) - 1) - log_scale
  if options["free_nats"] is None:  # So that it holds for some frames only.
    options = {"free_nats": float(np.median(kl.sum(-1))) / 4}
  vae = small_vae(**options)
  z = loc + np.exp(log_scale) * rng.normal([5, 4], _SEED)
  squared = (vae.decode(tf.constant(z, tf.float32)).numpy() - frames / 255.0) ** 2
  weights = np.ones([64, 1, 1])
  if "row_weights" in options:
    weights[56:], weights[:2] = 4.0, 0.0
  floor = 4 * options["free_nats"]
  beta = options.get("beta", 1.0)
  expected = (squared * weights).sum((1, 2, 3)) + beta * np.maximum(kl.sum(-1), floor)

  loss, metrics = vae.loss(frames, _SEED)
  np.testing.assert_allclose(loss, expected.mean(), rtol=1e-4)
  np.testing.assert_allclose(metrics["sse"], squared.sum((1, 2, 3)).mean(), rtol=1e-4)
  np.testing.assert_allclose(metrics["kl"], kl.sum(-1).mean(), rtol=1e-4)
  assert metrics["active_dimensions"] == (kl.mean(0) > 0.1).sum()


def test_free_nats_leave_no_gradient_below_them():
  frames = random_frames(3)

  def gradient(free_nats):
    vae = small_vae(free_nats=free_nats, beta=5.0)
    # With a perfect reconstruction there is the KL alone.
    vae.decoder = lambda z: to_float(frames)
    with tf.GradientTape() as tape:
      loss, _ = vae.loss(frames, _SEED)
    return tape.gradient(loss, vae.encoder.trainable_variables)

  assert all(np.all(g == 0) for g in gradient(100.0))
  assert any(np.any(g != 0) for g in gradient(0.0))


def test_the_sample_depends_on_the_seed():
  vae, frames = small_vae(), random_frames(3)
  assert vae.loss(frames, _SEED)[0] == vae.loss(frames, _SEED)[0]
  assert vae.loss(frames, _SEED)[0] != vae.loss(frames, rng.make_seed(6))[0]


def test_learns_a_handful_of_real_frames():
  frames, env = [], make_env("car_racing")
  for seed in (0, 1):
    frames.append(env.reset(seed=seed)[0])
    for decision in range(24):
      steer = (0.6 - 1.2 * seed) * (decision > 6)
      frame, *_ = env.step(np.array([steer, 1.0], np.float32))
      if decision % 8 == 7:
        frames.append(frame)
  env.close()
  frames = tf.constant(np.stack(frames))
  keras.utils.set_random_seed(0)
  vae = VAE(VAEConfig(8, (16, 16, 32, 32), (32, 16, 16)))
  optimizer = keras.optimizers.Adam(3e-3)

  @tf.function
  def step(seed):
    with tf.GradientTape() as tape:
      loss, metrics = vae.loss(frames, seed)
    variables = vae.trainable_variables
    optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables, strict=True))
    return metrics["sse"]

  sse = [float(step(tf.constant([0, i]))) for i in range(180)]
  pixels = to_float(frames)
  mean_image = float(tf.reduce_sum(tf.square(pixels - tf.reduce_mean(pixels, 0)))) / len(frames)
  # From a grey picture, past the mean image, to what tells the frames apart.
  assert sse[0] > 5 * mean_image and np.mean(sse[-5:]) < 0.7 * mean_image


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"latent_size": 0}, "vae.latent_size must be positive, got 0"),
    ({"encoder_filters": (8, 8, 8)}, "vae.encoder_filters takes 4 numbers"),
    ({"decoder_filters": (8, 8, 8, 8)}, "vae.decoder_filters 3"),
    ({"vector_units": ()}, r"vae.vector_units must be positive numbers, got \(\)"),
    ({"vector_scale": 0.0}, "vector_scale must be positive"),
    ({"row_weights": ((9, 3, 4.0),)}, r"vae.row_weights.*9, 3"),
    ({"row_weights": ((-8, 64, 4.0),)}, r"vae.row_weights.*-8, 64"),
  ],
)
def test_bad_configuration_is_named(options, message):
  with pytest.raises(ValueError, match=message):
    dataclasses.replace(VAEConfig(), **options)


@pytest.mark.parametrize(
  ("observation", "end", "message"),
  [
    ("image", 65, "within the 64 rows of the image, got rows 30, 65"),
    ("gray", 49, "within the 48 rows of the image, got rows 30, 49"),
    ("mixed", 33, "within the 32 rows of the image, got rows 30, 33"),
    ("vector", 40, "the observation has none"),
  ],
)
def test_row_weights_beyond_the_image_are_refused(observation, end, message):
  config = VAEConfig(row_weights=((30, end, 4.0),))
  for check in (config.check_observation, lambda spec: VAE(config, spec)):
    with pytest.raises(ValueError, match=f"vae.row_weights .*{message}"):
      check(OBSERVATIONS[observation])


@pytest.mark.parametrize("size", [(31, 64), (64, 129)])
def test_images_of_other_sizes_are_refused(size):
  spec = image_observation((*size, 3), (*size, 3))
  with pytest.raises(ValueError, match=f"{size[0]} x {size[1]} .*environment_options.frame_size"):
    VAEConfig().check_observation(spec)


@pytest.mark.parametrize("name", list(OBSERVATIONS))
def test_any_observation(name):
  spec = OBSERVATIONS[name]
  vae = small_vae(observation=spec)
  observation = random_observation(spec, 4)
  loc, log_scale = vae.encode(observation)
  assert loc.shape == log_scale.shape == (4, vae.latent_size)
  decoded = vae.decode(loc)
  tf.nest.assert_same_structure(decoded, observation)
  for part, mean in zip(spec.parts, spec.unpack(decoded), strict=True):
    assert (mean.shape, mean.dtype) == ((4, *part.shape), tf.float32)
  assert_same(vae(observation), decoded)
  # Every part is seen, and is decoded from the latent.
  for i in range(len(spec.parts)):
    values = spec.unpack(observation)
    values[i] = values[i][::-1]
    assert np.abs(vae.encode(spec.pack(values))[0] - loc).max(-1).min() > 1e-3
  for one, two in zip(spec.unpack(vae.decode(loc + 0.5)), spec.unpack(decoded), strict=True):
    assert np.abs(one - two).max() > 1e-3


def test_the_loss_of_mixed_observations_by_hand():
  options = {"free_nats": 0.0, "row_weights": ((8, 20, 3.0),), "vector_scale": 0.2}
  spec = OBSERVATIONS["mixed"]
  vae = small_vae(observation=spec, **options)
  observation = random_observation(spec, 5)
  loc, log_scale = vae.encode(observation)
  z = loc + tf.exp(log_scale) * rng.normal([5, 4], _SEED)
  camera, joints, speed = spec.unpack(vae.decode(z))
  squared = (camera.numpy() - observation["camera"] / 255.0) ** 2
  weights = np.ones([32, 1, 1])
  weights[8:20] = 3.0
  error = 0.0
  for scaler, name, mean in zip(vae.scalers, ("joints", "speed"), (joints, speed), strict=True):
    symlogs = [np.sign(x) * np.log1p(np.abs(x)) for x in (mean.numpy(), observation[name])]
    error += (((symlogs[0] - symlogs[1]) / scaler.scale.numpy()) ** 2).sum(-1)
  kl = kl_to_standard_normal(loc, log_scale).numpy().sum(-1)
  expected = (squared * weights).sum((1, 2, 3)) + error / (2 * 0.2**2) + kl
  loss, metrics = vae.loss(observation, _SEED)
  np.testing.assert_allclose(loss, expected.mean(), rtol=1e-3)
  np.testing.assert_allclose(metrics["sse"], squared.sum((1, 2, 3)).mean(), rtol=1e-4)
  np.testing.assert_allclose(metrics["vector_mse"], error.mean() / 6, rtol=1e-3)
  errors = vae.reconstruction_errors(observation, z)
  np.testing.assert_allclose(errors["sse"], squared.sum((1, 2, 3)), rtol=1e-4)
  np.testing.assert_allclose(errors["vector_mse"], error / 6, rtol=1e-2)


def test_metrics_are_those_of_the_parts():
  names = {
    name: set(small_vae(observation=spec).loss(random_observation(spec, 2), _SEED)[1])
    for name, spec in OBSERVATIONS.items()
  }
  common = {"kl", "active_dimensions"}
  assert names["image"] == names["gray"] == common | {"sse"}
  assert names["vector"] == common | {"vector_mse"}
  assert names["mixed"] == common | {"sse", "vector_mse"}


@pytest.mark.parametrize(("size", "expected"), [(1, 4), (2, 4), (3, 6), (16, 32), (24, 32)])
def test_vectors_alone_take_few_latents(size, expected):
  spec = ObservationSpec((ObservationPart("", "vector", (size,), (size,), "float32"),))
  assert VAE(VAEConfig(), spec).latent_size == expected
  assert VAE(VAEConfig(latent_size=3), spec).latent_size == 3


def _pendulum_like(generator, num):
  """A random pendulum's cosine, sine and speed."""
  angle, speed = generator.uniform(-np.pi, np.pi, num), generator.uniform(-8.0, 8.0, num)
  return np.stack([np.cos(angle), np.sin(angle), speed], axis=-1)


def _cart_pole_like(generator, num):
  """Positions and speeds of unequal scales; a cart's and its pole's speeds are correlated."""
  x, theta, push, swing = generator.normal(size=(4, num))
  return np.stack([0.15 * x, 0.6 * push, 0.1 * theta, -0.9 * push + 0.2 * swing], axis=-1)


@pytest.mark.parametrize("make_states", [_pendulum_like, _cart_pole_like])
def test_states_of_few_dimensions_pass_precisely(make_states):
  """With the default precision, R^2 > 0.99 in each dimension, even of posterior samples."""
  generator = np.random.default_rng(0)
  train, held_out = (make_states(generator, num).astype(np.float32) for num in (4096, 512))
  num = train.shape[1]
  spec = ObservationSpec((ObservationPart("", "vector", (num,), (num,), "float32"),))
  keras.utils.set_random_seed(0)
  vae = VAE(VAEConfig(), spec)
  vae.adapt(np.split(train, 8))
  optimizer = keras.optimizers.Adam(2e-3)
  optimizer.build(vae.trainable_variables)

  @tf.function
  def fit():
    for i in tf.range(400):
      rows = tf.random.stateless_uniform([256], [0, i], maxval=4096, dtype=tf.int32)
      with tf.GradientTape() as tape:
        loss, _ = vae.loss(tf.gather(train, rows), tf.stack([1, i]))
      variables = vae.trainable_variables
      optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables, strict=True))

  fit()
  loc, log_scale = vae.encode(held_out)
  sample = loc + tf.exp(log_scale) * rng.normal(loc.shape, _SEED)
  for z in (loc, sample):
    error = np.square(vae.decode(z).numpy() - held_out).mean(0)
    assert (1.0 - error / held_out.var(0)).min() > 0.99
  # What the likelihood's scale promises, and little more is spent on it.
  error = vae.reconstruction_errors(held_out, sample)["vector_mse"].numpy().mean()
  assert error < 3 * vae.config.vector_scale**2
  kl = vae.loss(held_out, _SEED)[1]["kl"]
  assert kl < 1.5 * num * np.log(1.0 / vae.config.vector_scale)


def test_adapt_standardises_the_vectors():
  spec = OBSERVATIONS["mixed"]
  vae = small_vae(observation=spec)
  batches = [random_observation(spec, 50, seed=seed) for seed in (0, 1)]
  batches.append(random_observation(spec, 4, 5, seed=2))  # Sequences too.
  for batch in batches:
    batch["joints"][..., 1] = 7.0
  batches[0]["joints"][3, 0] = np.nan
  vae.adapt(batches)
  joints = np.concatenate([batch["joints"].reshape(-1, 5) for batch in batches])
  joints = np.delete(joints, 3, axis=0).astype(np.float64)
  symlog = np.sign(joints) * np.log1p(np.abs(joints))
  np.testing.assert_allclose(vae.scalers[0].loc, symlog.mean(0), rtol=1e-5, atol=1e-6)
  scale = symlog.std(0)
  scale[1] = 1.0  # Of a number that never changes.
  np.testing.assert_allclose(vae.scalers[0].scale, scale, rtol=1e-4)
  standardised = vae.scalers[0].standardise(tf.constant(joints, tf.float32))
  np.testing.assert_allclose(vae.scalers[0].restore(standardised), joints, rtol=1e-3, atol=1e-4)
  with pytest.raises(ValueError, match="no finite vector observations"):
    vae.adapt([])


def test_adapt_does_nothing_to_images():
  vae = small_vae()
  before = vae.get_weights()
  vae.adapt(iter([]))
  assert all(np.array_equal(x, y) for x, y in zip(before, vae.get_weights(), strict=True))
