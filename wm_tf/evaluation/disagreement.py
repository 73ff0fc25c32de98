"""Disagreement of an ensemble's members: on its data, on real episodes of a policy, and in dreams.

Dreams in which the members disagree more than on the data are not supported by the data. Returns
there may not be reproduced in the environment.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import tensorflow as tf

from wm_tf import rng
from wm_tf.core import Batch, Nest, Policy
from wm_tf.evaluation.open_loop import as_observed
from wm_tf.imagination import one_step
from wm_tf.models.ensemble import Ensemble
from wm_tf.models.world_model import WorldModel
from wm_tf.nests import time_major

# A tenth of the data's own steps count as unfamiliar. The maximum would depend on a single step.
_USUAL_QUANTILE = 0.9


def along(world_model: WorldModel, episodes: Iterable[Batch]) -> np.ndarray:
  """Measures the disagreement about each step of real episodes, predicted from the state before it.

  Args:
    world_model: an ensemble.
    episodes: batches of whole episodes from their first observation, raw or `Embedded`.

  Returns:
    `float32[S]`, for all S steps of the episodes.

  Raises:
    ValueError: if there is no step.
  """

  @tf.function(autograph=False)
  def predict(batch):
    _, predicted = one_step(world_model, batch, rng.make_seed(0))
    return predicted.disagreement

  parts = [
    predict(as_observed(world_model, batch)).numpy()[np.asarray(batch.mask)[:, 1:]]
    for batch in episodes
  ]
  if not sum(map(len, parts)):
    raise ValueError("There is no step of a real episode to measure the disagreement on.")
  return np.concatenate(parts)


def calibrate(world_model: Ensemble, episodes: Iterable[Batch]) -> None:
  """Sets `usual_disagreement` to the 0.9 quantile of the disagreement on real episodes.

  Args:
    world_model: an ensemble that has been fitted; it is changed.
    episodes: the episodes that it was fitted to, as for `along`.
  """
  usual = np.quantile(along(world_model, episodes), _USUAL_QUANTILE)
  world_model.usual_disagreement.assign(usual.astype(np.float32))


def in_dreams(
  world_model: WorldModel, policy: Policy, starts: Nest, num_decisions: int, seed: int
) -> np.ndarray:
  """Measures the disagreement about each step that a policy takes in dreams.

  Args:
    world_model: an ensemble.
    policy: the policy that plays.
    starts: R states, a nest of `[R, ...]`.
    num_decisions: length of a dream. Steps are left out where the probability that the episode has
      not terminated before is at most 0.5.
    seed: seed of the dreams.

  Returns:
    `float32[S]`, for all S steps that are not left out.
  """

  @tf.function(autograph=False)
  def play(state, seed):
    rows = tf.shape(tf.nest.flatten(state)[0])[0]
    act_seed, dream_seed = rng.split(seed, 2)
    noise = world_model.draw_noise(rows, num_decisions, dream_seed)

    def step(before, inputs):
      t, noise = inputs
      state, memory, _, alive = before
      action, memory = policy.act(state, memory, rng.fold_in(act_seed, t))
      found = world_model.imagine_with_noise(state, action, noise)
      return found.state, memory, found.disagreement, alive * found.discount

    first = (state, policy.initial_memory(rows), tf.zeros([rows]), tf.ones([rows]))
    inputs = tf.range(num_decisions), time_major(noise)
    _, _, disagreement, alive = tf.scan(step, inputs, initializer=first)
    return disagreement, alive

  disagreement, alive = play(starts, rng.make_seed(seed))
  before = np.concatenate([np.ones_like(alive[:1]), alive[:-1]])
  return disagreement.numpy()[before > 0.5]


def figures(samples: Mapping[str, np.ndarray]) -> dict[str, dict[str, float]]:
  """Summarises samples of disagreement.

  Args:
    samples: name of the sample to `float32[S]`.

  Returns:
    `median`, `mean`, `p90` (the 0.9 quantile) and `count` of each sample, by its name.
  """
  return {
    name: {
      "median": float(np.median(values)),
      "mean": float(np.mean(values)),
      "p90": float(np.quantile(values, 0.9)),
      "count": len(values),
    }
    for name, values in samples.items()
  }
