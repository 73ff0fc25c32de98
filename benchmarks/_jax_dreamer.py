"""Dreamer's world model as one would write it in JAX, for `benchmarks.dreamer`.

A whole update, with Adam, is one program. The encoder, the prior, the heads and the decoder run
once for all steps; only the recurrent cell and the posterior are in the `lax.scan` over time.
Images are patches in the encoder and in the loss, so that the decoder need not put them together.
"""

from __future__ import annotations

import functools

import jax
import numpy as np
from jax import numpy as jnp

from benchmarks import _dreamer_problem as dreamer_problem
from benchmarks._worker import Task

_LAYOUT = ("NHWC", "HWIO", "NHWC")


def _dense(p, name, x):
  return x @ p[f"{name}/kernel"] + p[f"{name}/bias"]


def _norm(p, name, x):
  mean_square = jnp.square(x).mean(-1, keepdims=True)
  return x * jax.lax.rsqrt(mean_square + dreamer_problem.NORM_EPSILON) * p[f"{name}/gain"]


def _norm_dense(p, name, x):
  return jax.nn.silu(_norm(p, name, _dense(p, name, x)))


# XLA's convolutions of stride 2 on a CPU, and above all their gradients, are slower than the same
# ones of stride 1 and kernel 2 on blocks of 2 x 2 pixels: an update on images takes three
# quarters of the time.


def _blocks(x):
  """`[B, H, W, C]` to `[B, H / 2, W / 2, 4 C]`."""
  b, h, w, c = x.shape
  x = x.reshape(b, h // 2, 2, w // 2, 2, c).transpose(0, 1, 3, 2, 4, 5)
  return x.reshape(b, h // 2, w // 2, 4 * c)


def _unblocks(x):
  """`[B, H, W, 4 C]` to `[B, 2 H, 2 W, C]`; the inverse of `_blocks`."""
  b, h, w, c = x.shape
  x = x.reshape(b, h, w, 2, 2, c // 4).transpose(0, 1, 3, 2, 4, 5)
  return x.reshape(b, 2 * h, 2 * w, c // 4)


def _padded(x):
  return jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))


def _convolve(x, kernel):
  return jax.lax.conv_general_dilated(x, kernel, (1, 1), "VALID", dimension_numbers=_LAYOUT)


def _norm_conv(p, name, x):
  """A convolution of kernel 4 and stride 2 with "SAME" padding, `RMSNorm` and SiLU."""
  kernel = p[f"{name}/kernel"]
  inputs, filters = kernel.shape[2:]
  kernel = kernel.reshape(2, 2, 2, 2, inputs, filters).transpose(0, 2, 1, 3, 4, 5)
  y = _convolve(_blocks(_padded(x)), kernel.reshape(2, 2, 4 * inputs, filters))
  return jax.nn.silu(_norm(p, name, y + p[f"{name}/bias"]))


def _norm_deconv(p, name, x):
  """The transposed convolution of kernel 4 and stride 2, `RMSNorm` and SiLU."""
  kernel = p[f"{name}/kernel"]
  filters, inputs = kernel.shape[2:]
  # The block m of the output is x[m] by the kernel's first half and x[m - 1] by its second.
  kernel = kernel.reshape(2, 2, 2, 2, filters, inputs)[::-1, :, ::-1].transpose(0, 2, 5, 1, 3, 4)
  y = _unblocks(_convolve(_padded(x), kernel.reshape(2, 2, inputs, 4 * filters)))
  y = y[:, 1:-1, 1:-1] + p[f"{name}/bias"]
  return jax.nn.silu(_norm(p, name, y))


def _network_units(size, observation):
  """Rows of numbers, `[B T, D]`, or of patches in [0, 1], `[B T, h, w, PATCH PATCH C]`."""
  rows = observation.reshape(-1, *size.observation)
  if not size.pixels:
    bound = dreamer_problem.VECTOR_BOUND
    return jnp.clip(jnp.sign(rows) * jnp.log1p(jnp.abs(rows)), -bound, bound)
  height, width, channels = size.observation
  patch = dreamer_problem.PATCH
  x = rows.reshape(-1, height // patch, patch, width // patch, patch, channels)
  x = x.transpose(0, 1, 3, 2, 4, 5).reshape(*x.shape[:2], width // patch, -1)
  return x.astype(jnp.float32) * (1.0 / 255.0)


def _encode(p, size, x):
  if not size.pixels:
    return _norm_dense(p, "encoder.dense2", _norm_dense(p, "encoder.dense1", x))
  x = _norm_dense(p, "encoder.patches", x - 0.5)
  x = _norm_conv(p, "encoder.conv2", _norm_conv(p, "encoder.conv1", x))
  return _norm_dense(p, "encoder.dense", x.reshape(len(x), -1))


def _decode(p, size, features):
  if not size.pixels:
    x = _norm_dense(p, "decoder.dense2", _norm_dense(p, "decoder.dense1", features))
    return _dense(p, "decoder.output", x)
  height, width, _ = size.observation
  height, width = height // (4 * dreamer_problem.PATCH), width // (4 * dreamer_problem.PATCH)
  x = _norm_dense(p, "decoder.dense", features).reshape(-1, height, width, 4 * size.filters)
  x = _norm_deconv(p, "decoder.conv2", _norm_deconv(p, "decoder.conv1", x))
  return _dense(p, "decoder.patches", x) + 0.5


def _probabilities(size, logits):
  """Probabilities with the uniform share, `[..., variables, classes]`."""
  logits = logits.reshape(*logits.shape[:-1], size.variables, size.classes)
  share = dreamer_problem.UNIMIX
  return (1.0 - share) * jax.nn.softmax(logits) + share / size.classes


def _sample(size, logits, noise):
  """One-hot samples with straight-through gradients, `[B, variables * classes]`."""
  probabilities = _probabilities(size, logits)
  fixed = jax.lax.stop_gradient(probabilities)
  index = (jnp.cumsum(fixed, -1)[..., :-1] <= noise[..., None]).sum(-1)
  one_hot = jax.nn.one_hot(index, size.classes)
  return (one_hot + (probabilities - fixed)).reshape(len(logits), -1)


def _observe(p, size, embedding, batch, noise):
  """The states and the posterior's logits of all steps, each `[B, T, ...]`."""
  kept = 1.0 - batch["is_first"][..., None]

  def step(state, inputs):
    keep, action, x, uniform = inputs
    deter, stoch = (keep * value for value in state)
    hidden = _norm_dense(p, "cell_input", jnp.concatenate([stoch, action], -1))
    gates = _norm(p, "gates", _dense(p, "gates", jnp.concatenate([hidden, deter], -1)))
    reset, candidate, update = jnp.split(gates, 3, axis=-1)
    update = jax.nn.sigmoid(update - 1.0)
    deter = update * jnp.tanh(jax.nn.sigmoid(reset) * candidate) + (1.0 - update) * deter
    hidden = _norm(p, "posterior_hidden", _dense(p, "posterior_hidden", deter) + x)
    logits = _dense(p, "posterior", jax.nn.silu(hidden))
    stoch = _sample(size, logits, uniform)
    return (deter, stoch), (deter, stoch, logits)

  rows = len(embedding)
  start = jnp.zeros((rows, size.deter)), jnp.zeros((rows, size.stoch))
  steps = (kept, kept * batch["prev_action"], embedding, noise)
  _, found = jax.lax.scan(step, start, tuple(jnp.swapaxes(s, 0, 1) for s in steps))
  return tuple(jnp.swapaxes(column, 0, 1) for column in found)


def _balanced_kl(size, posterior, prior):
  p, log_q = _probabilities(size, posterior), jnp.log(_probabilities(size, prior))
  log_p, stop = jnp.log(p), jax.lax.stop_gradient
  dynamics = (stop(p) * (stop(log_p) - log_q)).sum((-2, -1))
  representation = (p * (log_p - stop(log_q))).sum((-2, -1))
  free = dreamer_problem.FREE_NATS
  return dreamer_problem.DYNAMICS_WEIGHT * jnp.maximum(dynamics, free) + (
    dreamer_problem.REPRESENTATION_WEIGHT * jnp.maximum(representation, free)
  )


def _two_hot(reward):
  bins = jnp.asarray(dreamer_problem.reward_bins())
  reward = jnp.clip(reward, bins[0], bins[-1])
  above = jnp.clip(jnp.searchsorted(bins, reward, side="right"), 1, len(bins) - 1)
  low, high = bins[above - 1], bins[above]
  weight = ((reward - low) / (high - low))[..., None]
  below, above = (jax.nn.one_hot(index, len(bins)) for index in (above - 1, above))
  return (1.0 - weight) * below + weight * above


def _loss(p, size, batch, noise):
  """The mean over steps that are not padding, `float32[]`."""
  mask = batch["mask"]
  target = _network_units(size, batch["observation"])
  embedding = _dense(p, "embedding", _encode(p, size, target)).reshape(*mask.shape, -1)
  deter, stoch, posterior = _observe(p, size, embedding, batch, noise)
  features = jnp.concatenate([deter, stoch], -1)
  error = _decode(p, size, features.reshape(-1, size.features)) - target
  error = jnp.square(error).reshape(*mask.shape, -1).sum(-1)
  scale = 1.0 if size.pixels else 2.0 * dreamer_problem.VECTOR_SCALE**2
  prior = _dense(p, "prior", _norm_dense(p, "prior_hidden", deter))
  reward = _dense(p, "reward", _norm_dense(p, "reward_hidden", features))
  logit = _dense(p, "termination", _norm_dense(p, "termination_hidden", features))[..., 0]
  loss = (
    error / scale
    + _balanced_kl(size, posterior, prior)
    - (_two_hot(batch["reward"]) * jax.nn.log_softmax(reward)).sum(-1)
    + jax.nn.softplus(logit)
    - (1.0 - batch["discount"]) * logit
  )
  return (loss * mask).sum() / mask.sum()


def _adam(p, gradients, moments, count):
  """Adam with clipping by the global norm; returns the new weights and moments, and the norm."""
  norm = jnp.sqrt(sum(jnp.square(g).sum() for g in jax.tree.leaves(gradients)))
  shrink = jnp.minimum(1.0, dreamer_problem.CLIP_NORM / norm)
  mean, square = moments
  gradients = jax.tree.map(lambda g: shrink * g, gradients)
  mean = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, mean, gradients)
  square = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g * g, square, gradients)
  rate = dreamer_problem.LEARNING_RATE * jnp.sqrt(1.0 - 0.999**count) / (1.0 - 0.9**count)
  p = jax.tree.map(
    lambda x, m, v: x - rate * m / (jnp.sqrt(v) + dreamer_problem.ADAM_EPSILON), p, mean, square
  )
  return p, (mean, square), norm


def _start(size):
  """Weights, moments of Adam and the number of updates."""
  p = {k: jnp.asarray(v) for k, v in dreamer_problem.weights(size).items()}
  return p, tuple(jax.tree.map(jnp.zeros_like, p) for _ in range(2)), jnp.zeros(())


def world_model(steps: int, pixels: bool, **sizes: int) -> Task:
  """Updates of the world model; see the task of the same name of ours."""
  size = dreamer_problem.make_size(pixels, **sizes)
  arrays = dreamer_problem.sequences(size)
  batch = {name: jnp.asarray(value) for name, value in arrays.items()}
  given = batch.pop("noise")

  def update(state, batch, noise):
    p, moments, count = state
    loss, gradients = jax.value_and_grad(_loss)(p, size, batch, noise)
    p, moments, norm = _adam(p, gradients, moments, count + 1.0)
    return (p, moments, count + 1.0), loss, norm

  @functools.partial(jax.jit, donate_argnums=0)
  def drawn_update(state, batch, key):
    key, used = jax.random.split(key)
    state, loss, _ = update(state, batch, jax.random.uniform(used, given.shape))
    return state, loss, key

  state, losses, norms = _start(size), [], []
  given_update = jax.jit(update)
  for _ in range(dreamer_problem.CHECKED_UPDATES):
    state, loss, norm = given_update(state, batch, given)
    losses.append(float(loss))
    norms.append(float(norm))
  check = {
    "losses": losses,
    "gradient_norm": norms[0],
    "parameters": sum(int(np.prod(x.shape)) for x in state[0].values()),
  }
  state, key = _start(size), jax.random.key(0)

  def run():
    nonlocal state, key
    for _ in range(steps):
      state, loss, key = drawn_update(state, batch, key)
      float(loss)

  return Task(run, check)


TASKS = {"dreamer_world_model": world_model}
