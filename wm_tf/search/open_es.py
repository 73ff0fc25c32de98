"""OpenAI's evolution strategy: a search gradient from antithetic noise and ranked fitness."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import tensorflow as tf

from wm_tf.search import strategy


class OpenESState(NamedTuple):
  """The state of `OpenES`.

  Attributes:
    mean: `[B, D]`.
    scale: `[B]`, standard deviation of the noise.
    moment1, moment2: `[B, D]`, Adam's running means of the gradient and of its square.
    generation: `int32[B]`, number of generations so far.
    best: see `strategy.Best`.
  """

  mean: tf.Tensor
  scale: tf.Tensor
  moment1: tf.Tensor
  moment2: tf.Tensor
  generation: tf.Tensor
  best: strategy.Best


@dataclasses.dataclass(frozen=True)
class OpenES(strategy.MeanAndBest):
  """Maximises the expected ranked fitness of N(mean, scale^2 I) by gradient ascent with Adam.

  With ranks r in [-0.5, 0.5] and noise e_n = (x_n - mean) / scale, the gradient is
  g = sum_n r_n e_n / (N scale). A failed candidate ranks last, so the mean moves away from it.

  References:
    Salimans et al. 2017, "Evolution strategies as a scalable alternative to reinforcement
    learning", algorithm 1, with its antithetic noise, rank shaping, Adam and weight decay.
    Kingma & Ba 2015 (Adam).

  Attributes:
    num_candidates: N, even: half of the candidates mirror the others.
    initial_scale: standard deviation of the noise.
    scale_decay: factor on the standard deviation per generation.
    min_scale: lower bound of the standard deviation.
    learning_rate: learning rate of Adam, in units of x.
    learning_rate_decay: factor on the learning rate per generation.
    beta1, beta2, epsilon: parameters of Adam.
    weight_decay: share of the mean that is subtracted from the gradient.
  """

  num_candidates: int = 64
  initial_scale: float = 0.1
  scale_decay: float = 1.0
  min_scale: float = 0.01
  learning_rate: float = 0.05
  learning_rate_decay: float = 1.0
  beta1: float = 0.9
  beta2: float = 0.999
  epsilon: float = 1e-8
  weight_decay: float = 0.0

  def __post_init__(self):
    if self.num_candidates < 2 or self.num_candidates % 2:
      raise ValueError(f"num_candidates must be positive and even; got {self.num_candidates}.")
    for name in ("initial_scale", "scale_decay", "learning_rate", "learning_rate_decay"):
      if getattr(self, name) <= 0:
        raise ValueError(f"{name} must be positive; got {getattr(self, name)}.")

  def init(self, mean) -> OpenESState:
    """Returns the state of a new search. See `Strategy.init`."""
    mean = strategy.as_mean(mean)
    rows = tf.shape(mean)[:1]
    return OpenESState(
      mean=mean,
      scale=tf.fill(rows, tf.constant(self.initial_scale, mean.dtype)),
      moment1=tf.zeros_like(mean),
      moment2=tf.zeros_like(mean),
      generation=tf.zeros(rows, tf.int32),
      best=strategy.first_best(mean),
    )

  def ask(self, state: OpenESState, seed) -> tf.Tensor:
    """Returns candidates in mirrored pairs. See `Strategy.ask`."""
    mean, size = state.mean, state.mean.shape[1]

    def draw(num):
      return strategy.normal(seed, tf.shape(mean)[0], (num, size), mean.dtype)

    noise = strategy.mirror(draw, self.num_candidates, antithetic=True)
    x = mean[:, tf.newaxis] + state.scale[:, tf.newaxis, tf.newaxis] * noise
    return tf.ensure_shape(x, (mean.shape[0], self.num_candidates, size))

  def tell(self, state: OpenESState, x, fitness) -> OpenESState:
    """Takes one step of Adam. See `Strategy.tell`."""
    x, fitness = strategy.validate_tell_args(state, x, fitness)
    gradient = self.gradient(state, x, fitness) - self.weight_decay * state.mean
    generation = state.generation + 1
    time = tf.cast(generation, x.dtype)[:, tf.newaxis]
    moment1 = self.beta1 * state.moment1 + (1 - self.beta1) * gradient
    moment2 = self.beta2 * state.moment2 + (1 - self.beta2) * tf.square(gradient)
    corrected1 = moment1 / (1 - tf.pow(tf.constant(self.beta1, x.dtype), time))
    corrected2 = moment2 / (1 - tf.pow(tf.constant(self.beta2, x.dtype), time))
    decay = tf.pow(tf.constant(self.learning_rate_decay, x.dtype), time - 1)
    step = self.learning_rate * decay * corrected1 / (tf.sqrt(corrected2) + self.epsilon)
    new = OpenESState(
      mean=state.mean + step,
      scale=tf.maximum(state.scale * self.scale_decay, self.min_scale),
      moment1=moment1,
      moment2=moment2,
      generation=generation,
      best=strategy.keep_better(state.best, x, fitness),
    )
    return strategy.select(tf.reduce_any(strategy.success(fitness) > 0, -1), new, state)

  def gradient(self, state: OpenESState, x, fitness) -> tf.Tensor:
    """Estimates the gradient of the ranked fitness at the mean.

    Args:
      state: the current state.
      x: candidates `[B, N, D]`.
      fitness: `[B, N]`.

    Returns:
      `[B, D]`.
    """
    x, fitness = strategy.validate_tell_args(state, x, fitness)
    scale = state.scale[:, tf.newaxis, tf.newaxis]
    noise = (x - state.mean[:, tf.newaxis]) / scale
    ranks = strategy.centred_ranks(fitness)[..., tf.newaxis]
    return tf.reduce_mean(ranks * noise / scale, 1)
