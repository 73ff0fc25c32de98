"""Makes a fit of a run: once, resumable, checked by a quality gate, and with checksums."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import keras
import tensorflow as tf

from wm_tf import evaluation, files
from wm_tf.data import rollouts
from wm_tf.runs.workdir import say, write_json
from wm_tf.training.loggers import make_loggers
from wm_tf.training.loop import fit

if TYPE_CHECKING:
  from wm_tf.runs.learned import LearnedRun

_FILES = ("run.json", "metrics.jsonl", "weights.npz", "fit.json", "quality.json")


def fitted(
  run: LearnedRun,
  name: str,
  iteration: int,
  fit_fn: Callable[[int], Any],
  gate_fn: Callable[[Any], None],
) -> dict[str, Any]:
  """Makes a fit unless it exists, and checks its held-out figures.

  Args:
    run: the run.
    name: name of the fit, such as `vae`.
    iteration: iteration of the fit.
    fit_fn: maps an iteration to the held-out figures of the fit that it makes.
    gate_fn: takes the figures, and raises `QualityGateError` if they are too bad to build on.

  Returns:
    The held-out figures.

  Raises:
    QualityGateError: if the gate fails, unless `quality_gates` is false in the run's configuration
      or the run has `force`; then there is a warning.
  """
  path = run.path(name, iteration) / "quality.json"
  if path.exists() and (path.parent / "weights.npz").exists():
    say(f"fit {name} {iteration:03d}: done before.")
  else:
    write_json(path, fit_fn(iteration))
  seal(path.parent, *_FILES)
  quality = run.quality(name, iteration)
  try:
    gate_fn(quality)
  except evaluation.QualityGateError as error:
    if run.config.quality_gates and not run.force:
      raise
    reason = "--force" if run.force else "quality_gates=False"
    logging.warning("%s (going on: %s)", error, reason)
  return quality


def fit_model(
  run: LearnedRun,
  name: str,
  title: str,
  model: keras.Model,
  iteration: int,
  dataset_fn: Callable[..., tf.data.Dataset],
  folders: Sequence[Path],
) -> None:
  """Fits a model to the data of dataset folders, in the folder of its fit.

  Args:
    run: the run; its configuration has a `StageFitConfig` called `<name>_fit`.
    name: name of the fit.
    title: name of the model in the progress bar.
    model: a model with `loss(batch, seed)`; see `training.loop.fit`.
    iteration: iteration of the fit.
    dataset_fn: makes the batches of an epoch, such as `datasets.sequences_dataset`.
    folders: dataset folders of all data so far, the oldest first.
  """
  folder, settings = run.path(name, iteration), getattr(run.config, f"{name}_fit")
  common = dict(batch_size=settings.batch_size, held_out_fraction=run.config.collect.held_out)
  checksums = [s.sha256 for f in folders for s in rollouts.load_manifest(f).shards]
  train_folders = []
  for data in folders:
    repeats = 1 if data.name.startswith("000") else settings.on_policy_repeats
    train_folders += [data] * repeats

  def train_fn(epoch: int) -> tf.data.Dataset:
    return dataset_fn(
      train_folders,
      seed=run.seed,
      epoch=epoch,
      shuffle_buffer=settings.shuffle_buffer,
      **common,
    )

  def eval_fn() -> tf.data.Dataset:
    return dataset_fn(folders, seed=None, split="held_out", drop_remainder=False, **common)

  if tf.nest.flatten(train_fn(0).element_spec)[0].shape[0] is None:
    say(
      f"fit {title} {iteration:03d}: an epoch can have fewer samples than "
      f"{name}_fit.batch_size = {settings.batch_size}; smaller batches are used too."
    )
  logger = make_loggers(folder, desc=f"fit {title} {iteration:03d}")
  try:
    fit(
      model,
      train_fn,
      settings.first if iteration == 0 else settings.refit,
      folder,
      seed=run.seed + 1000 * iteration,
      eval_fn=eval_fn,
      logger=logger,
      fingerprint={"data": hashlib.sha256("".join(checksums).encode()).hexdigest()},
    )
  finally:
    logger.close()


def seal(folder: Path, *names: str) -> None:
  """Writes the checksums of a finished stage, unless they exist or one of its files is missing.

  Args:
    folder: the folder of the stage.
    *names: names of its files.
  """
  if not (folder / files.SUMS).exists() and all((folder / name).exists() for name in names):
    files.write_sums(folder, names)
