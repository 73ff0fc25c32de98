import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorflow_probability import distributions as tfd

from tests.worlds import random_frames, small_vae
from wm_tf import rng
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
    # Without a reconstruction there is the KL alone.
    vae.decode = lambda z: to_float(frames)
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
    ({"row_weights": ((56, 65, 4.0),)}, r"vae.row_weights.*56, 65"),
    ({"row_weights": ((9, 3, 4.0),)}, r"vae.row_weights.*9, 3"),
    ({"row_weights": ((-8, 64, 4.0),)}, r"vae.row_weights.*-8, 64"),
  ],
)
def test_bad_configuration_is_named(options, message):
  with pytest.raises(ValueError, match=message):
    dataclasses.replace(VAEConfig(), **options)
