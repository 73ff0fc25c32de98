"""CMA-ES with a full or a diagonal ("separable") covariance matrix."""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from wm_tf.search import strategy


class CMAESParameters(NamedTuple):
  """The strategy parameters for one (N, D), by table 1 of Hansen's tutorial.

  Attributes:
    weights: `float64[N]`, best candidate first. The positive weights sum to 1. The others are
      negative, or 0 without the active update.
    mueff: variance effective selection mass of the positive weights.
    c1, cmu: learning rates of the rank-one and the rank-mu update.
    cc, cs: learning rates of the covariance's and the step size's evolution path.
    ds: damping of the step size.
    chi: expected length of an N(0, I) vector of D numbers.
  """

  weights: np.ndarray
  mueff: float
  c1: float
  cmu: float
  cc: float
  cs: float
  ds: float
  chi: float


@functools.lru_cache(maxsize=64)
def cma_es_parameters(num: int, size: int, active: bool, separable: bool) -> CMAESParameters:
  """Computes the strategy parameters; Hansen 2016, arXiv:1604.00772, table 1.

  Args:
    num: N, number of candidates.
    size: D.
    active: whether the worst candidates have negative weights.
    separable: multiplies c1 and cmu by (D + 2) / 3 (Ros & Hansen 2008, section 3).

  Returns:
    The parameters.
  """
  raw = math.log((num + 1) / 2) - np.log(np.arange(1, num + 1))
  positive, negative = raw[: num // 2], raw[num // 2 :]
  mueff = positive.sum() ** 2 / np.square(positive).sum()
  mueff_negative = negative.sum() ** 2 / np.square(negative).sum()

  speedup = (size + 2) / 3 if separable else 1.0
  c1 = min(1.0, speedup * 2 / ((size + 1.3) ** 2 + mueff))
  cmu = speedup * 2 * (0.25 + mueff + 1 / mueff - 2) / ((size + 2) ** 2 + mueff)
  cmu = min(1 - c1, cmu)
  cc = (4 + mueff / size) / (size + 4 + 2 * mueff / size)
  cs = (mueff + 2) / (size + mueff + 5)
  ds = 1 + 2 * max(0.0, math.sqrt((mueff - 1) / (size + 1)) - 1) + cs

  # The smallest of three masses: they balance the positive weights' learning rate, keep both sides'
  # variance comparable, and keep the covariance positive definite.
  mass = min(1 + c1 / cmu, 1 + 2 * mueff_negative / (mueff + 2), (1 - c1 - cmu) / (size * cmu))
  mass = mass if active else 0.0
  weights = np.concatenate([positive / positive.sum(), mass * negative / -negative.sum()])
  chi = math.sqrt(size) * (1 - 1 / (4 * size) + 1 / (21 * size**2))
  return CMAESParameters(weights, mueff, c1, cmu, cc, cs, ds, chi)


class CMAESState(NamedTuple):
  """The state of `CMAES`.

  Attributes:
    mean: `[B, D]`.
    step_size: `[B]`; candidates are drawn from N(mean, step_size^2 covariance).
    covariance: `[B, D, D]`, or its diagonal `[B, D]` if separable.
    basis: `[B, D, D]` eigenvectors in columns, as of the last decomposition; `()` if separable.
    axes: `[B, D]`, square roots of the eigenvalues.
    path_covariance: `[B, D]`, evolution path p_c.
    path_step: `[B, D]`, conjugate evolution path p_sigma.
    generation: `int32[B]`, number of generations so far.
    best: see `strategy.Best`.
  """

  mean: tf.Tensor
  step_size: tf.Tensor
  covariance: tf.Tensor
  basis: Any
  axes: tf.Tensor
  path_covariance: tf.Tensor
  path_step: tf.Tensor
  generation: tf.Tensor
  best: strategy.Best


@dataclasses.dataclass(frozen=True)
class CMAES(strategy.MeanAndBest):
  """Covariance matrix adaptation: rank-one, rank-mu and active updates, cumulative step size.

  A failed candidate has weight 0. The search computes in the dtype of the mean. Compile only small
  problems with XLA: its eigendecomposition is ten times slower.

  References:
    Hansen 2016, "The CMA evolution strategy: a tutorial", arXiv:1604.00772, figure 6 and table 1.
    Jastrebski & Arnold 2006 (the active update: negative weights).
    Ros & Hansen 2008, "A simple modification in CMA-ES achieving linear time and space complexity"
    (separable).

  Attributes:
    num_candidates: N; None for the tutorial's 4 + floor(3 log D).
    initial_scale: the initial step size; about a third of the distance to the optimum.
    separable: whether to adapt only the diagonal of the covariance, with time and memory O(D).
    active: whether to use the worst candidates too, with negative weights.
    decompose_every: generations between two eigendecompositions; None for the tutorial's
      max(1, floor(1 / (10 D (c1 + cmu)))).
  """

  num_candidates: int | None = None
  initial_scale: float = 0.3
  separable: bool = False
  active: bool = True
  decompose_every: int | None = None

  def __post_init__(self):
    if self.num_candidates is not None and self.num_candidates < 4:
      raise ValueError(f"num_candidates must be at least 4, or None; got {self.num_candidates}.")
    if self.initial_scale <= 0:
      raise ValueError(f"initial_scale must be positive; got {self.initial_scale}.")
    if self.decompose_every is not None and self.decompose_every < 1:
      raise ValueError(f"decompose_every must be positive, or None; got {self.decompose_every}.")

  def population(self, size: int) -> int:
    """Returns N, the number of candidates.

    Args:
      size: D.
    """
    return self.num_candidates or 4 + int(3 * math.log(size))

  def parameters(self, size: int) -> CMAESParameters:
    """Returns the strategy parameters.

    Args:
      size: D.
    """
    return cma_es_parameters(self.population(size), size, self.active, self.separable)

  def init(self, mean, covariance=None) -> CMAESState:
    """Starts a search.

    Args:
      mean: `[B, D]`.
      covariance: covariance of an earlier search, `[B, D, D]` or its diagonal `[B, D]`. It is
        divided by its mean eigenvalue, so its size has no effect. None for the identity.

    Returns:
      The first state.
    """
    mean = strategy.as_mean(mean)
    rows, zeros, ones = tf.shape(mean)[:1], tf.zeros_like(mean), tf.ones_like(mean)
    if covariance is None:
      axes, covariance = ones, ones if self.separable else tf.linalg.diag(ones)
      basis = () if self.separable else covariance
    else:
      covariance = self._as_covariance(tf.cast(covariance, mean.dtype))
      covariance, axes, basis, _ = self._decomposed(covariance)
    return CMAESState(
      mean=mean,
      step_size=tf.fill(rows, tf.constant(self.initial_scale, mean.dtype)),
      covariance=covariance,
      basis=basis,
      axes=axes,
      path_covariance=zeros,
      path_step=zeros,
      generation=tf.zeros(rows, tf.int32),
      best=strategy.first_best(mean),
    )

  def ask(self, state: CMAESState, seed) -> tf.Tensor:
    """Returns candidates of N(mean, step_size^2 covariance). See `Strategy.ask`."""
    mean, size = state.mean, state.mean.shape[1]
    shape = (self.population(size), size)
    noise = strategy.normal(seed, tf.shape(mean)[0], shape, mean.dtype)
    step = state.step_size[:, tf.newaxis, tf.newaxis] * self._scale(state, noise)
    return tf.ensure_shape(mean[:, tf.newaxis] + step, (mean.shape[0], *shape))

  def tell(self, state: CMAESState, x, fitness) -> CMAESState:
    """Updates the mean, the step size and the covariance from exactly N candidates.

    See `Strategy.tell`.
    """
    x, fitness = strategy.validate_tell_args(state, x, fitness)
    best = strategy.keep_better(state.best, x, fitness)
    size, num, dtype = state.mean.shape[1], self.population(state.mean.shape[1]), state.mean.dtype
    p = self.parameters(size)
    if x.shape[1] not in (num, None):
      raise ValueError(f"CMA-ES weighs exactly {num} candidates; tell got {x.shape[1]}.")
    x, _, valid = strategy.top_k(x, fitness, num)

    # Numbers in comments are equations of the tutorial. `y` are steps in units of the step size.
    weights = valid * tf.constant(p.weights, dtype)
    sigma = state.step_size[:, tf.newaxis]
    y = (x - state.mean[:, tf.newaxis]) / sigma[:, tf.newaxis]
    y_mean = tf.einsum("bn,bnd->bd", tf.nn.relu(weights), y)  # 41
    whitened = self._unscale(state, y)
    # C^-1/2 is linear, so the mean of whitened steps is the whitened mean step up to a rotation.
    z_mean = self._rotate(state, tf.einsum("bn,bnd->bd", tf.nn.relu(weights), whitened))

    path_step = (1 - p.cs) * state.path_step + math.sqrt(p.cs * (2 - p.cs) * p.mueff) * z_mean  # 43
    length = tf.norm(path_step, axis=-1, keepdims=True)
    # Candidates that a caller replaced may be far away, so the factor is at most e.
    change = tf.exp(tf.minimum(p.cs / p.ds * (length / p.chi - 1), 1.0))  # 44

    generation = tf.cast(state.generation[:, tf.newaxis] + 1, dtype)
    stationary = length / tf.sqrt(1 - tf.pow(tf.constant(1 - p.cs, dtype), 2 * generation))
    steady = tf.cast(stationary < (1.4 + 2 / (size + 1)) * p.chi, dtype)  # h_sigma
    path = (1 - p.cc) * state.path_covariance
    path += steady * math.sqrt(p.cc * (2 - p.cc) * p.mueff) * y_mean  # 45

    # 46: a negative weight is scaled so that its step has the expected length. The lower bound
    # prevents a division by zero for steps below the resolution of x.
    lengths = tf.maximum(tf.reduce_sum(tf.square(whitened), -1), np.finfo(dtype.name).eps)
    scaled = tf.where(weights < 0, weights * size / lengths, weights)
    lost = (1 - steady) * p.cc * (2 - p.cc)
    keep = 1 + p.c1 * lost - p.c1 - p.cmu * tf.reduce_sum(weights, -1, keepdims=True)
    covariance = self._mix(state.covariance, keep, p.c1, path, p.cmu * scaled, y)  # 47

    # Candidates that a caller replaced may overflow it; such a generation has failed.
    usable = tf.reduce_all(tf.math.is_finite(tf.reshape(covariance, [tf.shape(x)[0], -1])), -1)
    covariance = strategy.select(usable, covariance, state.covariance)
    covariance, axes, basis, size_of_c = self._decompose(state, covariance, p)
    step_size = sigma * change * size_of_c
    new = CMAESState(
      mean=state.mean + sigma * y_mean,  # 42
      # The step size stays above zero even if a search continues at its optimum for long.
      step_size=tf.maximum(step_size[:, 0], math.sqrt(np.finfo(dtype.name).tiny)),
      covariance=covariance,
      basis=basis,
      axes=axes,
      path_covariance=path / size_of_c,
      path_step=path_step,
      generation=state.generation + 1,
      best=best,
    )
    usable = tf.logical_and(usable, tf.reduce_any(valid > 0, -1))
    return strategy.select(usable, new, state)

  # The methods below differ between a full and a diagonal covariance. C = B diag(axes^2) B^T, with
  # B = I if separable.

  def _scale(self, state, z):
    """Computes C^1/2 z up to a rotation of z: B diag(axes) z."""
    y = z * state.axes[:, tf.newaxis]
    return y if self.separable else tf.matmul(y, state.basis, transpose_b=True)

  def _unscale(self, state, y):
    """Computes the inverse of `_scale`."""
    y = y if self.separable else tf.matmul(y, state.basis)
    return y / state.axes[:, tf.newaxis]

  def _rotate(self, state, z):
    return z if self.separable else tf.linalg.matvec(state.basis, z)

  def _mix(self, covariance, keep, c1, path, weights, y):
    """Computes keep C + c1 path path^T + sum_i weights_i y_i y_i^T."""
    if self.separable:
      added = tf.einsum("bn,bnd->bd", weights, tf.square(y))
      return keep * covariance + c1 * tf.square(path) + added
    # One matrix product over N + 1 steps computes both updates: Y^T W Y.
    steps = tf.concat([path[:, tf.newaxis], y], 1)
    all_weights = tf.concat(
      [tf.fill(tf.shape(weights[:, :1]), tf.constant(c1, y.dtype)), weights], 1
    )
    added = tf.matmul(all_weights[..., tf.newaxis] * steps, steps, transpose_a=True)
    covariance = keep[..., tf.newaxis] * covariance + added
    return (covariance + tf.linalg.matrix_transpose(covariance)) / 2

  def _as_covariance(self, covariance):
    """Converts a covariance or its diagonal to the form of this search."""
    if covariance.shape.rank == 3 and self.separable:
      return tf.linalg.diag_part(covariance)
    if covariance.shape.rank == 2 and not self.separable:
      return tf.linalg.diag(covariance)
    return covariance

  def _decompose(self, state, covariance, p):
    """Decomposes the rows whose decomposition is due; the others keep their last one."""
    if self.separable:
      return self._decomposed(covariance)
    size = covariance.shape[-1]
    every = self.decompose_every or max(1, int(1 / (10 * size * (p.c1 + p.cmu))))
    if every == 1:
      return self._decomposed(covariance)
    due = (state.generation + 1) % every == 0
    old = covariance, state.axes, state.basis, tf.ones_like(state.axes[:, :1])
    new = tf.cond(tf.reduce_any(due), lambda: self._decomposed(covariance), lambda: old)
    return strategy.select(due, new, old)

  def _decomposed(self, covariance):
    """Returns `covariance`, `axes`, `basis` and a factor `[B, 1]` for the step size.

    Two changes keep a long search within the range of its dtype. The diagonal is raised until the
    smallest eigenvalue exceeds the rounding error of the largest. C is divided by its mean
    eigenvalue, and the step size must be multiplied by the root of it, which is returned last. Only
    the product of the two matters, and each of them alone can grow or shrink without bound.
    """
    basis = ()
    eigenvalues = covariance
    if not self.separable:
      eigenvalues, basis = tf.linalg.eigh(covariance)
    largest = tf.reduce_max(eigenvalues, -1, keepdims=True)
    lowest = tf.reduce_min(eigenvalues, -1, keepdims=True)
    raised = tf.nn.relu(np.finfo(largest.dtype.name).eps * largest - lowest)
    mean = tf.reduce_mean(eigenvalues + raised, -1, keepdims=True)
    axes = tf.sqrt((eigenvalues + raised) / mean)
    if self.separable:
      return tf.square(axes), axes, basis, tf.sqrt(mean)
    lifted = tf.linalg.set_diag(covariance, tf.linalg.diag_part(covariance) + raised)
    return lifted / mean[..., tf.newaxis], axes, basis, tf.sqrt(mean)
