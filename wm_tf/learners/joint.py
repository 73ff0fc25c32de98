"""Updates of a jointly trained world model, and of an actor and a critic in its dreams.

References:
  Hafner et al. 2020, arXiv:1912.01603, algorithm 1, "Dynamics learning" and "Behavior learning".
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import tensorflow as tf

from wm_tf import rng
from wm_tf.core import Batch, Nest
from wm_tf.learners.actor_critic import ActorCritic
from wm_tf.learners.actor_rollouts import Replayed, replayed_starts
from wm_tf.learners.optimizers import Schedule, make_adam
from wm_tf.models.rssm import RSSM
from wm_tf.training.adam import FusedAdam


class JointMetrics(NamedTuple):
  """Metrics of one update.

  Attributes:
    model: scalars of the world model by name: the loss, `gradient_norm`, and those of its `loss`.
    learner: the learner's `Update`.
    finite: `bool[]`, whether the world model's gradient was finite and was applied.
  """

  model: dict[str, tf.Tensor]
  learner: Any
  finite: tf.Tensor


class _Observed(NamedTuple):
  """What the learner's part of an update takes; the arguments of `ActorCritic.update`."""

  starts: Nest
  seed: tf.Tensor
  allowed: tf.Tensor
  replayed: Replayed


class JointUpdate:
  """Updates a world model on replayed sequences, then the learner from its posterior states.

  Dreams start from the posteriors of the same sequences, so that these are observed once. They do
  not start from terminal states.

  The learner's part of an update and the world model's part of the next one need the same weights
  of the world model and change different ones. `run` computes the two at the same time, which uses
  a second processor core; the results are those of one after the other.

  Attributes:
    optimizer: the world model's optimiser.
  """

  def __init__(
    self,
    model: RSSM,
    learner: ActorCritic,
    *,
    learning_rate: float | Schedule,
    clip_norm: float,
    seed: int,
  ):
    """Makes an update.

    Args:
      model: the world model.
      learner: learns in its dreams.
      learning_rate: learning rate of the world model, or a `Schedule`.
      clip_norm: bound on the norm of the world model's gradient.
      seed: seed of all random numbers; those of an update also depend on its number.
    """
    self._model, self._learner = model, learner
    self._seed = rng.make_seed(seed)
    self._clip_norm = clip_norm
    self.optimizer = make_adam(model.trainable_variables, learning_rate, None, FusedAdam)
    # XLA makes loops over small products several times as fast, and convolutions slower.
    self._has_images = bool(model.observation.images)
    self._gradients = tf.function(
      self._compute_gradients, jit_compile=not self._has_images, autograph=False
    )
    self._clipped = tf.function(self._clip, jit_compile=True, autograph=False)
    self._observe_fn, self._dream_fn, self._dream_and_observe_fn = (
      tf.function(function, autograph=False)
      for function in (self._observe, self._dream, self._dream_and_observe)
    )

  def __call__(self, batch: Batch, index: int) -> JointMetrics:
    """Runs one update.

    Args:
      batch: sequences `[B, T, ...]`; always of the same size.
      index: number of the update, from 0.

    Returns:
      Its metrics.
    """
    (metrics,) = self.run([batch], index)
    return metrics

  def run(self, batches: Iterable[Batch], index: int) -> Iterator[JointMetrics]:
    """Runs several updates, with the same results as one call for each.

    All updates are complete when the iterator is exhausted.

    Args:
      batches: the sequences of each update; see `__call__`.
      index: number of the first update.

    Yields:
      The metrics of each update.
    """
    observed = metrics = None
    for number, batch in enumerate(batches, index):
      batch = tf.nest.map_structure(tf.constant, batch)
      number = tf.constant(number, tf.int64)
      if observed is None:
        metrics, observed = self._observe_fn(batch, number)
        continue
      found, following, observed = self._dream_and_observe_fn(observed, batch, number)
      yield JointMetrics(metrics[0], found, metrics[1])
      metrics = following
    if observed is not None:
      yield JointMetrics(metrics[0], self._dream_fn(observed), metrics[1])

  def _observe(self, batch: Batch, index: tf.Tensor):
    """Updates the world model; returns its metrics, whether it was updated, and `_Observed`."""
    model_seed, dream_seed = rng.split(rng.fold_in(self._seed, index), 2)
    # Outside of XLA, which draws random numbers many times more slowly.
    noise = self._model.draw_noise(*batch.mask.shape, model_seed)
    gradients, finite, metrics, states = self._gradients(batch, noise)
    self.optimizer.apply(gradients)
    starts, allowed = replayed_starts(states, batch.mask, batch.discount)
    replayed = Replayed(
      self._model.features(states), batch.reward, batch.discount, batch.is_first, batch.mask
    )
    return (metrics, finite), _Observed(starts, dream_seed, allowed, replayed)

  def _dream(self, observed: _Observed):
    return self._learner.update(*observed)

  def _dream_and_observe(self, observed: _Observed, batch: Batch, index: tf.Tensor):
    # TensorFlow runs both side by side. Only the assignment of the world model's new weights waits,
    # until the dreams do not need the old ones.
    found = self._dream(observed)
    return found, *self._observe(batch, index)

  def _compute_gradients(self, batch: Batch, noise: tf.Tensor):
    with tf.GradientTape() as tape:
      loss, metrics, states = self._model.loss_and_states(batch, noise, self._has_images)
    variables = [variable.value for variable in self._model.trainable_variables]
    gradients = tape.gradient(loss, variables, unconnected_gradients="zero")
    gradients, norm, finite = self._clipped(gradients, loss)
    return gradients, finite, {"loss": loss, **metrics, "gradient_norm": norm}, states

  def _clip(self, gradients: list[tf.Tensor], loss: tf.Tensor):
    """Returns the clipped gradients, zeros unless all is finite; their norm; and whether it is."""
    norm = tf.linalg.global_norm(gradients)
    finite = tf.math.is_finite(loss) & tf.math.is_finite(norm)
    clipped, _ = tf.clip_by_global_norm(gradients, self._clip_norm, norm)
    return [tf.where(finite, x, 0.0) for x in clipped], norm, finite
