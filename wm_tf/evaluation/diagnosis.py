"""Diagnosis of a world model on held-out episodes and in its own dreams.

`quality.py` has the figures that every fit is checked by. This module has further ones: the
calibration of predicted rewards and terminations, and the influence of the action on dreams.
`open_loop.py` measures how accurate long dreams are, and `transfer.py` whether the dream ranks
controllers as the environment does.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from wm_tf import rng
from wm_tf.core import Batch, Nest
from wm_tf.evaluation.open_loop import as_observed
from wm_tf.imagination import imagine_returns, one_step, repeat_rows
from wm_tf.models.world_model import WorldModel
from wm_tf.policies.exploration import Brownian


def calibration(
  predicted: np.ndarray, real: np.ndarray, num_bins: int = 10, equal_mass: bool = False
) -> dict[str, Any]:
  """Sorts predictions into bins and compares the means of predicted and real values in each bin.

  Args:
    predicted: `float[S]`, means or probabilities.
    real: `float[S]` or `bool[S]`.
    num_bins: largest number of bins.
    equal_mass: whether bins have equal sums of predictions, which suits probabilities of rare
      events, instead of equal numbers of predictions.

  Returns:
    `bins`, in ascending order of the predictions, each with `count`, and the means `predicted` and
    `real`; `error`, the mean absolute difference over the bins, weighted by count; `bias`, the mean
    prediction minus the mean real value; `count` = S.
  """
  order = np.argsort(predicted, kind="stable")
  predicted, real = (np.asarray(x, np.float64)[order] for x in (predicted, real))
  weight = predicted if equal_mass and predicted.sum() > 0 else np.ones(len(predicted))
  position = (np.cumsum(weight) - weight / 2.0) / weight.sum()
  index = np.minimum((position * num_bins).astype(int), num_bins - 1)
  bins = [
    {
      "count": int((index == i).sum()),
      "predicted": float(predicted[index == i].mean()),
      "real": float(real[index == i].mean()),
    }
    for i in np.unique(index)
  ]
  error = sum(b["count"] * abs(b["predicted"] - b["real"]) for b in bins) / len(predicted)
  return {
    "bins": bins,
    "error": float(error),
    "bias": float(predicted.mean() - real.mean()),
    "count": len(predicted),
  }


class Outcomes(NamedTuple):
  """Predictions one step ahead of real states, and the real outcomes, of S steps."""

  predicted_reward: np.ndarray  # float32[S]
  reward: np.ndarray  # float32[S]
  predicted_end: np.ndarray  # float32[S], probability that the step terminates.
  end: np.ndarray  # bool[S]


def outcomes(world_model: WorldModel, episodes: Iterable[Batch]) -> Outcomes:
  """Predicts every step of real episodes from the real state before it.

  Args:
    world_model: the world model.
    episodes: batches of whole episodes from their first observation, raw or `Embedded`.

  Returns:
    Predictions and real values of all S steps.

  Raises:
    ValueError: if there is no step.
  """

  @tf.function(autograph=False)
  def predict(batch):
    _, predicted = one_step(world_model, batch, rng.make_seed(0), temperature=0.0)
    return predicted.reward, 1.0 - predicted.discount

  parts = []
  for batch in episodes:
    reward, end = predict(as_observed(world_model, batch))
    columns = (reward, batch.reward[:, 1:], end, batch.discount[:, 1:] == 0)
    mask = np.asarray(batch.mask)[:, 1:]
    parts.append([np.asarray(column)[mask] for column in columns])
  if not sum(len(part[0]) for part in parts):
    raise ValueError("There is no held-out episode to judge the dynamics by; collect more.")
  return Outcomes(*map(np.concatenate, zip(*parts, strict=True)))


# --- Actions --------------------------------------------------------------------------------------


def action_sensitivity(
  world_model: WorldModel,
  starts: Nest,
  horizon: int,
  seed: int,
  *,
  num_sequences: int = 16,
  num_dreams: int = 8,
  temperature: float = 1.0,
) -> dict[str, float]:
  """Splits the variance of dreamed returns into shares of the start, the actions, and chance.

  From each of M states the same `num_sequences` Brownian action sequences are dreamed, each
  `num_dreams` times. The shares follow from a nested analysis of variance with unbiased components.

  Args:
    world_model: the world model.
    starts: M real states, a nest of `[M, ...]`.
    horizon: number of decisions in a dream.
    seed: seed of the sequences and the noise.
    num_sequences: K, at least 2.
    num_dreams: R, at least 2.
    temperature: temperature of the dreams.

  Returns:
    The shares `start`, `action` and `chance` of the variance; `heard`, the share of the action in
    the variance for a given start; `range`, the mean difference of return between the best and the
    worst sequence from a state; `horizon`.
  """
  generator = np.random.default_rng(seed)
  walk = Brownian(world_model.action_size, num_choices=world_model.num_choices)
  sequences = np.clip(
    [list(itertools.islice(walk.actions(generator), horizon)) for _ in range(num_sequences)], -1, 1
  )
  num_starts = len(tf.nest.flatten(starts)[0])
  # Row ((m * K) + k) * R + r.
  rows = np.repeat(np.arange(num_starts), num_sequences * num_dreams)
  actions = np.tile(np.repeat(sequences, num_dreams, axis=0), [num_starts, 1, 1])
  actions = tf.constant(actions, tf.float32)

  @tf.function(autograph=False)
  def play(state):
    return imagine_returns(
      world_model,
      lambda t, state, memory: (tf.gather(actions, t, axis=1), memory),
      state,
      horizon,
      rng.make_seed(seed),
      temperature=temperature,
    ).imagined_return

  found = play(tf.nest.map_structure(lambda x: tf.gather(x, rows), starts)).numpy()
  return variance_shares(found.reshape(num_starts, num_sequences, num_dreams)) | {
    "horizon": horizon
  }


def variance_shares(returns: np.ndarray) -> dict[str, float]:
  """Computes the shares of `action_sensitivity` from returns.

  Args:
    returns: `float[M, K, R]`, over states, action sequences and dreams.

  Returns:
    `start`, `action`, `chance`, `heard` and `range`.
  """
  returns = np.asarray(returns, np.float64)
  by_action, num_dreams = returns.mean(2), returns.shape[2]
  chance = returns.var(axis=2, ddof=1).mean()
  within = by_action.var(axis=1, ddof=1).mean()
  action = max(0.0, within - chance / num_dreams)
  start = by_action.mean(1).var(ddof=1) if len(returns) > 1 else 0.0
  start = max(0.0, start - within / returns.shape[1])
  total = start + action + chance

  def share(part, whole) -> float:
    return float(part / whole) if whole > 0 else 0.0

  return {
    "start": share(start, total),
    "action": share(action, total),
    "chance": share(chance, total),
    "heard": share(action, action + chance),
    "range": float((by_action.max(1) - by_action.min(1)).mean()),
  }


def dream_actions(
  world_model: WorldModel, state: Nest, actions: Mapping[str, np.ndarray], steps: int, seed: int
) -> dict[str, Nest]:
  """Decodes dreams from one state, each with one action that is held.

  Args:
    world_model: the world model.
    state: a state, a nest of `[1, ...]`.
    actions: name to `float32[A]`.
    steps: number of steps.
    seed: seed of the noise, which all dreams share.

  Returns:
    Name to mean observations as of `WorldModel.decode`, with leading dimension `1 + steps`; the
    first one is that of `state`.
  """
  held = tf.constant(np.stack(list(actions.values())), tf.float32)
  state = repeat_rows(state, len(actions))
  noise = repeat_rows(world_model.draw_noise(1, steps, rng.make_seed(seed)), len(actions))
  decoded = [world_model.decode(state)]
  for t in range(steps):
    now = tf.nest.map_structure(lambda x, t=t: x[:, t], noise)
    state = world_model.imagine_with_noise(state, held, now, 0.1).state
    decoded.append(world_model.decode(state))
  stacked = tf.nest.map_structure(lambda *x: np.stack(x, axis=1), *decoded)
  return {
    name: tf.nest.map_structure(lambda x, i=i: x[i], stacked) for i, name in enumerate(actions)
  }
