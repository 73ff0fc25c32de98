"""Quality of fitted models on held-out data, and the gates that stop a run with a bad model."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import tensorflow as tf

from wm_tf import rng
from wm_tf.core import Batch, Nest, ObservationPart, ObservationSpec
from wm_tf.imagination import observe_sequence, one_step
from wm_tf.models.observations import to_float
from wm_tf.models.vae import VAE, kl_to_standard_normal
from wm_tf.models.world_model import WorldModel
from wm_tf.nests import time_major

OPEN_LOOP_STEPS = (1, 5, 10, 20, 50)
BURN_IN = 10


class _PartError:
  """Squared errors of the reconstruction of one part of observations, and of the part's mean."""

  def __init__(self, part: ObservationPart):
    self._is_image = part.kind == "image"
    self._error, self._sum, self._squares = 0, 0, 0

  def add(self, observed: np.ndarray, squared_error: np.ndarray) -> None:
    """Adds a batch.

    Args:
      observed: `[B, ...]`, real values.
      squared_error: `[...]`, squared errors summed over the batch.
    """
    # Integer sums are exact, so the difference in `figures` loses no precision.
    values = observed.astype(np.int64 if self._is_image else np.float64)
    self._error = self._error + squared_error.astype(np.float64)
    self._sum, self._squares = self._sum + values.sum(0), self._squares + (values**2).sum(0)

  def figures(self, count: int) -> dict[str, Any]:
    """Returns `error`, and `baseline`, the error of predicting the mean.

    Of an image, both are sums over its numbers in [0, 1]. Of a vector, both are in units of the
    variance of each number, summed over the numbers that vary.

    Args:
      count: number of observations.
    """
    variation = self._squares - self._sum / count * self._sum
    if self._is_image:
      error, baseline = self._error.sum() / count, variation.sum() / 255.0**2 / count
    else:
      varies = variation > 1e-10 * np.maximum(self._squares, 1e-30)
      error = (self._error[varies] / variation[varies]).sum()
      baseline = varies.sum()
    kind = "image" if self._is_image else "vector"
    return {"kind": kind, "error": float(error), "baseline": float(baseline)}


def vae_quality(vae: VAE, observations: Iterable[Nest]) -> dict[str, Any]:
  """Computes held-out figures of a VAE, compared with the best constant prediction.

  Args:
    vae: the model.
    observations: batches of observations, each part `[B, ...]`; read once.

  Returns:
    `parts`, for each part by name: its `kind`; the `error` of its reconstruction through the
    posterior mean; and the `baseline`, the error of the mean of these observations (see
    `_PartError.figures`). If there are images, also `sse` and `sse_mean_image`, the sums of both
    over images. `kl` in nats per observation; `active_dimensions`, those of more than 0.1 nat on
    average; `latent_size`.

  Raises:
    ValueError: if there is no observation.
  """
  spec = vae.observation

  @tf.function(reduce_retracing=True, autograph=False)
  def figures(batch):
    loc, log_scale = vae.encode(batch)
    means = spec.unpack(vae.decode(loc))
    errors = []
    for part, mean, real in zip(spec.parts, means, spec.unpack(batch), strict=True):
      real = to_float(real) if part.kind == "image" else real
      errors.append(tf.reduce_sum(tf.square(mean - real), axis=0))
    return errors, tf.reduce_sum(kl_to_standard_normal(loc, log_scale), axis=0)

  count, kl, parts = 0, 0.0, [_PartError(part) for part in spec.parts]
  for batch in observations:
    errors, batch_kl = figures(tf.nest.map_structure(tf.convert_to_tensor, batch))
    kl = kl + batch_kl.numpy().astype(np.float64)
    values = [np.asarray(value) for value in spec.unpack(batch)]
    count += len(values[0])
    for part, value, error in zip(parts, values, errors, strict=True):
      part.add(value, error.numpy())
  if not count:
    raise ValueError("There is no held-out observation to judge the VAE by; collect more episodes.")
  return {
    **_figures(spec, parts, count),
    "kl": float(kl.sum() / count),
    "active_dimensions": int((kl / count > 0.1).sum()),
    "latent_size": vae.latent_size,
  }


def _figures(spec: ObservationSpec, parts: list[_PartError], count: int) -> dict[str, Any]:
  """Returns `parts`, `sse` and `sse_mean_image`, see `vae_quality`."""
  found = {
    part.name or "observation": error.figures(count)
    for part, error in zip(spec.parts, parts, strict=True)
  }
  images = [figure for figure in found.values() if figure["kind"] == "image"]
  sums = {}
  if images:
    sums["sse"] = sum(figure["error"] for figure in images)
    sums["sse_mean_image"] = sum(figure["baseline"] for figure in images)
  return {**sums, "parts": found}


def reconstruction_quality(
  world_model: WorldModel, spec: ObservationSpec, episodes: Iterable[Batch], seed: int = 0
) -> dict[str, Any]:
  """Computes how well a world model reconstructs the observations of episodes.

  Every step is decoded from the state that has observed the episode up to it.

  Args:
    world_model: the world model.
    spec: the specification of its observations.
    episodes: batches of whole episodes from their first observation, raw; read once.
    seed: seed of the posterior samples.

  Returns:
    `parts`, and with images `sse` and `sse_mean_image`; see `vae_quality`.

  Raises:
    ValueError: if there is no observation.
  """

  @tf.function(reduce_retracing=True, autograph=False)
  def reconstruct(batch):
    states = observe_sequence(world_model, batch, rng.make_seed(seed))
    kept = tf.nest.map_structure(lambda x: tf.boolean_mask(x, batch.mask), states)
    return spec.unpack(world_model.decode(kept))

  count, parts = 0, [_PartError(part) for part in spec.parts]
  for batch in episodes:
    mask, means = np.asarray(batch.mask), reconstruct(batch)
    count += int(mask.sum())
    values = spec.unpack(batch.observation)
    for error, part, value, mean in zip(parts, spec.parts, values, means, strict=True):
      real = np.asarray(value)[mask]
      compared = to_float(real) if part.kind == "image" else real
      error.add(real, np.square(mean - compared).sum(0))
  if not count:
    raise ValueError("There is no held-out episode to judge the model by; collect more.")
  return _figures(spec, parts, count)


def dynamics_quality(
  world_model: WorldModel, episodes: Iterable[Batch], seed: int = 0, burn_in: int = BURN_IN
) -> dict[str, Any]:
  """Computes held-out figures of a dynamics model on whole episodes, compared with persistence.

  Errors are mean squared distances per dimension of `WorldModel.diagnostic_latent`, of dreams at
  temperature 0 along the real actions. Persistence predicts that the state does not change.

  Args:
    world_model: the world model.
    episodes: batches of whole episodes from their first observation, raw or `Embedded`.
    seed: seed of posterior samples in the loss.
    burn_in: number of observed steps before the first dream; fewer in short episodes.

  Returns:
    `nll_per_dimension` (teacher-forced; None if the model has none), `open_loop` and
    `open_loop_persistence` by number of steps (as strings; None where no episode is long enough),
    `one_step_error`, `persistence_error`, `reward_r2` (None if all rewards are equal), `reward_auc`
    (of rewards above the most frequent one), `termination_auc` (None without a termination).

  Raises:
    ValueError: if there is no step.
  """
  horizon = max(OPEN_LOOP_STEPS)

  @tf.function(reduce_retracing=True, autograph=False)
  def teacher_forced(batch):
    states, predicted = one_step(world_model, batch, rng.make_seed(seed), temperature=0.0)
    _, metrics = world_model.loss(batch, rng.make_seed(seed))
    latent = world_model.diagnostic_latent(states)
    nll = metrics.get("nll_per_dimension")
    return states, latent, predicted.reward, predicted.discount, nll

  @tf.function(reduce_retracing=True, autograph=False)
  def open_loop(state, actions):
    noise = world_model.draw_noise(tf.shape(actions)[0], horizon, rng.make_seed(seed))

    def step(state, inputs):
      return world_model.imagine_with_noise(state, *inputs, 0.0).state

    states = tf.scan(step, time_major((actions, noise)), initializer=state)
    return time_major(world_model.diagnostic_latent(states))

  nll, rewards, reward_means, ends, discounts = [], [], [], [], []
  errors = {k: [] for k in OPEN_LOOP_STEPS}
  stay = {k: [] for k in OPEN_LOOP_STEPS}
  for batch in episodes:
    states, latent, reward_mean, discount, batch_nll = teacher_forced(batch)
    mask = np.asarray(batch.mask)
    pairs = mask[:, 1:]
    rewards.append(np.asarray(batch.reward)[:, 1:][pairs])
    reward_means.append(reward_mean.numpy()[pairs])
    ends.append(np.asarray(batch.discount)[:, 1:][pairs] == 0)
    discounts.append(discount.numpy()[pairs])
    if batch_nll is not None:
      nll.append((float(batch_nll), pairs.sum()))
    z = latent.numpy()
    # Dreams continue past the end of an episode with zero actions; only real steps are compared.
    actions = np.pad(np.asarray(batch.prev_action), [(0, 0), (0, horizon), (0, 0)])
    for start in range(burn_in_of(mask, burn_in), mask.shape[1] - 1, horizon):
      if not mask[:, start + 1].any():
        break
      at = tf.nest.map_structure(lambda x, s=start: x[:, s], states)
      dreamed = open_loop(at, tf.constant(actions[:, start + 1 :][:, :horizon])).numpy()
      for k in (k for k in OPEN_LOOP_STEPS if start + k < mask.shape[1]):
        rows = mask[:, start + k]
        real = z[rows, start + k]
        errors[k].append(np.square(dreamed[rows, k - 1] - real).mean(-1))
        stay[k].append(np.square(z[rows, start] - real).mean(-1))
  if not rewards or not sum(map(len, rewards)):
    raise ValueError("There is no held-out episode to judge the dynamics by; collect more.")
  rewards, reward_means = np.concatenate(rewards), np.concatenate(reward_means)
  ends, discounts = np.concatenate(ends), np.concatenate(discounts)
  open_loop_error = {str(k): _mean(v) for k, v in errors.items()}
  persistence = {str(k): _mean(v) for k, v in stay.items()}
  values, counts = np.unique(np.round(rewards, 2), return_counts=True)
  variance = float(rewards.var())
  return {
    "nll_per_dimension": sum(n * w for n, w in nll) / sum(w for _, w in nll) if nll else None,
    "one_step_error": open_loop_error["1"],
    "persistence_error": persistence["1"],
    "open_loop": open_loop_error,
    "open_loop_persistence": persistence,
    "reward_r2": 1.0 - float(np.square(rewards - reward_means).mean()) / variance
    if variance
    else None,
    "reward_auc": area_under_curve(reward_means, rewards > values[counts.argmax()] + 0.01),
    "termination_auc": area_under_curve(-discounts, ends),
  }


def burn_in_of(mask: np.ndarray, most: int = BURN_IN) -> int:
  """Returns the number of observed steps before a dream.

  Args:
    mask: `bool[B, T]`, false on padding; T is the length of the longest episode.
    most: the number of steps in long episodes.

  Returns:
    `most` if T - 1 is larger, else half of T - 1, rounded down.
  """
  last = mask.shape[1] - 1
  return most if last > most else last // 2


def _mean(parts: list[np.ndarray]) -> float | None:
  """Returns the mean of all numbers; None without any."""
  return float(np.concatenate(parts).mean()) if sum(map(len, parts)) else None


def area_under_curve(score: np.ndarray, positive: np.ndarray) -> float | None:
  """Returns the area under the ROC curve: the probability that a positive scores above a negative.

  Args:
    score: `float[S]`.
    positive: `bool[S]`.

  Returns:
    The probability, in which ties count half; None without both positives and negatives.
  """
  num_positive = int(positive.sum())
  num_negative = len(positive) - num_positive
  if not num_positive or not num_negative:
    return None
  _, inverse, counts = np.unique(score, return_inverse=True, return_counts=True)
  rank = (np.cumsum(counts) - (counts - 1) / 2.0)[inverse]
  total = rank[positive].sum() - num_positive * (num_positive + 1) / 2.0
  return float(total / (num_positive * num_negative))


class QualityGateError(RuntimeError):
  """The model of a stage is not good enough to build the next stage on."""


def check_vae(quality: dict[str, Any]) -> None:
  """Checks that a VAE reconstructs better than the mean observation, and that it uses its latent.

  Args:
    quality: the result of `vae_quality`.

  Raises:
    QualityGateError: if the error of a part is not below half of its baseline, or fewer than 2
      dimensions are active (1 if there is only one).
  """
  # Results of earlier versions have no figures by part.
  image = {"kind": "image", "error": quality.get("sse"), "baseline": quality.get("sse_mean_image")}
  parts = quality.get("parts", {"observation": image})
  _check_parts(parts, "VAE", "lower vae.beta")
  if quality["active_dimensions"] < min(2, quality.get("latent_size", 2)):
    raise QualityGateError(
      f"The VAE's posterior has collapsed: {quality['active_dimensions']} of its dimensions carry "
      "information. Lower vae.beta or raise vae.free_nats; --force goes on regardless."
    )


def check_reconstruction(quality: dict[str, Any]) -> None:
  """Checks that an RSSM reconstructs better than the mean observation.

  Args:
    quality: the result of `reconstruction_quality`.

  Raises:
    QualityGateError: if the error of a part is not below half of its baseline.
  """
  _check_parts(quality["parts"], "RSSM", "lower rssm.vector_scale")


def _check_parts(parts: dict[str, dict[str, Any]], title: str, remedy: str) -> None:
  for name, part in parts.items():
    if part["baseline"] and not part["error"] < 0.5 * part["baseline"]:
      which = f" {name}" if len(parts) > 1 else ""
      what = "per frame" if part["kind"] == "image" else "in units of variance"
      mean = "the mean image's" if part["kind"] == "image" else "that of the mean"
      raise QualityGateError(
        f"The {title} has not learned{which}: its held-out error of {part['error']:.1f} {what} is "
        f"not below half of {mean} ({part['baseline']:.1f}). Train it longer (more epochs), "
        f"{remedy}, or collect more varied episodes; --force goes on regardless."
      )


def check_dynamics(quality: dict[str, Any]) -> None:
  """Checks that dreams of up to 10 steps are more accurate than persistence.

  Args:
    quality: the result of `dynamics_quality`.

  Raises:
    QualityGateError: if they are not, or no held-out episode is long enough to tell.
  """
  if quality["one_step_error"] is None:
    raise QualityGateError(
      "The dynamics could not be judged: no held-out episode is long enough. Collect more "
      "episodes, or hold more of them out (collect.held_out); --force goes on regardless."
    )
  known = [k for k in ("1", "5", "10") if quality["open_loop"].get(k) is not None]
  error, still = (
    sum(quality[name][k] for k in known) for name in ("open_loop", "open_loop_persistence")
  )
  if not error < still:
    raise QualityGateError(
      f"The dynamics are no better than standing still: an error of {error:.4f}, summed over "
      f"dreams of {', '.join(known)} steps, against {still:.4f} for that. Train them longer (more "
      "epochs) or on more episodes; --force goes on regardless."
    )
