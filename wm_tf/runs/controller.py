"""Trains the controller of an iteration in the dreams of its world model."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow as tf

from wm_tf import rng
from wm_tf.core import Nest
from wm_tf.data import datasets
from wm_tf.imagination import Draw, draw_states, recently_rewarded
from wm_tf.learners.learner import Learner
from wm_tf.models.world_model import WorldModel
from wm_tf.runs.fitting import seal
from wm_tf.runs.playing import episode_seeds
from wm_tf.runs.workdir import say, write_json
from wm_tf.training import checkpoints
from wm_tf.training.loggers import make_loggers, read_history, read_jsonl, restore_history
from wm_tf.training.loop import NonFiniteLossError

if TYPE_CHECKING:
  from wm_tf.runs.learned import LearnedRun
  from wm_tf.runs.run import Run

_STEPS_PER_CHECKPOINT = 10
_MAX_BAD_STEPS = 10  # In a row.
_DISTRIBUTION = "distribution.npz"
_QUALITY = "quality.json"
_LAST = 0.1  # Share of the steps, at the end, from which saturation is reported.


def train_controller(run: Run, iteration: int) -> None:
  """Trains a controller in the dreams of an iteration; continues where a killed call stopped.

  Args:
    run: the run, entered.
    iteration: iteration of the world model.

  Raises:
    NonFiniteLossError: if a shown metric is NaN or infinite for 10 steps in a row.
  """
  folder = run.path("controller", iteration)
  saved = checkpoints.Checkpoints(folder / "checkpoints")
  learner = run.compiled_learner
  label = f"{learner.title} {iteration:03d}"
  if (folder / "controller.npz").exists():
    say(f"{label}: done before.")
    _seal(folder)
    saved.clear()
    return
  run.family.prepare(iteration)
  model = run.family.load_model(run.compiled_model, iteration)
  features, starts = dream_data(run, model, iteration)
  previous = None
  if iteration and run.family.keeps_features(iteration):
    previous = run.load_policy(learner, iteration - 1)
  num_steps = learner.begin(features, previous, real_rewards(run, iteration))
  history = folder / "metrics.jsonl"

  def state() -> dict[str, Any]:
    return {"learner": learner.state(), "history": read_history(history) or ""}

  first, restored = 0, saved.restore(state())
  if restored is not None:
    first, found = restored
    learner.restore(found["learner"])
    restore_history(history, found["history"])
  logger = make_loggers(folder, desc=label, keys=learner.shown)
  logger.rewind(first or -1)
  seed, bad_steps = rng.make_seed(_dream_seed(run, iteration)), 0
  try:
    for step in range(first, num_steps):
      metrics = learner.step(starts, rng.fold_in(seed, step))
      bad = [name for name in learner.shown if not math.isfinite(metrics[name])]
      bad_steps = bad_steps + 1 if bad else 0
      if bad_steps == _MAX_BAD_STEPS:
        weights = run.family.model_weights(iteration)
        raise NonFiniteLossError(
          f"{label}: {', '.join(bad)} was not finite for {bad_steps} steps in a row. Check the "
          f"world model in {weights.parent}, or lower the learning rates."
        )
      logger.write(step + 1, metrics)
      logger.tick(step + 1, num_steps)
      if (step + 1) % _STEPS_PER_CHECKPOINT == 0:
        saved.save(step + 1, state())
  finally:
    logger.close()
  learner.finish()
  distribution = learner.distribution()
  if distribution is not None:
    checkpoints.save_nest(folder / _DISTRIBUTION, distribution)
  write_quality(folder, learner, starts, rng.fold_in(seed, num_steps))
  checkpoints.save_nest(folder / "controller.npz", learner.policy_state())
  _seal(folder)
  saved.clear()


def write_quality(folder: Path, learner: Learner, starts: Nest, seed: tf.Tensor) -> None:
  """Writes `quality.json`, by which reports judge a controller's training, if it has figures.

  Args:
    folder: the folder of the controller, with its `metrics.jsonl`.
    learner: the learner, finished.
    starts: states that dreams start from.
    seed: `int32[2]`.
  """
  rows = read_jsonl(folder / "metrics.jsonl")
  found = learner.figures(starts, seed)
  for name, share in (("clipped", 1.0), ("saturated", _LAST)):
    values = [row[f"dream/{name}"] for row in rows if f"dream/{name}" in row]
    if values:
      found[name] = float(np.mean(values[-math.ceil(share * len(values)) :]))
  if found:
    write_json(folder / _QUALITY, found)


def dream_data(run: LearnedRun, model: WorldModel, iteration: int) -> tuple[np.ndarray, Nest]:
  """Returns the data of all rollouts so far that a learner needs.

  Args:
    run: the run.
    model: the world model of the iteration.
    iteration: the iteration; rollouts up to it are used.

  Returns:
    Features `float32[M, F]` of real states, and the real states that dreams start from: a nest of
    `[S, ...]`.
  """
  seed = _dream_seed(run, iteration)
  episodes = datasets.episodes_dataset(run.sequence_folders(iteration), batch_size=16)
  draws = [Draw(2 * run.config.controller.num_starts, seed), *_start_draws(run, seed + 1)]
  states, *starts = draw_states(model, episodes, draws)
  starts = tf.nest.map_structure(lambda *x: tf.concat(x, axis=0), *starts)
  return model.features(states).numpy(), starts


def real_rewards(run: LearnedRun, iteration: int) -> list[np.ndarray]:
  """Returns the rewards of all episodes so far.

  Args:
    run: the run.
    iteration: the last iteration whose rollouts are read.

  Returns:
    One `float32[T]` for each episode: the reward of each of its T decisions.
  """
  found = []
  for batch in datasets.episodes_dataset(run.sequence_folders(iteration), batch_size=16):
    mask = np.asarray(batch.mask & ~batch.is_first)
    found += [row[keep] for row, keep in zip(np.asarray(batch.reward), mask, strict=True)]
  return found


def _dream_seed(run: LearnedRun, iteration: int) -> int:
  return episode_seeds("dream", run.seed, 1, iteration)[0]


def _start_draws(run: LearnedRun, seed: int) -> list[Draw]:
  """Returns the draws of the states that dreams start from; see `ControllerConfig.start_window`."""
  settings = run.config.controller
  if not settings.start_window:
    return [Draw(settings.num_starts, seed)]
  num_anywhere = round(settings.num_starts * settings.start_anywhere)
  select = recently_rewarded(settings.start_window)
  draws = [Draw(settings.num_starts - num_anywhere, seed, select), Draw(num_anywhere, seed + 1)]
  return [draw for draw in draws if draw.num_states > 0]


def _seal(folder: Path) -> None:
  # Not every method has these.
  others = [name for name in (_DISTRIBUTION, _QUALITY) if (folder / name).exists()]
  seal(folder, "controller.npz", "metrics.jsonl", *others)
