"""What contenders are given: weights, batches and noise, as NumPy arrays made from a seed.

Every framework loads the same file, so that "the same architecture" can be checked: the same loss
and the same gradient norm from the same weights and batch. Layouts are TensorFlow's.
"""

from __future__ import annotations

import dataclasses

import numpy as np

ACTION_SIZE = 2
REWARD_BINS = (-100.4, -0.4, 3.1, 6.6, 10.1, 13.6)
HEAD_HIDDEN = 64
LEARNING_RATE = 1e-3
CLIP_NORM = 100.0
TERMINATION_WEIGHT = 10.0
TEMPERATURE = 1.1
LATENT_BOUND = 5.0  # Of a dreamed latent, in standard deviations: see `wm_tf.models.mdn_rnn`.
ENCODER_FILTERS = (32, 64, 128, 256)
DECODER_FILTERS = (128, 64, 32)

Arrays = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class DreamSize:
  """Sizes of a dream: candidates, rollouts of each, decisions, latent, LSTM units, components."""

  candidates: int = 64
  rollouts: int = 16
  horizon: int = 60
  latent: int = 32
  hidden: int = 256
  mixtures: int = 5
  basis: int = 48

  def step_flop(self) -> int:
    """Floating point operations of the matrix products of one environment step."""
    inputs = self.latent + ACTION_SIZE
    lstm = (inputs + self.hidden) * 4 * self.hidden
    mixture = (self.hidden + inputs) * 3 * self.latent * self.mixtures
    heads = self.hidden * 2 * HEAD_HIDDEN + HEAD_HIDDEN * (len(REWARD_BINS) + 1)
    controller = (self.latent + self.hidden) * ACTION_SIZE
    return 2 * (lstm + mixture + heads + controller)


def frames(num: int, seed: int = 0) -> np.ndarray:
  """`uint8[num, 64, 64, 3]`: smooth random pictures with a little grain."""
  generator = np.random.default_rng(seed)
  coarse = generator.integers(30, 226, (num, 8, 8, 3)).repeat(8, axis=1).repeat(8, axis=2)
  return np.clip(coarse + generator.normal(0, 8, coarse.shape), 0, 255).astype(np.uint8)


def epoch(num: int, batch: int, seed: int, number: int) -> np.ndarray:
  """The frames of every batch of an epoch: `int[num // batch, batch]`."""
  order = np.random.default_rng([seed, number]).permutation(num)
  return order[: num // batch * batch].reshape(-1, batch)


def vae_weights(latent: int = 32, seed: int = 0) -> Arrays:
  """Kernels `[h, w, in, out]` and, transposed, `[h, w, out, in]`; dense ones `[in, out]`."""
  generator = np.random.default_rng(seed)
  arrays, size, channels = {}, 64, 3

  def add(name, shape, fan_in, num):
    arrays[f"{name}/kernel"] = generator.normal(0, fan_in**-0.5, shape).astype(np.float32)
    arrays[f"{name}/bias"] = generator.normal(0, 0.01, num).astype(np.float32)

  for i, filters in enumerate(ENCODER_FILTERS):
    add(f"encoder{i}", (4, 4, channels, filters), 16 * channels, filters)
    size, channels = (size - 4) // 2 + 1, filters
  flat = size * size * channels
  add("posterior", (flat, 2 * latent), flat, 2 * latent)
  add("expand", (latent, flat), latent, flat)
  channels = flat
  for i, (filters, kernel) in enumerate(zip((*DECODER_FILTERS, 3), (5, 5, 6, 6), strict=True)):
    add(f"decoder{i}", (kernel, kernel, filters, channels), channels * kernel * kernel / 4, filters)
    channels = filters
  return arrays


def dynamics_weights(size: DreamSize = DreamSize(), seed: int = 0) -> Arrays:
  """The MDN-RNN's weights: gates in the order input, forget, cell, output."""
  generator = np.random.default_rng(seed)
  arrays, inputs = {}, size.latent + ACTION_SIZE

  def add(name, rows, columns, gain=1.0):
    values = generator.normal(0, gain * rows**-0.5, (rows, columns))
    arrays[f"{name}/kernel"] = values.astype(np.float32)
    arrays[f"{name}/bias"] = generator.normal(0, 0.01, columns).astype(np.float32)

  add("lstm", inputs, 4 * size.hidden)
  add("recurrent", size.hidden, 4 * size.hidden)
  del arrays["recurrent/bias"]
  add("mixture", size.hidden + inputs, 3 * size.latent * size.mixtures, 0.3)
  for name, columns in (("reward", len(REWARD_BINS)), ("termination", 1)):
    add(f"{name}_hidden", size.hidden, HEAD_HIDDEN)
    add(name, HEAD_HIDDEN, columns)
  arrays["latent_loc"] = generator.normal(0, 0.1, size.latent).astype(np.float32)
  arrays["latent_scale"] = generator.uniform(0.8, 1.2, size.latent).astype(np.float32)
  arrays["change_scale"] = generator.uniform(0.3, 0.5, size.latent).astype(np.float32)
  return arrays


def sequences(batch: int, length: int, latent: int = 32, seed: int = 0) -> Arrays:
  """A batch of cached posteriors in arrival alignment, and the noise of the posterior samples."""
  generator = np.random.default_rng(seed)

  def normal(*shape):
    return generator.normal(0, 1, shape).astype(np.float32)

  posterior = np.concatenate(
    [normal(batch, length, latent), 0.2 * normal(batch, length, latent) - 2], -1
  )
  return {
    "observation": posterior,
    "prev_action": np.tanh(normal(batch, length, ACTION_SIZE)),
    "reward": generator.choice([-0.4, 2.7, 3.1, 6.2, 9.0], (batch, length)).astype(np.float32),
    "discount": (generator.uniform(size=(batch, length)) > 0.01).astype(np.float32),
    "is_first": np.arange(length)[np.newaxis].repeat(batch, 0) == 0,
    "mask": np.ones((batch, length), bool),
    "noise": normal(batch, length, latent),
  }


def dream(size: DreamSize, seed: int = 0) -> Arrays:
  """Candidates, their common starts and, for the check, the noise that they share."""
  generator = np.random.default_rng(seed)

  def normal(*shape):
    return generator.normal(0, 1, shape).astype(np.float32)

  features = size.latent + size.hidden
  return {
    "parameters": 0.1 * normal(size.candidates, (size.basis + 1) * ACTION_SIZE),
    "basis_loc": 0.1 * normal(features),
    "basis": features**-0.5 * normal(features, size.basis),
    "z": normal(size.rollouts, size.latent),
    "h": np.tanh(normal(size.rollouts, size.hidden)),
    "c": normal(size.rollouts, size.hidden),
    "choice": generator.uniform(size=(size.rollouts, size.horizon, size.latent)).astype(np.float32),
    "normal": normal(size.rollouts, size.horizon, size.latent),
  }
