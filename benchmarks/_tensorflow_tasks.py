"""Ours: the library as it trains and dreams."""

from __future__ import annotations

import keras
import numpy as np
import tensorflow as tf

from benchmarks import _problems as problems
from benchmarks import _tensorflow_dreamer as dreamer_tasks
from benchmarks._worker import Task
from wm_tf import rng
from wm_tf.core import Batch, Embedded
from wm_tf.learners.dream_es import DreamES, DreamESConfig
from wm_tf.models.mdn_rnn import MDNRNN, MDNRNNConfig, MDNRNNState
from wm_tf.models.vae import VAE, VAEConfig, to_float
from wm_tf.policies.linear import LinearController
from wm_tf.search.cma_es import CMAES
from wm_tf.training.adam import FusedAdam
from wm_tf.training.precision import computing_in
from wm_tf.training.steps import make_train_step

_SEED = 3


def make_vae(latent: int = 32, seed: int = 0) -> VAE:
  """The paper's VAE with the common weights."""
  vae, arrays = VAE(VAEConfig(latent_size=latent)), problems.vae_weights(latent, seed)
  convolutions = [x for x in vae.encoder.layers if isinstance(x, keras.layers.Conv2D)]
  deconvolutions = [x for x in vae.decoder.layers if isinstance(x, keras.layers.Conv2DTranspose)]
  layers = {f"encoder{i}": layer for i, layer in enumerate(convolutions)}
  layers |= {f"decoder{i}": layer for i, layer in enumerate(deconvolutions)}
  layers |= {"posterior": vae.encoder.layers[-1], "expand": vae.decoder.get_layer("dense")}
  for name, layer in layers.items():
    layer.kernel.assign(arrays[f"{name}/kernel"])
    layer.bias.assign(arrays[f"{name}/bias"])
  return vae


def make_dynamics(size: problems.DreamSize | None = None) -> MDNRNN:
  """The MDN-RNN with the common weights."""
  size = size or problems.DreamSize()
  config = MDNRNNConfig(
    hidden_size=size.hidden, num_mixtures=size.mixtures, reward_bins=problems.REWARD_BINS
  )
  model = MDNRNN(VAE(VAEConfig(latent_size=size.latent)), problems.ACTION_SIZE, config)
  arrays = problems.dynamics_weights(size)
  cell = model.lstm.cell
  cell.kernel.assign(arrays["lstm/kernel"])
  cell.recurrent_kernel.assign(arrays["recurrent/kernel"])
  cell.bias.assign(arrays["lstm/bias"])
  layers = {"mixture": model.mixture.projection}
  for name, head in (("reward", model.reward), ("termination", model.termination)):
    layers |= {f"{name}_hidden": head.network.hidden, name: head.network.output_layer}
  for name, layer in layers.items():
    layer.kernel.assign(arrays[f"{name}/kernel"])
    layer.bias.assign(arrays[f"{name}/bias"])
  for name in ("latent_loc", "latent_scale", "change_scale"):
    getattr(model, name).assign(arrays[name])
  return model


def _check_loss(model, batch, noise) -> dict:
  """Loss and gradient norm with given noise of the posterior samples, and the parameter count."""
  draw = rng.normal
  rng.normal = lambda shape, seed: tf.constant(noise)
  try:
    with tf.GradientTape() as tape:
      loss, _ = model.loss(batch, rng.make_seed(_SEED))
  finally:
    rng.normal = draw
  gradients = tape.gradient(loss, [v.value for v in model.trainable_variables])
  return {
    "loss": float(loss),
    "gradient_norm": float(tf.linalg.global_norm(gradients)),
    "parameters": sum(int(np.prod(v.shape)) for v in model.trainable_variables),
  }


def _training(model, batch, noise, steps: int, precision: str) -> Task:
  """`steps` steps as `fit` takes them: clipped Adam, a step that is not finite changes nothing."""
  check = _check_loss(model, batch, noise)
  spec = tf.nest.map_structure(lambda x: tf.TensorSpec(x.shape, x.dtype), batch)
  step, count = _make_step(model, spec, _SEED), 0

  def run():
    nonlocal count
    for _ in range(steps):
      with computing_in(precision):
        metrics, _, _ = step(batch, count)
      count += 1
      float(metrics["loss"])

  return Task(run, check)


def _make_step(model, spec, seed: int):
  optimizer = FusedAdam(problems.LEARNING_RATE)
  optimizer.build(model.trainable_variables)
  return make_train_step(model, optimizer, problems.CLIP_NORM, rng.make_seed(seed), spec)


def vae(batch: int, steps: int, latent: int = 32, precision: str = "float32") -> Task:
  """VAE training."""
  noise = np.random.default_rng(1).normal(0, 1, (batch, latent)).astype(np.float32)
  frames = tf.constant(problems.frames(batch))
  return _training(make_vae(latent), frames, noise, steps, precision)


def vae_epochs(data: str, batch: int, epochs: int, seed: int) -> Task:
  """The held-out squared error of a frame after each epoch."""
  frames, model = np.load(data), make_vae(seed=seed)
  step = _make_step(model, tf.TensorSpec([batch, 64, 64, 3], tf.uint8), seed)
  train, held_out = frames["train"], tf.constant(frames["held_out"])
  error = tf.function(lambda x: tf.reduce_sum(tf.square(model(x) - to_float(x)), axis=[1, 2, 3]))
  errors, count = [], 0
  for number in range(epochs):
    for rows in problems.epoch(len(train), batch, seed, number):
      float(step(tf.constant(train[rows]), count)[0]["loss"])
      count += 1
    errors.append(float(tf.reduce_mean(error(held_out))))
  return Task(lambda: None, {"squared_error": errors})


def dynamics(
  batch: int, length: int, steps: int, latent: int = 32, precision: str = "float32"
) -> Task:
  """MDN-RNN training on cached posteriors."""
  arrays = problems.sequences(batch, length, latent)
  noise = arrays.pop("noise")
  model = make_dynamics(problems.DreamSize(latent=latent))
  batch = Batch(**{k: tf.constant(v) for k, v in arrays.items()})
  batch = batch._replace(observation=Embedded(batch.observation))
  return _training(model, batch, noise, steps, precision)


class _GivenNoise:
  """For the check: a world model whose noise is given."""

  def __init__(self, model, noise):
    self._model, self._noise = model, noise

  def __getattr__(self, name):
    return getattr(self._model, name)

  def draw_noise(self, batch_size, num_steps, seed):
    return self._noise


def _make_es(size: problems.DreamSize, model, arrays) -> DreamES:
  controller = LinearController(model, size.basis)
  controller.loc.assign(arrays["basis_loc"])
  controller.matrix.assign(arrays["basis"])
  config = DreamESConfig(size.rollouts, size.horizon, problems.TEMPERATURE)
  search = CMAES(num_candidates=max(size.candidates, 4), initial_scale=0.1)
  return DreamES(model, controller, search, config)


def dream(repeats: int = 1, **size) -> Task:
  """`DreamES.score`: a whole population through its dreams."""
  size = problems.DreamSize(**size)
  arrays, model = problems.dream(size), make_dynamics(size)
  starts = MDNRNNState(*(tf.constant(arrays[name]) for name in "zhc"))
  parameters = tf.constant(arrays["parameters"])
  noise = tuple(tf.constant(arrays[name]) for name in ("choice", "normal"))
  given = _make_es(size, _GivenNoise(model, noise), arrays)
  check = {"imagined_return": given.score(parameters, starts, rng.make_seed(0))[0].numpy().tolist()}
  es, count = _make_es(size, model, arrays), 0

  def run():
    nonlocal count
    for _ in range(repeats):
      count += 1
      es.score(parameters, starts, rng.make_seed(count))[0].numpy()

  return Task(run, check)


def generation(**size) -> Task:
  """A whole generation of CMA-ES: ask, draw starts, dream, tell."""
  size = problems.DreamSize(**size)
  arrays, model = problems.dream(size), make_dynamics(size)
  starts = MDNRNNState(*(tf.constant(arrays[name]) for name in "zhc"))
  es = _make_es(size, model, arrays)
  state = es._strategy.init(tf.zeros([1, (size.basis + 1) * problems.ACTION_SIZE]))
  count = 0

  def run():
    nonlocal state, count
    count += 1
    state, report = es.generation(state, starts, rng.make_seed(count))
    report.mean.numpy()

  return Task(run, {})


def matrix_product(size: int) -> Task:
  """A float32 product of two square matrices."""
  a, b = (tf.random.stateless_normal([size, size], [0, i]) for i in range(2))
  return Task(lambda: tf.linalg.matmul(a, b).numpy()[0, 0], {})


TASKS = {
  "vae": vae,
  "vae_epochs": vae_epochs,
  "dynamics": dynamics,
  "dream": dream,
  "generation": generation,
  "matrix_product": matrix_product,
  **dreamer_tasks.TASKS,
}
