"""What a world model is worth and where it fails, on held-out episodes and in its own dreams.

`evaluation.py` has the few figures that every fit is judged by; this has the rest of what one asks
of a model that disappoints: how far dreams hold and against which simple answers, whether reward
and termination mean what they say, and whether the dream listens to the action. Whether what is
better in the dream is better in the environment is a matter of its own: `transfer.py`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from wm_tf import rng
from wm_tf.core import Batch, Embedded, Nest
from wm_tf.evaluation import BURN_IN, OPEN_LOOP_STEPS
from wm_tf.imagination import imagine_returns, observe_sequence, one_step, repeat_rows
from wm_tf.models.world_model import WorldModel, to_uint8
from wm_tf.policies.exploration import Brownian


def calibration(
  predicted: np.ndarray, real: np.ndarray, num_bins: int = 10, equal_mass: bool = False
) -> dict[str, Any]:
  """Sorts predictions into bins and compares each bin's mean with what came.

  Args:
    predicted: `float[S]`, means or probabilities.
    real: `float[S]` or `bool[S]`.
    num_bins: at most so many bins.
    equal_mass: bins of equally many predicted events, for probabilities of rare ones, instead of
      equally many predictions.

  Returns:
    `bins`, of `count`, `predicted` and `real` each, from the lowest predictions to the highest;
    `error`, the mean absolute difference over the bins, weighted by count; `bias`, the mean of all
    predictions minus that of what came; `count`.
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


def psnr(squared_error: float) -> float:
  """Peak signal-to-noise ratio in dB of a mean squared error of pixels in [0, 1]."""
  return float(-10.0 * np.log10(max(squared_error, 1e-10)))


class Outcomes(NamedTuple):
  """What was foretold of S steps, one step ahead of real states, and what came."""

  predicted_reward: np.ndarray  # float32[S]
  reward: np.ndarray  # float32[S]
  predicted_end: np.ndarray  # float32[S], the probability that the step terminates.
  end: np.ndarray  # bool[S]


def outcomes(world_model: WorldModel, episodes: Iterable[Batch]) -> Outcomes:
  """Foretells every step of real episodes from the real state before it.

  Args:
    world_model: any.
    episodes: whole episodes from their first frame, of frames or cached posteriors.

  Raises:
    ValueError: if there is no step.
  """

  @tf.function
  def foretell(batch):
    _, predicted = one_step(world_model, batch, rng.make_seed(0), temperature=0.0)
    return predicted.reward, 1.0 - predicted.discount

  parts = []
  for batch in episodes:
    reward, end = foretell(as_observed(world_model, batch))
    columns = (reward, batch.reward[:, 1:], end, batch.discount[:, 1:] == 0)
    mask = np.asarray(batch.mask)[:, 1:]
    parts.append([np.asarray(column)[mask] for column in columns])
  if not sum(len(part[0]) for part in parts):
    raise ValueError("There is no held-out episode to judge the dynamics by; collect more.")
  return Outcomes(*map(np.concatenate, zip(*parts, strict=True)))


def as_observed(world_model: WorldModel, batch: Batch) -> Batch:
  """Embeds the observations of a batch once, one episode at a time."""
  if isinstance(batch.observation, Embedded):
    return batch
  num_rows = len(batch.mask)
  rows = [
    world_model.embed(tf.nest.map_structure(lambda x, i=i: x[i], batch.observation)).value
    for i in range(num_rows)
  ]
  return batch._replace(observation=Embedded(tf.stack(rows)))


class _Errors:
  """Squared errors of several answers to one question, and of the best constant answer to it."""

  def __init__(self):
    self.count, self._errors, self._sum, self._squares = 0, {}, 0.0, 0.0

  def add(self, keep: np.ndarray, real, **answers) -> None:
    """Takes `real[N, ...]` and answers of its shape, of which `keep[N]` count."""
    real = np.asarray(real, np.float64)[keep]
    self.count += len(real)
    self._sum = self._sum + real.sum(0)
    self._squares = self._squares + np.square(real).sum(0)
    for name, answer in answers.items():
      error = np.square(np.asarray(answer)[keep] - real).sum()
      self._errors[name] = self._errors.get(name, 0.0) + error

  def means(self) -> dict[str, float]:
    """Mean squared error per number of each answer, and of the mean of all of `real`: `mean`."""
    size = self.count * np.size(self._sum)
    constant = np.maximum(self._squares - np.square(self._sum) / self.count, 0.0).sum()
    return {name: float(e / size) for name, e in {**self._errors, "mean": constant}.items()}


def open_loop(
  world_model: WorldModel,
  episodes: Iterable[Batch],
  *,
  burn_in: int = BURN_IN,
  spacing: int = 10,
  seed: int = 0,
) -> dict[str, Any]:
  """Dreams along the real actions from many places, at temperature 0, and what came.

  Args:
    world_model: whose state has a field `z`, and which has `latent_scale`.
    episodes: whole episodes from their first frame, as frames `uint8[B, T, 64, 64, 3]`.
    burn_in: real steps before the first dream of an episode.
    spacing: steps from one dream's start to the next one's.
    seed: of what little noise a dream at temperature 0 has.

  Returns:
    By number of steps (as a string; missing where no episode is so long):
    `num_dreams`; `latent`, mean squared errors per latent dimension in standardised units of
    `dream`, of `still` (predicting no change), of `mean` (that of the very latents asked for) and
    of `other_actions` (a dream along the actions of another place); `psnr` in dB of decoded frames
    against the real ones, of `dream`, `still` (the last frame seen), `mean` and `reconstruction`
    (what the model makes of the very frame: no dream can be expected to do better); `reward_r2` of
    the sum of rewards up to there (None if it is always the same).

  Raises:
    ValueError: if no dream has a step to be judged by.
  """
  horizon = max(OPEN_LOOP_STEPS)
  observe = tf.function(lambda batch: observe_sequence(world_model, batch, rng.make_seed(seed)))
  dream = _make_dream(world_model, horizon, seed)
  decode = tf.function(world_model.decode, reduce_retracing=True)
  scale = world_model.latent_scale.numpy()
  latents, frames, rewards = ({k: _Errors() for k in OPEN_LOOP_STEPS} for _ in range(3))
  for batch in episodes:
    states = observe(as_observed(world_model, batch))
    mask, last = np.asarray(batch.mask), batch.mask.shape[1] - 1
    row, start = np.nonzero(mask[:, burn_in + 1 :: spacing])
    if not len(row):
      continue
    start = burn_in + start * spacing
    # Past the end of an episode a dream goes on along any action, and is not judged.
    time = start[:, np.newaxis] + np.arange(1, horizon + 1)
    path = (row[:, np.newaxis], np.minimum(time, last))
    valid = mask[path] & (time <= last)
    real_return = np.cumsum(np.asarray(batch.reward)[path], axis=1)
    actions = np.asarray(batch.prev_action)[path]
    now = _rows(states, row, start)
    dreamed, dreamed_return = dream(now, actions)
    elsewhere, _ = dream(now, np.roll(actions, len(actions) // 2, axis=0))
    pixels = np.asarray(batch.observation)
    seen = pixels[row, start] / np.float32(255.0)
    for k in OPEN_LOOP_STEPS:
      keep, then = valid[:, k - 1], np.minimum(start + k, last)
      real = _rows(states, row, then)
      answer, other = (
        tf.nest.map_structure(lambda x, k=k: x[k - 1], s) for s in (dreamed, elsewhere)
      )
      latents[k].add(
        keep,
        real.z / scale,
        dream=answer.z / scale,
        still=now.z / scale,
        other_actions=other.z / scale,
      )
      frames[k].add(
        keep,
        pixels[row, then] / np.float32(255.0),
        dream=decode(answer),
        still=seen,
        reconstruction=decode(real),
      )
      rewards[k].add(keep, real_return[:, k - 1], dream=dreamed_return[k - 1])
  known = [k for k in OPEN_LOOP_STEPS if latents[k].count]
  if not known:
    raise ValueError(
      f"No held-out episode goes on after the {burn_in} decisions that a dream is burnt in on; "
      "collect more, or hold more of them out."
    )
  unexplained = lambda e: 1.0 - e["dream"] / e["mean"] if e["mean"] else None
  return {
    "num_dreams": {str(k): latents[k].count for k in known},
    "latent": _by_answer({str(k): latents[k].means() for k in known}, float),
    "psnr": _by_answer({str(k): frames[k].means() for k in known}, psnr),
    "reward_r2": {str(k): unexplained(rewards[k].means()) for k in known},
  }


def _by_answer(table: Mapping[str, Mapping[str, float]], figure: Callable[[float], float]):
  """Turns `{steps: {answer: error}}` into `{answer: {steps: figure(error)}}`."""
  answers = next(iter(table.values()))
  return {a: {steps: figure(errors[a]) for steps, errors in table.items()} for a in answers}


def _make_dream(world_model: WorldModel, horizon: int, seed: int) -> Callable[..., Any]:
  """A function of states `[N]` and actions `[N, H, A]` to states `[H, N]` and returns `[H, N]`."""
  time_major = lambda x: tf.transpose(x, [1, 0, *range(2, x.shape.rank)])

  @tf.function(reduce_retracing=True)
  def dream(state, actions):
    actions = tf.cast(actions, tf.float32)
    noise = world_model.draw_noise(tf.shape(actions)[0], horizon, rng.make_seed(seed))

    def step(carry, inputs):
      state, alive, total = carry
      predicted = world_model.imagine_with_noise(state, *inputs, 0.0)
      return predicted.state, alive * predicted.discount, total + alive * predicted.reward

    ones = tf.ones(tf.shape(actions)[:1])
    inputs = tf.nest.map_structure(time_major, (actions, noise))
    states, _, total = tf.scan(step, inputs, initializer=(state, ones, tf.zeros_like(ones)))
    return states, total

  return dream


def _rows(nest: Nest, row: np.ndarray, time: np.ndarray) -> Nest:
  """Places `(row[N], time[N])` of a nest of `[B, T, ...]`."""
  return tf.nest.map_structure(lambda x: tf.gather_nd(x, np.stack([row, time], axis=1)), nest)


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
  """Splits the variance of dreamed returns into where, what was done, and chance.

  From each of M states the same `num_sequences` Brownian action sequences are dreamed, each
  `num_dreams` times: a nested analysis of variance with unbiased components.

  Args:
    world_model: any.
    starts: M real states.
    horizon: decisions of a dream.
    seed: of sequences and noise.
    num_sequences, num_dreams: see above; at least 2 each.
    temperature: of the dreams.

  Returns:
    Shares `start`, `action` and `chance` of the variance; `heard`, the share of the action in the
    variance that is left once the start is known; `range`, the mean difference of return between
    the best and the worst sequence from a state; `horizon`.
  """
  generator = np.random.default_rng(seed)
  walk = Brownian(world_model.action_size)
  sequences = np.clip(
    [list(itertools.islice(walk.actions(generator), horizon)) for _ in range(num_sequences)], -1, 1
  )
  num_starts = len(tf.nest.flatten(starts)[0])
  # Row ((m * K) + k) * R + r.
  rows = np.repeat(np.arange(num_starts), num_sequences * num_dreams)
  actions = np.tile(np.repeat(sequences, num_dreams, axis=0), [num_starts, 1, 1])
  actions = tf.constant(actions, tf.float32)

  @tf.function
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
  """The figures of `action_sensitivity` of returns `[M, K, R]`: states, sequences, dreams."""
  returns = np.asarray(returns, np.float64)
  by_action, num_dreams = returns.mean(2), returns.shape[2]
  chance = returns.var(axis=2, ddof=1).mean()
  within = by_action.var(axis=1, ddof=1).mean()
  action = max(0.0, within - chance / num_dreams)
  start = by_action.mean(1).var(ddof=1) if len(returns) > 1 else 0.0
  start = max(0.0, start - within / returns.shape[1])
  total = start + action + chance
  share = lambda part, whole: float(part / whole) if whole > 0 else 0.0
  return {
    "start": share(start, total),
    "action": share(action, total),
    "chance": share(chance, total),
    "heard": share(action, action + chance),
    "range": float((by_action.max(1) - by_action.min(1)).mean()),
  }


def dream_actions(
  world_model: WorldModel, state: Nest, actions: Mapping[str, np.ndarray], steps: int, seed: int
) -> dict[str, np.ndarray]:
  """Decoded dreams from one state under one held action each.

  Args:
    world_model: any.
    state: of one row.
    actions: name to `float32[A]`.
    steps: how many.
    seed: of the noise, which the dreams share.

  Returns:
    Name to frames `uint8[1 + steps, 64, 64, 3]`, the state's own first.
  """
  held = tf.constant(np.stack(list(actions.values())), tf.float32)
  first = repeat_rows(state, len(actions))
  noise = repeat_rows(world_model.draw_noise(1, steps, rng.make_seed(seed)), len(actions))
  frames = [to_uint8(world_model.decode(first))]
  for t in range(steps):
    now = tf.nest.map_structure(lambda x, t=t: x[:, t], noise)
    first = world_model.imagine_with_noise(first, held, now, 0.1).state
    frames.append(to_uint8(world_model.decode(first)))
  return dict(zip(actions, np.stack(frames, axis=1), strict=True))
