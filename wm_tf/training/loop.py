"""The training loop of every Keras 3 model with `loss(batch, seed) -> (loss, metrics)`."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import time
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from wm_tf import rng
from wm_tf.files import user_path, write_json
from wm_tf.training import checkpoints, fit_folder
from wm_tf.training.adam import FusedAdam
from wm_tf.training.fit_config import FitConfig
from wm_tf.training.fit_folder import FitResult
from wm_tf.training.fit_folder import RunMismatchError as RunMismatchError
from wm_tf.training.loggers import Logger, make_loggers, read_history, restore_history
from wm_tf.training.precision import computing_in
from wm_tf.training.steps import make_eval_step, make_train_step


class NonFiniteLossError(RuntimeError):
  """The loss or its gradient stayed NaN or infinite."""


@dataclasses.dataclass
class _Progress:
  """State of the loop other than variables; part of every checkpoint."""

  step: int = 0
  epoch: int = 0
  batches: int = 0  # Number in this epoch.
  skipped: int = 0
  bad_streak: int = 0
  sums: dict[str, float] = dataclasses.field(default_factory=dict)  # Since metrics were logged.
  count: int = 0
  train: dict[str, float] = dataclasses.field(default_factory=dict)
  final: dict[str, float] = dataclasses.field(default_factory=dict)
  best: dict[str, float] = dataclasses.field(default_factory=dict)
  best_step: int = 0
  evaluations_since_best: int = 0
  seconds: float = 0.0
  history: str | None = None  # The text of `fit_folder.HISTORY`.


def fit(
  model: keras.Model,
  train_fn: Callable[[int], tf.data.Dataset],
  config: FitConfig,
  directory: str | os.PathLike,
  *,
  seed: int,
  eval_fn: Callable[[], tf.data.Dataset] | None = None,
  logger: Logger | None = None,
  fingerprint: Mapping[str, Any] | None = None,
) -> FitResult:
  """Fits a model with Adam, starting from its current weights, and leaves it with the best weights.

  A repeated call with the same arguments continues where a killed call stopped, and ends with the
  same weights and metrics as an uninterrupted call. On a finished folder it only loads the weights.
  If a finished folder lacks its weights, or a needed checkpoint is missing, it starts over. On CPU
  the results are bitwise equal. On GPU that requires
  `tf.config.experimental.enable_op_determinism()`, which the program must call, since it changes
  the whole process.

  A step whose loss or gradient is not finite changes no variable. It is counted, and
  `config.max_bad_steps` of them in a row are an error.

  Args:
    model: has `loss(batch, seed) -> (scalar, {name: scalar})`, with `seed` an `int32[2]` that
      differs at each step. (`keras.Model` hides a method of that name behind its own attribute:
      `del self.loss` after `super().__init__()`.) Only `model.trainable_variables` are trained.
    train_fn: maps the epoch (from 0) to its batches. It must return the same batches in the same
      order for the same epoch, in every process.
    config: see `FitConfig`.
    directory: folder of the fit.
    seed: seed from which the seeds of `loss` are derived.
    eval_fn: returns the held-out batches, finitely many. Their mean loss (weighted by rows, with
      the same seeds each time) decides which weights are best.
    logger: receives the metrics, and is not closed; None for `metrics.jsonl` in `directory` only.
    fingerprint: JSON-able facts (such as the data's checksum) that must not change between a run
      and its resumption.

  Returns:
    Metrics and files of the fit; see `FitResult`.

  Raises:
    NonFiniteLossError: if too many consecutive steps are bad, or no evaluation gave a finite loss.
    RunMismatchError: if `directory` holds a run of another config, seed or fingerprint.
    checkpoints.CheckpointMismatchError: if it holds a run of another model.
    ValueError: if an epoch or the held-out data is empty.
  """
  directory = user_path(directory)
  run = {"config": dataclasses.asdict(config), "seed": seed, "fingerprint": dict(fingerprint or {})}
  # A folder of an older version was made with the defaults of options that it lacks.
  fit_folder.claim(directory, run, dataclasses.asdict(FitConfig()))
  train_spec = train_fn(0).element_spec
  # Tracing the loss builds all layers; the optimizer must know all variables.
  loss = tf.function(lambda batch, seed: model.loss(batch, seed), autograph=False)
  loss.get_concrete_function(train_spec, tf.TensorSpec([2], tf.int32))
  if fit_folder.is_finished(directory):
    checkpoints.load_weights(model, directory / fit_folder.WEIGHTS)
    return fit_folder.finished(directory)

  own_logger = logger is None
  logger = logger or make_loggers(directory, tensorboard=False)
  try:
    loop = _Loop(model, config, directory, seed, train_spec, logger)
    loop.restore()
    while loop.progress.epoch < config.num_epochs and not loop.out_of_patience():
      loop.train_epoch(train_fn)
      loop.end_epoch(eval_fn)
    return loop.finish(with_evaluation=eval_fn is not None)
  finally:
    if own_logger:
      logger.close()


class _Loop:
  """One call of `fit`: the compiled steps and their state."""

  def __init__(self, model, config, directory, seed, train_spec, logger):
    self.model, self.config, self.directory, self.logger = model, config, directory, logger
    self.progress = _Progress()
    self.optimizer = FusedAdam(config.learning_rate)
    self.optimizer.build(model.trainable_variables)
    self.checkpoints = checkpoints.Checkpoints(directory / fit_folder.CHECKPOINTS)
    # Two are kept: the last checkpoint refers to the older one until the next one is written.
    self.best = checkpoints.Checkpoints(directory / fit_folder.BEST)
    train_seed, self._eval_seed = rng.split(rng.make_seed(seed), 2)
    self._train_step = make_train_step(
      model, self.optimizer, config.clip_norm, train_seed, train_spec
    )
    self._eval_step = None
    self._started = time.monotonic()
    self._seconds_before = 0.0

  # State on disk.

  def _variables(self) -> dict[str, dict[str, Any]]:
    return {
      "model": checkpoints.name_variables(self.model.variables),
      "optimizer": {f"{i:03d}": v for i, v in enumerate(self.optimizer.variables)},
    }

  def save(self) -> None:
    self.progress.seconds = self._seconds()
    self.progress.history = read_history(self.directory / fit_folder.HISTORY)
    state = json.dumps(dataclasses.asdict(self.progress))
    self.checkpoints.save(self.progress.step, self._variables() | {"progress": state})

  def restore(self) -> None:
    variables = self._variables()
    found = self.checkpoints.restore(variables | {"progress": ""})
    if found is not None:
      _, state = found
      progress = _Progress(**json.loads(state["progress"]))
      if self._has_best(progress):
        for group in variables:
          checkpoints.assign(variables[group], state[group])
        self.progress = progress
        self._seconds_before = progress.seconds
        restore_history(self.directory / fit_folder.HISTORY, progress.history)
    for saved in (self.checkpoints, self.best):
      saved.rewind(self.progress.step)
    self.logger.rewind(self.progress.step or -1)

  def _has_best(self, progress: _Progress) -> bool:
    """Whether the best weights that a checkpoint refers to can be read."""
    if not progress.best:
      return True
    try:
      self._load_best(progress)
    except (FileNotFoundError, checkpoints.CorruptCheckpointError) as error:
      warnings.warn(f"{error} Starting over.", RuntimeWarning, stacklevel=2)
      return False
    return True

  def _load_best(self, progress: _Progress) -> dict[str, Any]:
    weights = checkpoints.name_variables(self.model.weights)
    return checkpoints.load_nest(self.best.path(progress.best_step), weights)

  def _seconds(self) -> float:
    return self._seconds_before + time.monotonic() - self._started

  # Training.

  def train_epoch(self, train_fn) -> None:
    config, progress = self.config, self.progress
    data = train_fn(progress.epoch)
    if config.steps_per_epoch is not None:
      data = data.take(config.steps_per_epoch)
    per_epoch = int(data.cardinality())
    if per_epoch < 0 and progress.epoch > 0:  # Unknown: use the mean of the earlier epochs.
      per_epoch = (progress.step - progress.batches) // progress.epoch
    total = per_epoch * config.num_epochs if per_epoch > 0 else None
    resumed_at = progress.step
    for batch in data.skip(progress.batches):
      # Save before a step: a checkpoint between the last step of an epoch and its evaluation would
      # make a resumed run log the evaluation twice.
      due = config.checkpoint_every and progress.step % config.checkpoint_every == 0
      if due and progress.step > resumed_at:
        self.save()
      self._set_learning_rate(per_epoch)
      self._step(batch)
      self.logger.tick(progress.step, total)
      if progress.step % config.log_every == 0:
        self.logger.write(progress.step, self._train_metrics())
    if progress.batches == 0:
      raise ValueError(
        f"train_fn({progress.epoch}) gave no batch: the data is less than one batch; lower "
        "batch_size, or collect more."
      )

  def _set_learning_rate(self, per_epoch: int) -> None:
    config, progress = self.config, self.progress
    if config.end_learning_rate is None:
      return
    done = progress.epoch + (progress.batches / per_epoch if per_epoch > 0 else 0.0)
    share = min(1.0, done / config.num_epochs)
    rate = (1.0 - share) * config.learning_rate + share * config.end_learning_rate
    self.optimizer.learning_rate.assign(rate)

  def _step(self, batch) -> None:
    progress = self.progress
    with computing_in(self.config.precision):
      metrics, finite, gradients_finite = self._train_step(batch, progress.step)
    progress.step += 1
    progress.batches += 1
    metrics = {f"train/{key}": float(value) for key, value in metrics.items()}
    if finite:
      progress.bad_streak = 0
      progress.count += 1
      for key, value in metrics.items():
        progress.sums[key] = progress.sums.get(key, 0.0) + value
      return
    progress.skipped += 1
    progress.bad_streak += 1
    if progress.bad_streak >= self.config.max_bad_steps:
      raise NonFiniteLossError(self._diagnosis(batch, metrics, gradients_finite.numpy()))

  def _diagnosis(self, batch, metrics, gradients_finite) -> str:
    named = checkpoints.name_variables(self.model.trainable_variables)
    lists = {
      "metrics": [key for key, value in metrics.items() if not math.isfinite(value)],
      "gradients of": [n for n, ok in zip(named, gradients_finite, strict=True) if not ok],
      "weights": [n for n, v in named.items() if not np.isfinite(np.asarray(v)).all()],
      "fields of the batch": [
        path
        for path, leaf in checkpoints.flatten_with_path(batch).items()
        if leaf.dtype.is_floating and not np.isfinite(leaf.numpy()).all()
      ],
    }
    found = "; ".join(
      f"{kind}: {', '.join(names[:8])}{' ...' if len(names) > 8 else ''}"
      for kind, names in lists.items()
      if names
    )
    return (
      f"{self.progress.bad_streak} steps in a row up to step {self.progress.step} were not finite "
      f"(loss {metrics['train/loss']:g}) and have been skipped. Not finite are {found}. "
      f"Lower --learning_rate (now {self.config.learning_rate:g}) and start in a new folder, or "
      f"check the data if a field of the batch is named. This run is in {self.directory}."
    )

  def _train_metrics(self) -> dict[str, float]:
    """Returns the means over the good steps since the last call, and resets the sums."""
    progress = self.progress
    skipped = {"train/skipped_steps": float(progress.skipped)}
    if not progress.count:
      progress.train |= skipped
      return skipped
    progress.train = {key: total / progress.count for key, total in progress.sums.items()} | skipped
    progress.sums, progress.count = {}, 0
    return progress.train

  # Evaluation.

  def end_epoch(self, eval_fn) -> None:
    progress = self.progress
    metrics = self._train_metrics()
    if eval_fn is not None:
      progress.final = self._evaluate(eval_fn())
      metrics = metrics | progress.final
      loss = progress.final["eval/loss"]
      if math.isfinite(loss) and loss < progress.best.get("eval/loss", math.inf):
        progress.best, progress.best_step = progress.final, progress.step
        progress.evaluations_since_best = 0
        self.best.save(progress.step, checkpoints.name_variables(self.model.weights))
      else:
        progress.evaluations_since_best += 1
    progress.epoch += 1
    progress.batches = 0
    self.logger.write(progress.step, metrics | {"train/epoch": float(progress.epoch)})
    self.save()

  def out_of_patience(self) -> bool:
    patience = self.config.patience
    return patience is not None and self.progress.evaluations_since_best >= patience

  def _evaluate(self, data: tf.data.Dataset) -> dict[str, float]:
    if self._eval_step is None:
      self._eval_step = make_eval_step(self.model, self._eval_seed, data.element_spec)
    sums: dict[str, float] = {}
    rows = 0
    for i, batch in enumerate(data):
      metrics, batch_rows = self._eval_step(batch, i)
      rows += int(batch_rows)
      for key, value in metrics.items():
        sums[key] = sums.get(key, 0.0) + float(value) * int(batch_rows)
    if rows == 0:
      raise ValueError(
        "eval_fn() gave no batch: the held-out data is less than one batch; lower batch_size, or "
        "collect more."
      )
    return {f"eval/{key}": total / rows for key, total in sums.items()}

  def finish(self, with_evaluation: bool) -> FitResult:
    progress = self.progress
    if with_evaluation:
      if not progress.best:
        raise NonFiniteLossError(
          f"No evaluation gave a finite loss (the last: {progress.final['eval/loss']:g}) in "
          f"{self.directory}. Lower --learning_rate (now {self.config.learning_rate:g}), or check "
          "the held-out data."
        )
      best = self._load_best(progress)
      checkpoints.assign(checkpoints.name_variables(self.model.weights), best)
    else:
      progress.best_step = progress.step
    checkpoints.save_weights(self.model, self.directory / fit_folder.WEIGHTS)
    result = {
      "best": progress.best,
      "final": progress.final,
      "train": progress.train,
      "best_step": progress.best_step,
      "steps": progress.step,
      "epochs": progress.epoch,
      "skipped_steps": progress.skipped,
      "stopped_early": self.out_of_patience(),
      "seconds": self._seconds(),
    }
    write_json(self.directory / fit_folder.RESULT, result)
    return fit_folder.finished(self.directory)
