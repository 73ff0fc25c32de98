"""The interface of every optimiser of this package, and functions that the optimisers share.

A strategy searches B independent problems in parallel. It is a frozen configuration with methods.
Its methods take and return a state, which holds all that the search has learned:

    state = strategy.init(mean)                     # mean [B, D]
    for seed in seeds:
      x = strategy.ask(state, seed)                 # [B, N, D]
      state = strategy.tell(state, x, fitness(x))   # fitness [B, N], larger is better
    strategy.mean(state), strategy.best(state)

`maximize` runs this loop in one `tf.while_loop`. A state is a NamedTuple of tensors whose first
dimension is B and whose dtype is that of `mean`. It can be passed through `tf.function`,
`tf.while_loop` and XLA, and stored in a checkpoint (as variables) or a SavedModel.

Fitness is maximised. A candidate has *failed* if its fitness is NaN, -inf or +inf (a simulation
overflowed), or if the candidate itself is not finite. A failed candidate ranks below all others and
is never `best` and never an elite. If all candidates of a row failed, the row's state does not
change.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import numpy as np
import tensorflow as tf

from wm_tf import rng

State = Any  # A NamedTuple of tensors [B, ...], opaque outside its strategy.


class Best(NamedTuple):
  """The best candidate so far, per row.

  Attributes:
    x: `[B, D]`; the initial mean until a candidate succeeds.
    fitness: `[B]`; -inf until a candidate succeeds.
  """

  x: tf.Tensor
  fitness: tf.Tensor


class Strategy(Protocol):
  """An ask/tell optimiser over B independent problems; see the module for the loop."""

  def init(self, mean) -> State:
    """Returns the state of a new search.

    Args:
      mean: where the search starts, `[B, D]` with static D.
    """

  def ask(self, state: State, seed) -> tf.Tensor:
    """Returns N candidates per row, `[B, N, D]`.

    Args:
      state: the current state.
      seed: `int32[2]`; or `int32[B, 2]`, so that row b depends only on `seed[b]`.
    """

  def tell(self, state: State, x, fitness) -> State:
    """Returns the state after the fitness of candidates is known.

    Args:
      state: the current state.
      x: candidates `[B, N, D]`. They may differ from the result of `ask`: the caller may have
        repaired or replaced some.
      fitness: `[B, N]`; larger is better.
    """

  def mean(self, state: State) -> tf.Tensor:
    """Returns the centre of the search distribution, `[B, D]`.

    Args:
      state: the current state.
    """

  def best(self, state: State) -> Best:
    """Returns the best candidate so far and its fitness.

    Args:
      state: the current state.
    """


class MeanAndBest:
  """Implements `mean` and `best` for a strategy whose state has fields with these names."""

  def mean(self, state: State) -> tf.Tensor:
    """Returns `state.mean`. See `Strategy.mean`."""
    return state.mean

  def best(self, state: State) -> Best:
    """Returns `state.best`. See `Strategy.best`."""
    return state.best


def maximize(
  strategy: Strategy,
  fitness_fn: Callable[[tf.Tensor, tf.Tensor], tf.Tensor],
  mean,
  seed,
  num_iterations,
) -> State:
  """Runs `num_iterations` generations from `mean` in one `tf.while_loop`.

  Args:
    strategy: the strategy.
    fitness_fn: maps `(x [B, N, D], seed)` to fitness `[B, N]`; its seed has the shape of `seed`
      and differs between generations.
    mean: `[B, D]`, where the search starts.
    seed: `int32[2]`, or `int32[B, 2]` with one seed per row.
    num_iterations: number of generations; an int or a scalar tensor.

  Returns:
    The final state, for `strategy.mean` and `strategy.best`.
  """
  state, seed = strategy.init(mean), as_seed(seed)

  def generation(i, state):
    ask_seed, fitness_seed = rng.split(rng.fold_in(seed, i), 2)
    x = strategy.ask(state, ask_seed)
    new = strategy.tell(state, x, fitness_fn(x, fitness_seed))
    # The loop needs constant shapes, and a fitness function may lose the static B or N.
    return i + 1, tf.nest.map_structure(lambda n, o: tf.ensure_shape(n, o.shape), new, state)

  _, state = tf.while_loop(
    lambda i, _: i < num_iterations, generation, (tf.constant(0), state), parallel_iterations=1
  )
  return state


def normal(seed, batch_size, shape: tuple[int, ...], dtype) -> tf.Tensor:
  """Returns standard normal noise `[batch_size, *shape]`.

  Args:
    seed: `int32[2]`; or `int32[batch_size, 2]`, so that row b depends only on `seed[b]`.
    batch_size: B; an int or a scalar tensor.
    shape: the static shape of one row.
    dtype: a float dtype.
  """
  seed = as_seed(seed)
  if seed.shape.rank == 1:
    return tf.random.stateless_normal((batch_size, *shape), seed, dtype=dtype)

  def row(s):
    return tf.random.stateless_normal(shape, s, dtype=dtype)

  if seed.shape[0] == 1:
    return row(seed[0])[tf.newaxis]
  return tf.map_fn(row, seed, fn_output_signature=tf.TensorSpec(shape, dtype))


def as_seed(seed) -> tf.Tensor:
  """Returns a seed as a tensor `int32[2]`, or `int32[B, 2]` with one seed per row.

  Args:
    seed: the seed.

  Raises:
    ValueError: if the seed has another shape.
  """
  seed = tf.convert_to_tensor(seed, tf.int32)
  if seed.shape.rank not in (1, 2) or seed.shape[-1] not in (2, None):
    raise ValueError(f"seed must be int32[2] or int32[B, 2], one per row; got shape {seed.shape}.")
  return seed


def mirror(noise_fn: Callable[[int], tf.Tensor], num_candidates: int, antithetic: bool):
  """Returns noise `[B, N, D]`, optionally in pairs of opposite sign.

  Args:
    noise_fn: maps a number n to noise `[B, n, D]`.
    num_candidates: N; even if antithetic.
    antithetic: whether the second half is the negative of the first.
  """
  if not antithetic:
    return noise_fn(num_candidates)
  half = noise_fn(num_candidates // 2)
  return tf.concat([half, -half], 1)


def correlate(noise, correlation: float, action_size: int):
  """Converts white noise over a plan to an AR(1) process over its horizon, of the same variance.

  Args:
    noise: `[B, N, D]` standard normal, with D = H * `action_size`, time-major within a row.
    correlation: correlation between successive decisions, in [0, 1); 0 returns `noise`.
    action_size: A.

  Returns:
    `[B, N, D]`, standard normal at each step: e_0 = z_0 and
    e_t = correlation * e_{t-1} + sqrt(1 - correlation^2) * z_t.

  Raises:
    ValueError: if D is not a multiple of `action_size`.
  """
  if not correlation:
    return noise
  size = noise.shape[-1]
  if size % action_size:
    raise ValueError(f"a plan of {size} numbers is not a whole number of actions of {action_size}.")
  horizon = size // action_size
  lag = np.arange(horizon)[:, None] - np.arange(horizon)
  mix = np.where(lag >= 0, correlation ** np.abs(lag), 0.0)
  mix[:, 1:] *= np.sqrt(1.0 - correlation**2)
  # A [D, D] matrix over whole plans takes more products than necessary, but only one operation.
  mix = tf.constant(np.kron(mix, np.eye(action_size)).T, noise.dtype)
  mixed = tf.matmul(tf.reshape(noise, [-1, size]), mix)
  return tf.ensure_shape(tf.reshape(mixed, tf.shape(noise)), noise.shape)


def clip(x, bounds: tuple[float, float] | None):
  """Returns candidates clipped to bounds.

  Args:
    x: `[..., D]`.
    bounds: `(low, high)`; None returns `x` unchanged.
  """
  return x if bounds is None else tf.clip_by_value(x, *bounds)


def as_mean(mean) -> tf.Tensor:
  """Returns the `mean` given to `init` as a tensor `[B, D]`.

  Args:
    mean: `[B, D]`, floats with static D.

  Raises:
    ValueError: if `mean` has another rank or dtype, or D is not static.
  """
  mean = tf.convert_to_tensor(mean)
  if mean.shape.rank != 2 or mean.shape[1] is None or not mean.dtype.is_floating:
    raise ValueError(
      f"mean must be a float tensor [B, D] with static D; got {mean.dtype.name}{mean.shape}. "
      "One problem has B = 1: pass mean[tf.newaxis]."
    )
  return mean


def as_scale(scale, mean) -> tf.Tensor:
  """Returns a standard deviation, broadcast to the shape `[B, D]` and dtype of a mean.

  Args:
    scale: a number or tensor that broadcasts to `[B, D]`.
    mean: `[B, D]`.
  """
  scale = tf.cast(tf.convert_to_tensor(scale, dtype_hint=mean.dtype), mean.dtype)
  scale = tf.broadcast_to(scale, tf.shape(mean))
  return tf.ensure_shape(scale, mean.shape)


def validate_tell_args(state, x, fitness) -> tuple[tf.Tensor, tf.Tensor]:
  """Checks the arguments of `tell` and marks the candidates that failed.

  Args:
    state: the current state; its `mean` is `[B, D]`.
    x: candidates `[B, N, D]`.
    fitness: `[B, N]`.

  Returns:
    `(x [B, N, D], fitness [B, N])` in the dtype of the mean. Candidates that are not finite are
    replaced by the mean, and the fitness of every failed candidate is -inf.

  Raises:
    ValueError: if `x` or `fitness` has the wrong rank.
  """
  dtype = state.mean.dtype
  x, fitness = tf.cast(x, dtype), tf.cast(fitness, dtype)
  if x.shape.rank != 3 or fitness.shape.rank != 2:
    raise ValueError(
      f"tell takes x [B, N, D] and fitness [B, N]; got shapes {x.shape} and {fitness.shape}."
    )
  x = tf.ensure_shape(x, (*x.shape[:2], state.mean.shape[1]))
  finite = tf.reduce_all(tf.math.is_finite(x), -1)
  x = tf.where(finite[..., tf.newaxis], x, state.mean[:, tf.newaxis])
  finite = tf.logical_and(finite, tf.math.is_finite(fitness))
  return x, tf.where(finite, fitness, tf.constant(-np.inf, dtype))


def first_best(mean) -> Best:
  """Returns the `Best` of a search before its first generation.

  Args:
    mean: the initial mean, `[B, D]`.
  """
  return Best(mean, tf.fill(tf.shape(mean)[:1], tf.constant(-np.inf, mean.dtype)))


def top_k(x, fitness, k: int) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
  """Returns the k best candidates, best first; ties keep the order of the candidates.

  Args:
    x: `[B, N, D]`.
    fitness: `[B, N]`, -inf for failed candidates (see `validate_tell_args`).
    k: at most N.

  Returns:
    `(x [B, k, D], fitness [B, k], valid [B, k])`; `valid` is 1 for a success, 0 for a failure.
  """
  fitness, index = tf.math.top_k(fitness, k)
  return tf.gather(x, index, batch_dims=1), fitness, success(fitness)


def success(fitness) -> tf.Tensor:
  """Returns 1 where a candidate succeeded and 0 where it failed, in the dtype of `fitness`.

  Args:
    fitness: `[...]`, not finite for failed candidates.
  """
  return tf.cast(tf.math.is_finite(fitness), fitness.dtype)


def keep_better(best: Best, x, fitness) -> Best:
  """Returns the better of `best` and the best candidate, per row; `best` on a tie.

  Args:
    best: the best candidate so far.
    x: `[B, N, D]`.
    fitness: `[B, N]`, -inf for failed candidates.
  """
  x, fitness, _ = top_k(x, fitness, 1)
  return select(fitness[:, 0] > best.fitness, Best(x[:, 0], fitness[:, 0]), best)


def select(rows, new, old):
  """Returns a nest of `[B, ...]` with rows of `new` where `rows` is true, and of `old` elsewhere.

  Args:
    rows: `bool[B]`.
    new: a nest of `[B, ...]`.
    old: a nest of the same structure and shapes.
  """

  def one(n, o):
    shape = tf.concat([tf.shape(rows), tf.ones([tf.rank(n) - 1], tf.int32)], 0)
    return tf.ensure_shape(tf.where(tf.reshape(rows, shape), n, o), o.shape)

  return tf.nest.map_structure(one, new, old)


def centred_ranks(fitness) -> tf.Tensor:
  """Returns ranks `[B, N]`, evenly spaced in [-0.5, 0.5]; ties share the mean of their ranks.

  The ranks are 0 everywhere if all fitness is equal or all candidates failed.

  Args:
    fitness: `[B, N]`, -inf for failed candidates.
  """
  a, b = fitness[:, :, tf.newaxis], fitness[:, tf.newaxis, :]
  below = tf.reduce_sum(tf.cast(a > b, fitness.dtype), -1)
  above = tf.reduce_sum(tf.cast(a < b, fitness.dtype), -1)
  last = tf.cast(tf.maximum(tf.shape(fitness)[1] - 1, 1), fitness.dtype)
  return (below - above) / (2.0 * last)


def check_gaussian(config) -> None:
  """Checks the settings that CEM and MPPI share.

  Args:
    config: a `CEM` or an `MPPI`.

  Raises:
    ValueError: if a setting is invalid; the message names the field.
  """
  if config.num_candidates < 1 or (config.antithetic and config.num_candidates % 2):
    raise ValueError(
      f"num_candidates must be positive, and even if antithetic; got {config.num_candidates}."
    )
  for name in ("correlation", "momentum"):
    if not 0.0 <= getattr(config, name) < 1.0:
      raise ValueError(f"{name} must be in [0, 1); got {getattr(config, name)}.")
  if config.bounds is not None and not config.bounds[0] < config.bounds[1]:
    raise ValueError(f"bounds must be (low, high) with low < high; got {config.bounds}.")


def sample(config, mean, scale, seed) -> tf.Tensor:
  """Returns candidates `[B, N, D]` of a diagonal Gaussian, clipped to the bounds.

  Args:
    config: has `num_candidates`, `antithetic`, `correlation`, `action_size` and `bounds`.
    mean: `[B, D]`.
    scale: standard deviation `[B, D]`.
    seed: `int32[2]` or `int32[B, 2]`.
  """
  size = mean.shape[1]

  def draw(num):
    return normal(seed, tf.shape(mean)[0], (num, size), mean.dtype)

  noise = mirror(draw, config.num_candidates, config.antithetic)
  noise = correlate(noise, config.correlation, config.action_size)
  x = mean[:, tf.newaxis] + scale[:, tf.newaxis] * noise
  return tf.ensure_shape(clip(x, config.bounds), (mean.shape[0], config.num_candidates, size))
