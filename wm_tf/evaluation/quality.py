"""How good models are on held-out data, and the gates that stop a run with a bad one."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import tensorflow as tf

from wm_tf import rng
from wm_tf.core import Batch
from wm_tf.imagination import one_step
from wm_tf.models.vae import VAE, kl_to_standard_normal, to_float
from wm_tf.models.world_model import WorldModel

OPEN_LOOP_STEPS = (1, 5, 10, 20, 50)
BURN_IN = 10


def vae_quality(vae: VAE, frames: Iterable[tf.Tensor]) -> dict[str, float]:
  """Held-out figures of a VAE against the best constant answer.

  Args:
    vae: the model.
    frames: batches `uint8[B, 64, 64, 3]`; read once.

  Returns:
    `sse` per frame through the posterior mean; `sse_mean_image`, that of the mean of these very
    frames; `kl` in nats per frame; `active_dimensions` (more than 0.1 nat on average).

  Raises:
    ValueError: if there is no frame.
  """

  @tf.function
  def figures(batch):
    loc, log_scale = vae.encode(batch)
    error = tf.square(vae.decode(loc) - to_float(batch))
    return tf.reduce_sum(error), tf.reduce_sum(kl_to_standard_normal(loc, log_scale), axis=0)

  count, sse, kl, sums, squares = 0, 0.0, 0.0, 0, 0
  for batch in frames:
    batch_sse, batch_kl = figures(tf.convert_to_tensor(batch))
    sse, kl = sse + float(batch_sse), kl + batch_kl.numpy().astype(np.float64)
    pixels = np.asarray(batch).astype(np.int64)
    count, sums, squares = count + len(pixels), sums + pixels.sum(0), squares + (pixels**2).sum(0)
  if not count:
    raise ValueError("There is no held-out frame to judge the VAE by; collect more episodes.")
  # Of integers up to here: no digit is lost in the difference.
  baseline = (squares - sums / count * sums).sum() / 255.0**2
  return {
    "sse": sse / count,
    "sse_mean_image": float(baseline / count),
    "kl": float(kl.sum() / count),
    "active_dimensions": int((kl / count > 0.1).sum()),
  }


def dynamics_quality(
  world_model: WorldModel, episodes: Iterable[Batch], seed: int = 0, burn_in: int = BURN_IN
) -> dict[str, Any]:
  """Held-out figures of a dynamics model on whole episodes, against persistence.

  Errors are mean squared distances in standardised latents, per dimension, of dreams at
  temperature 0 along the real actions.

  Args:
    world_model: whose state has a field `z`, and which has `latent_scale`.
    episodes: whole episodes from their first frame, cached posteriors or frames.
    seed: for posterior samples in the loss.
    burn_in: real steps before a dream starts.

  Returns:
    `nll_per_dimension` (teacher-forced; None if the model has none), `open_loop` and
    `open_loop_persistence` by number of steps (as strings; None where no episode is so long),
    `one_step_error`, `persistence_error`, `reward_r2` (None if all rewards are equal), `reward_auc`
    (some reward above the commonest one or not), `termination_auc` (None without a termination).

  Raises:
    ValueError: if there is no step.
  """
  horizon = max(OPEN_LOOP_STEPS)

  @tf.function
  def teacher_forced(batch):
    states, predicted = one_step(world_model, batch, rng.make_seed(seed), temperature=0.0)
    _, metrics = world_model.loss(batch, rng.make_seed(seed))
    return states, predicted.reward, predicted.discount, metrics.get("nll_per_dimension")

  @tf.function
  def open_loop(state, actions):
    noise = world_model.draw_noise(tf.shape(actions)[0], horizon, rng.make_seed(seed))
    time_major = lambda x: tf.transpose(x, [1, 0, *range(2, x.shape.rank)])
    states = tf.scan(
      lambda state, step: world_model.imagine_with_noise(state, step[0], step[1], 0.0).state,
      tf.nest.map_structure(time_major, (actions, noise)),
      initializer=state,
    )
    return time_major(states.z)

  scale = world_model.latent_scale.numpy()
  nll, rewards, reward_means, ends, discounts = [], [], [], [], []
  errors = {k: [] for k in OPEN_LOOP_STEPS}
  stay = {k: [] for k in OPEN_LOOP_STEPS}
  for batch in episodes:
    states, reward_mean, discount, batch_nll = teacher_forced(batch)
    mask = np.asarray(batch.mask)
    pairs = mask[:, 1:]
    rewards.append(np.asarray(batch.reward)[:, 1:][pairs])
    reward_means.append(reward_mean.numpy()[pairs])
    ends.append(np.asarray(batch.discount)[:, 1:][pairs] == 0)
    discounts.append(discount.numpy()[pairs])
    if batch_nll is not None:
      nll.append((float(batch_nll), pairs.sum()))
    z = states.z.numpy() / scale
    # Dreams go on past the end of an episode, along no action; what is real there is compared.
    actions = np.pad(np.asarray(batch.prev_action), [(0, 0), (0, horizon), (0, 0)])
    for start in range(burn_in, mask.shape[1] - 1, horizon):
      if not mask[:, start + 1].any():
        break
      at = tf.nest.map_structure(lambda x, s=start: x[:, s], states)
      dreamed = open_loop(at, tf.constant(actions[:, start + 1 :][:, :horizon])).numpy() / scale
      for k in (k for k in OPEN_LOOP_STEPS if start + k < mask.shape[1]):
        rows = mask[:, start + k]
        real = z[rows, start + k]
        errors[k].append(np.square(dreamed[rows, k - 1] - real).mean(-1))
        stay[k].append(np.square(z[rows, start] - real).mean(-1))
  if not rewards or not sum(map(len, rewards)):
    raise ValueError("There is no held-out episode to judge the dynamics by; collect more.")
  rewards, reward_means = np.concatenate(rewards), np.concatenate(reward_means)
  ends, discounts = np.concatenate(ends), np.concatenate(discounts)
  mean = lambda parts: float(np.concatenate(parts).mean()) if sum(map(len, parts)) else None
  open_loop_error = {str(k): mean(v) for k, v in errors.items()}
  persistence = {str(k): mean(v) for k, v in stay.items()}
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


def area_under_curve(score: np.ndarray, positive: np.ndarray) -> float | None:
  """Probability that a positive scores above a negative (ties count half); None without both."""
  num_positive = int(positive.sum())
  num_negative = len(positive) - num_positive
  if not num_positive or not num_negative:
    return None
  _, inverse, counts = np.unique(score, return_inverse=True, return_counts=True)
  rank = (np.cumsum(counts) - (counts - 1) / 2.0)[inverse]
  total = rank[positive].sum() - num_positive * (num_positive + 1) / 2.0
  return float(total / (num_positive * num_negative))


class QualityGateError(RuntimeError):
  """A stage's model is not good enough to build the next stage on."""


def check_vae(quality: dict[str, float]) -> None:
  """Raises `QualityGateError` unless the VAE beats the mean image by far."""
  limit = 0.5 * quality["sse_mean_image"]
  if not quality["sse"] < limit:
    raise QualityGateError(
      f"The VAE has not learned: its held-out error of {quality['sse']:.1f} per frame is not below "
      f"half of the mean image's ({quality['sse_mean_image']:.1f}). Train it longer (more epochs), "
      "lower vae.beta, or collect more varied frames; --force goes on regardless."
    )
  if quality["active_dimensions"] < 2:
    raise QualityGateError(
      f"The VAE's posterior has collapsed: {quality['active_dimensions']} of its dimensions carry "
      "information. Lower vae.beta or raise vae.free_nats; --force goes on regardless."
    )


def check_dynamics(quality: dict[str, Any]) -> None:
  """Raises `QualityGateError` unless dreams of up to 10 steps beat persistence."""
  if quality["one_step_error"] is None:
    raise QualityGateError(
      "The dynamics could not be judged: no held-out episode goes on after the "
      f"{BURN_IN} decisions that a dream is burnt in on. Collect more episodes, or hold more of "
      "them out (collect.held_out); --force goes on regardless."
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
