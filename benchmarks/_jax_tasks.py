"""What one would write in JAX: the dream as one `lax.scan` under `jit`."""

from __future__ import annotations

import jax
import numpy as np
from jax import numpy as jnp

from benchmarks import _jax_dreamer as dreamer_tasks
from benchmarks import _problems as problems
from benchmarks._worker import Task


def _dense(arrays, name, x):
  return x @ arrays[f"{name}/kernel"] + arrays[f"{name}/bias"]


def _head(arrays, name, h):
  return _dense(arrays, name, jax.nn.relu(_dense(arrays, f"{name}_hidden", h)))


def _soft_bound(x, low, high):
  return low + jax.nn.softplus(high - jax.nn.softplus(high - x) - low)


def _imagine(model, size, z, h, c, action, choice, normal):
  """One step of any number of rows; returns the next state, the reward and the discount."""
  standard = (z - model["latent_loc"]) / model["latent_scale"]
  inputs = jnp.concatenate([standard, action], -1)
  gates = _dense(model, "lstm", inputs) + h @ model["recurrent/kernel"]
  i, f, g, o = jnp.split(gates, 4, axis=-1)
  c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
  h = jax.nn.sigmoid(o) * jnp.tanh(c)
  parts = jnp.split(_dense(model, "mixture", jnp.concatenate([h, inputs], -1)), 3, axis=-1)
  shape = (*h.shape[:-1], size.latent, size.mixtures)
  logits, loc, log_scale = (part.reshape(shape) for part in parts)
  cumulative = jnp.cumsum(jax.nn.softmax(logits / problems.TEMPERATURE), -1)[..., :-1]
  pick = jax.nn.one_hot((cumulative <= choice[..., None]).sum(-1), size.mixtures)
  loc, log_scale = (pick * loc).sum(-1), (pick * log_scale).sum(-1)
  scale = jnp.exp(_soft_bound(log_scale, -5.0, 2.0))
  z = z + (loc + scale * problems.TEMPERATURE**0.5 * normal) * model["change_scale"]
  bound = problems.LATENT_BOUND * model["latent_scale"]
  z = jnp.clip(z, model["latent_loc"] - bound, model["latent_loc"] + bound)
  reward = jax.nn.softmax(_head(model, "reward", h)) @ jnp.array(problems.REWARD_BINS)
  logit = _head(model, "termination", h)[..., 0]
  return z, h, c, reward, jax.nn.sigmoid(np.log(problems.TERMINATION_WEIGHT) - logit)


def _make_score(size: problems.DreamSize, shared: bool):
  """Returns `score(parameters, arrays, key)` and `score_with_noise(..., choice, normal)`.

  With `shared`, noise is drawn before the scan for the rollouts of one candidate, and all
  candidates meet it; without, each step draws for each row, as one writes it first.
  """
  model = {k: jnp.asarray(v) for k, v in problems.dynamics_weights(size).items()}
  rows = size.candidates * size.rollouts

  def rollout(parameters, arrays, noise_of, xs):
    weights = parameters.reshape(size.candidates, size.basis + 1, problems.ACTION_SIZE)
    weights, bias = arrays["basis"] @ weights[:, :-1], weights[:, -1:]  # The basis folded in.
    bias = bias - arrays["basis_loc"][None, None] @ weights

    def step(carry, x):
      z, h, c, total, alive = carry
      choice, normal = noise_of(x)
      standard = (z - model["latent_loc"]) / model["latent_scale"]
      features = jnp.concatenate([standard, h], -1).reshape(size.candidates, size.rollouts, -1)
      action = jnp.tanh(features @ weights + bias).reshape(rows, -1)
      z, h, c, reward, discount = _imagine(model, size, z, h, c, action, choice, normal)
      return (z, h, c, total + alive * reward, alive * discount), None

    def tile(x):
      return jnp.tile(x, (size.candidates, 1))

    start = tile(arrays["z"]), tile(arrays["h"]), tile(arrays["c"]), jnp.zeros(rows), jnp.ones(rows)
    carry, _ = jax.lax.scan(step, start, xs)
    return carry[3].reshape(size.candidates, size.rollouts).mean(1)

  def score_with_noise(parameters, arrays, choice, normal):
    def tile(x):
      return jnp.tile(x, (size.candidates, 1))

    xs = jnp.swapaxes(choice, 0, 1), jnp.swapaxes(normal, 0, 1)
    return rollout(parameters, arrays, lambda x: (tile(x[0]), tile(x[1])), xs)

  def score(parameters, arrays, key):
    if shared:
      shape = (size.rollouts, size.horizon, size.latent)
      first, second = jax.random.split(key)
      return score_with_noise(
        parameters, arrays, jax.random.uniform(first, shape), jax.random.normal(second, shape)
      )

    def noise_of(key):
      first, second = jax.random.split(key)
      shape = (rows, size.latent)
      return jax.random.uniform(first, shape), jax.random.normal(second, shape)

    return rollout(parameters, arrays, noise_of, jax.random.split(key, size.horizon))

  return jax.jit(score), jax.jit(score_with_noise)


def dream(repeats: int = 1, shared=True, **size) -> Task:
  """A whole population through its dreams."""
  size = problems.DreamSize(**size)
  arrays = {name: jnp.asarray(value) for name, value in problems.dream(size).items()}
  parameters, choice, normal = (arrays.pop(name) for name in ("parameters", "choice", "normal"))
  score, score_with_noise = _make_score(size, shared)
  check = {
    "imagined_return": np.asarray(score_with_noise(parameters, arrays, choice, normal)).tolist()
  }
  count = 0

  def run():
    nonlocal count
    for _ in range(repeats):
      count += 1
      np.asarray(score(parameters, arrays, jax.random.key(count)))

  return Task(run, check)


def generation(shared=True, **size) -> Task:
  """A whole generation: the dream in JAX, ask and tell by pycma."""
  import cma

  size = problems.DreamSize(**size)
  arrays = {name: jnp.asarray(value) for name, value in problems.dream(size).items()}
  for name in ("parameters", "choice", "normal"):
    del arrays[name]
  score, _ = _make_score(size, shared)
  options = {"popsize": size.candidates, "seed": 1, "verbose": -9}
  start = np.zeros((size.basis + 1) * problems.ACTION_SIZE)
  search = cma.CMAEvolutionStrategy(start, 0.1, options)
  count = 0

  def run():
    nonlocal count
    count += 1
    asked = search.ask()
    parameters = jnp.asarray(np.asarray(asked, np.float32))
    returns = np.asarray(score(parameters, arrays, jax.random.key(count)))
    search.tell(asked, -returns.astype(np.float64))

  return Task(run, {})


def matrix_product(size: int) -> Task:
  """A float32 product of two square matrices."""
  a, b = (jax.random.normal(jax.random.key(i), (size, size)) for i in range(2))
  product = jax.jit(jnp.matmul)
  return Task(lambda: float(product(a, b)[0, 0]), {})


TASKS = {
  "dream": dream,
  "generation": generation,
  "matrix_product": matrix_product,
  **dreamer_tasks.TASKS,
}
