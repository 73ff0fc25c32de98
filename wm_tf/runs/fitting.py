"""A fit of a run: made once, resumable, judged by its gate, and sealed with checksums."""

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
  """Makes a fit unless it has been made; returns its held-out figures, past their gate.

  Args:
    run: the run.
    name: of the fit, such as `vae`.
    iteration: which one.
    fit_fn: makes the fit of an iteration and returns its figures.
    gate_fn: raises `QualityGateError` if the figures are not good enough to build on.

  Raises:
    QualityGateError: unless the run's configuration or `force` says to go on regardless.
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
    name: of the fit.
    title: for the progress bar.
    model: has `loss(batch, seed)`.
    iteration: which fit.
    dataset_fn: makes an epoch of batches of some folders: `datasets.sequences_dataset` or another.
    folders: of all data so far, from the oldest.
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
      f"fit {title} {iteration:03d}: the data are less than {name}_fit.batch_size = "
      f"{settings.batch_size}; each step is on all of them."
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
  """Writes the checksums of a finished stage, unless they exist or one of its files is gone."""
  if not (folder / files.SUMS).exists() and all((folder / name).exists() for name in names):
    files.write_sums(folder, names)
