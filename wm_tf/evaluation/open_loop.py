"""Accuracy of dreams along real actions, by number of steps, compared with simple predictions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from wm_tf import rng
from wm_tf.core import Batch, Embedded, Nest, ObservationPart, ObservationSpec
from wm_tf.evaluation.quality import BURN_IN, OPEN_LOOP_STEPS, burn_in_of
from wm_tf.imagination import make_observer
from wm_tf.models.world_model import WorldModel
from wm_tf.nests import time_major


def psnr(squared_error: float) -> float:
  """Returns the peak signal-to-noise ratio of pixels in [0, 1].

  Args:
    squared_error: mean squared error of the pixels.

  Returns:
    The ratio in dB, at most 100.
  """
  return float(-10.0 * np.log10(max(squared_error, 1e-10)))


def as_observed(world_model: WorldModel, batch: Batch) -> Batch:
  """Embeds the observations of a batch, one episode at a time to save memory.

  Args:
    world_model: the world model.
    batch: a batch with raw or `Embedded` observations; the latter is returned as it is.

  Returns:
    The batch with `Embedded` observations, `float32[B, T, E]`.
  """
  if isinstance(batch.observation, Embedded):
    return batch
  num_rows = len(batch.mask)
  rows = [
    world_model.embed(tf.nest.map_structure(lambda x, i=i: x[i], batch.observation)).value
    for i in range(num_rows)
  ]
  return batch._replace(observation=Embedded(tf.stack(rows)))


class _Errors:
  """Squared errors of several predictions of a quantity, and of the best constant prediction.

  A quantity may have several parts, over whose numbers errors are averaged.
  """

  def __init__(self):
    self.count = 0
    self._errors: dict[str, dict[str, np.ndarray]] = {}  # Part to prediction to sums `[...]`.
    self._sums: dict[str, Any] = {}
    self._squares: dict[str, Any] = {}

  def add(self, keep: np.ndarray, real, part: str = "", **answers) -> None:
    """Adds a batch.

    Args:
      keep: `bool[N]`, rows to use.
      real: real values `[N, ...]`.
      part: name of the part.
      **answers: name of the prediction to its values `[N, ...]`.
    """
    real = np.asarray(real, np.float64)[keep]
    if not self._errors or part == next(iter(self._errors)):
      self.count += len(real)
    self._sums[part] = self._sums.get(part, 0.0) + real.sum(0)
    self._squares[part] = self._squares.get(part, 0.0) + np.square(real).sum(0)
    errors = self._errors.setdefault(part, {})
    for name, answer in answers.items():
      error = np.square(np.asarray(answer)[keep] - real).sum(0)
      errors[name] = errors.get(name, 0.0) + error

  def _with_constant(self, part: str) -> dict[str, np.ndarray]:
    """Returns the errors of a part, including `mean`: those of the mean of all real values."""
    sums, squares = self._sums[part], self._squares[part]
    return {**self._errors[part], "mean": np.maximum(squares - np.square(sums) / self.count, 0.0)}

  def means(self) -> dict[str, float]:
    """Returns the mean squared error per number of each prediction, with the constant `mean`."""
    size = self.count * sum(np.size(x) for x in self._sums.values())
    parts = [self._with_constant(part) for part in self._errors]
    return {name: float(sum(np.sum(p[name]) for p in parts) / size) for name in parts[0]}

  def shares(self) -> dict[str, float]:
    """Returns each prediction's squared error in units of the variance, over numbers that vary."""
    parts = [self._with_constant(part) for part in self._errors]
    varies = [part["mean"] > 1e-12 * self.count for part in parts]
    count = max(1, sum(int(v.sum()) for v in varies))
    return {
      name: float(
        sum((p[name][v] / p["mean"][v]).sum() for p, v in zip(parts, varies, strict=True)) / count
      )
      for name in parts[0]
    }


def open_loop(
  world_model: WorldModel,
  episodes: Iterable[Batch],
  observation: ObservationSpec,
  *,
  burn_in: int = BURN_IN,
  spacing: int = 10,
  seed: int = 0,
) -> dict[str, Any]:
  """Dreams along the real actions at temperature 0, from many steps, and compares with reality.

  Args:
    world_model: the world model.
    episodes: batches of whole episodes from their first observation, raw.
    observation: specification of the observations.
    burn_in: number of observed steps before the first dream of an episode; fewer in short episodes.
    spacing: number of steps between the starts of two dreams.
    seed: seed of the remaining noise at temperature 0.

  Returns:
    Values by number of steps (as a string; without those that no episode is long enough for):
    `num_dreams`;
    `latent`, mean squared errors per latent dimension in standardised units, of `dream`, `still`
    (the state before the dream), `mean` (the mean of the real latents) and `other_actions` (a dream
    along the actions of another start);
    `psnr`, if there are images, in dB of decoded images: `dream`, `still` (the last real image),
    `mean` and `reconstruction` (the decoded real state, an upper bound on what a dream can reach);
    `observation`, if there are vectors: squared errors of the same predictions in units of the
    variance;
    `reward_r2` of the sum of rewards (None if all sums are equal).

  Raises:
    ValueError: if no dream has a step to compare.
  """
  horizon = max(OPEN_LOOP_STEPS)
  observe = make_observer(world_model, rng.make_seed(seed))
  dream = _make_dream(world_model, horizon, seed)
  decode = tf.function(world_model.decode, reduce_retracing=True, autograph=False)
  latent = world_model.diagnostic_latent
  latents, images, vectors, rewards = ({k: _Errors() for k in OPEN_LOOP_STEPS} for _ in range(4))
  for batch in episodes:
    states = observe(as_observed(world_model, batch))
    mask, last = np.asarray(batch.mask), batch.mask.shape[1] - 1
    first = burn_in_of(mask, burn_in)
    row, start = np.nonzero(mask[:, first + 1 :: spacing])
    if not len(row):
      continue
    start = first + start * spacing
    # A dream continues past the end of its episode along arbitrary actions; those steps are unused.
    time = start[:, np.newaxis] + np.arange(1, horizon + 1)
    path = (row[:, np.newaxis], np.minimum(time, last))
    valid = mask[path] & (time <= last)
    real_return = np.cumsum(np.asarray(batch.reward)[path], axis=1)
    actions = np.asarray(batch.prev_action)[path]
    now = _rows(states, row, start)
    dreamed, dreamed_return = dream(now, actions)
    elsewhere, _ = dream(now, np.roll(actions, len(actions) // 2, axis=0))
    observed = [_in_units(part, value) for part, value in _parts(observation, batch.observation)]
    for k in OPEN_LOOP_STEPS:
      keep, then = valid[:, k - 1], np.minimum(start + k, last)
      real = _rows(states, row, then)
      answer, other = (
        tf.nest.map_structure(lambda x, k=k: x[k - 1], s) for s in (dreamed, elsewhere)
      )
      latents[k].add(
        keep,
        latent(real),
        dream=latent(answer),
        still=latent(now),
        other_actions=latent(other),
      )
      decoded = zip(*(_parts(observation, decode(x)) for x in (answer, real)), strict=True)
      for values, ((part, dream_mean), (_, real_mean)) in zip(observed, decoded, strict=True):
        (images if part.kind == "image" else vectors)[k].add(
          keep,
          values[row, then],
          part=part.name,
          dream=dream_mean,
          still=values[row, start],
          reconstruction=real_mean,
        )
      rewards[k].add(keep, real_return[:, k - 1], dream=dreamed_return[k - 1])
  known = [k for k in OPEN_LOOP_STEPS if latents[k].count]
  if not known:
    raise ValueError(
      "No held-out episode is long enough for a dream in it; collect more, or hold more of them "
      "out."
    )
  found = {
    "num_dreams": {str(k): latents[k].count for k in known},
    "latent": _by_answer({str(k): latents[k].means() for k in known}, float),
    "reward_r2": {str(k): _explained(rewards[k].means()) for k in known},
  }
  if observation.images:
    found["psnr"] = _by_answer({str(k): images[k].means() for k in known}, psnr)
  if observation.vectors:
    found["observation"] = _by_answer({str(k): vectors[k].shares() for k in known}, float)
  return found


def _parts(observation: ObservationSpec, values: Nest) -> list[tuple[ObservationPart, Any]]:
  return list(zip(observation.parts, observation.unpack(values), strict=True))


def _in_units(part: ObservationPart, values: Any) -> np.ndarray:
  """Returns values in the units that a world model decodes to; images are in [0, 1]."""
  values = np.asarray(values)
  return values / np.float32(255.0) if part.kind == "image" else values


def _explained(errors: Mapping[str, float]) -> float | None:
  return 1.0 - errors["dream"] / errors["mean"] if errors["mean"] else None


def _by_answer(table: Mapping[str, Mapping[str, float]], figure: Callable[[float], float]):
  """Turns `{steps: {answer: error}}` into `{answer: {steps: figure(error)}}`."""
  answers = next(iter(table.values()))
  return {a: {steps: figure(errors[a]) for steps, errors in table.items()} for a in answers}


def _make_dream(world_model: WorldModel, horizon: int, seed: int) -> Callable[..., Any]:
  """Returns a function of states `[N, ...]` and actions `[N, H, A]` that dreams along the actions.

  Its results are the states `[H, N, ...]`, and the sums of rewards so far, `float32[H, N]`.
  """

  @tf.function(reduce_retracing=True, autograph=False)
  def dream(state, actions):
    actions = tf.cast(actions, tf.float32)
    noise = world_model.draw_noise(tf.shape(actions)[0], horizon, rng.make_seed(seed))

    def step(carry, inputs):
      state, alive, total = carry
      predicted = world_model.imagine_with_noise(state, *inputs, 0.0)
      return predicted.state, alive * predicted.discount, total + alive * predicted.reward

    ones = tf.ones(tf.shape(actions)[:1])
    inputs = time_major((actions, noise))
    states, _, total = tf.scan(step, inputs, initializer=(state, ones, tf.zeros_like(ones)))
    return states, total

  return dream


def _rows(nest: Nest, row: np.ndarray, time: np.ndarray) -> Nest:
  """Gathers the entries `(row[N], time[N])` of a nest of `[B, T, ...]` into `[N, ...]`."""
  return tf.nest.map_structure(lambda x: tf.gather_nd(x, np.stack([row, time], axis=1)), nest)
