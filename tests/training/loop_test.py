"""Tests of `fit`: exact resume, bad steps, early stopping."""

import dataclasses
import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.training.small_run import (
  CONFIG,
  STEPS_PER_EPOCH,
  KillAt,
  Killed,
  SmallModel,
  TinyModel,
  make_data,
  run,
  same_run,
)  # fmt: skip
from wm_tf.training import checkpoints
from wm_tf.training.loggers import Logger, read_jsonl
from wm_tf.training.loop import FitConfig, NonFiniteLossError, fit
from wm_tf.training.steps import make_eval_step

ROOT = Path(__file__).absolute().parents[2]
SHORT = dataclasses.replace(CONFIG, num_epochs=4)


def values(model):
  return [variable.numpy().copy() for variable in model.variables]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
  folder = tmp_path_factory.mktemp("uninterrupted")
  run(folder, SHORT)
  return folder


def test_learns_and_reports(uninterrupted):
  lines = read_jsonl(uninterrupted / "metrics.jsonl")
  evaluations = [line for line in lines if "eval/loss" in line]
  assert [line["step"] for line in evaluations] == [8, 16, 24, 32]
  assert [line["train/epoch"] for line in evaluations] == [1, 2, 3, 4]
  result = run(uninterrupted, SHORT)
  assert (result.steps, result.epochs, result.skipped_steps) == (32, 4, 0)
  best = min(evaluations, key=lambda line: line["eval/loss"])
  assert result.best == {key: best[key] for key in ("eval/loss", "eval/mae")}
  assert result.best_step == best["step"]
  assert result.final["eval/mae"] == evaluations[-1]["eval/mae"]
  assert result.best["eval/loss"] < 0.85 * evaluations[0]["eval/loss"]
  assert not (uninterrupted / "checkpoints").exists() and not (uninterrupted / "best").exists()


# Before any checkpoint; amid an epoch; after the last step, before its evaluation.
@pytest.mark.parametrize(
  "step", [pytest.param(2, marks=pytest.mark.slow), 13, pytest.param(32, marks=pytest.mark.slow)]
)
def test_resume_equals_one_run(tmp_path, uninterrupted, step):
  with pytest.raises(Killed):
    run(tmp_path, SHORT, logger=KillAt(tmp_path / "metrics.jsonl", step))
  assert not (tmp_path / "fit.json").exists()
  # What the caller's weights are then does not matter, once there is a checkpoint.
  run(tmp_path, SHORT, model=SmallModel(seed=int(step > 3)))
  same_run(tmp_path, uninterrupted)


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_kill_at_any_write_loses_nothing(tmp_path, monkeypatch, when):
  """Each call of `fit` dies at the fourth file it writes, yet the run ends, and ends the same."""
  killed, whole = tmp_path / "killed", tmp_path / "whole"
  run(whole, SHORT, model=TinyModel())
  replace = os.replace
  writes = []

  def dying_replace(source, target):
    writes.append(Path(target).name)
    if when == "after":
      replace(source, target)
    if len(writes) % 4 == 0:
      raise Killed
    if when == "before":
      replace(source, target)

  monkeypatch.setattr(os, "replace", dying_replace)
  kills = 0
  while not (killed / "fit.json").exists():
    try:
      run(killed, SHORT, model=TinyModel())
    except Killed:
      kills += 1
    assert kills < 15, writes
  assert kills >= 5
  monkeypatch.undo()
  run(killed, SHORT, model=TinyModel())
  same_run(killed, whole)
  assert not list(tmp_path.rglob("*.tmp"))


@pytest.mark.slow
def test_sigkill_at_a_random_moment(tmp_path):
  random_ = random.Random()  # A new moment in each run of the test.
  kill_after = random_.randrange(1, CONFIG.num_epochs * STEPS_PER_EPOCH // 2)
  delay = random_.random() * 0.05
  killed, whole = tmp_path / "killed", tmp_path / "whole"
  child = subprocess.Popen(
    [sys.executable, "-m", "tests.training.small_run", str(killed)],
    cwd=ROOT,
    stderr=subprocess.DEVNULL,
  )
  try:
    history = killed / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while (
      not history.exists()
      or not read_jsonl(history)[-1:]
      or (read_jsonl(history)[-1]["step"] < kill_after)
    ):
      assert child.poll() is None and time.monotonic() < deadline, "the run did not get that far"
      time.sleep(0.002)
    time.sleep(delay)
  finally:
    child.kill()
    child.wait()
  assert not (killed / "fit.json").exists(), "it finished before it was killed"
  run(killed)
  run(whole)
  same_run(killed, whole)


def test_finished_folder_is_not_trained_again(uninterrupted):
  before = {path: path.stat().st_mtime_ns for path in uninterrupted.iterdir()}

  def train_fn(epoch):
    data = make_data()[0]
    assert epoch == 0  # Its element spec may be looked at.
    return tf.data.Dataset.from_tensor_slices(data).batch(16).map(_never)

  def _never(batch):
    with tf.control_dependencies([tf.debugging.Assert(False, ["a batch was taken"])]):
      return tf.nest.map_structure(tf.identity, batch)

  model = SmallModel(seed=5)
  result = fit(model, train_fn, SHORT, uninterrupted, seed=7)
  assert result == run(uninterrupted, SHORT)
  assert before == {path: path.stat().st_mtime_ns for path in uninterrupted.iterdir()}
  saved = np.load(result.weights)
  for name, variable in checkpoints.name_variables(model.weights).items():
    np.testing.assert_array_equal(variable, saved[name])


def test_bad_step_changes_nothing_and_is_counted(tmp_path):
  """In data of one batch whose target is NaN, four steps leave every variable as it was."""
  model = SmallModel()
  model.loss(make_data()[0], tf.constant([0, 0]))
  before = values(model)
  everything_bad = dataclasses.replace(SHORT, num_epochs=1, steps_per_epoch=4)
  result = run(tmp_path, everything_bad, model=model, bad_rows=range(128), eval_fn=None)
  assert result.skipped_steps == result.steps == 4
  assert read_jsonl(result.history)[-1]["train/skipped_steps"] == 4
  for variable, old, new in zip(model.variables, before, values(model), strict=True):
    np.testing.assert_array_equal(new, old, err_msg=variable.path)


def test_bad_batch_is_as_if_it_were_not_there(tmp_path):
  """One NaN row spoils the third of eight batches; the optimizer counts only the good ones."""
  states = {}

  class Watch(Logger):
    def tick(self, step, total=None):
      states[step] = values(model)

  model = SmallModel()
  config = dataclasses.replace(SHORT, num_epochs=1)
  result = run(
    tmp_path, config, model=model, bad_rows=[37], shuffle=False, logger=Watch(), eval_fn=None
  )
  assert result.skipped_steps == 1
  assert np.isfinite(result.train["train/loss"])
  assert all(np.isfinite(value).all() for value in values(model))
  changed = [
    step
    for step in range(2, 9)
    if any(not np.array_equal(a, b) for a, b in zip(states[step - 1], states[step], strict=True))
  ]
  assert changed == [2, 4, 5, 6, 7, 8]


def test_optimizer_does_not_count_a_bad_step(tmp_path):
  config = dataclasses.replace(SHORT, num_epochs=2, checkpoint_every=None)
  killer = KillAt(tmp_path / "metrics.jsonl", 9)
  with pytest.raises(Killed):
    run(tmp_path, config, model=TinyModel(), bad_rows=[37, 80], shuffle=False, logger=killer)
  saved = np.load(tmp_path / "checkpoints" / "step-00000008.npz")
  assert saved["optimizer/000"] == 8 - 2  # `iterations`, which Adam's bias correction uses.
  assert json.loads(str(saved["progress"]))["skipped"] == 2


def test_persistent_nan_is_a_clear_error(tmp_path):
  config = dataclasses.replace(SHORT, max_bad_steps=3)
  with pytest.raises(NonFiniteLossError) as caught:
    run(tmp_path, config, bad_rows=range(32, 128), shuffle=False)
  message = str(caught.value)
  assert "3 steps in a row up to step 5" in message and "loss nan" in message
  assert "metrics: train/loss, train/mae" in message
  assert "fields of the batch: target" in message and "frames" not in message
  assert "dense/kernel" in message and "weights:" not in message
  assert "--learning_rate (now 0.003)" in message and str(tmp_path) in message


def test_bad_steps_that_are_not_in_a_row_are_no_error(tmp_path):
  config = dataclasses.replace(SHORT, num_epochs=2, max_bad_steps=2)
  result = run(tmp_path, config, model=TinyModel(), bad_rows=[1, 37, 70], shuffle=False)
  assert result.skipped_steps == 6


class Drift(keras.Model):
  """Minimises `(w - 1)^2` on training data and `(w - 0.45)^2` on held-out data."""

  def __init__(self):
    super().__init__()
    del self.loss
    self.w = self.add_weight(name="w", shape=(), initializer="zeros")

  def loss(self, batch, seed):
    return tf.reduce_mean((self.w - batch) ** 2), {"w": self.w + 0.0}


def fit_drift(model, directory, **options):
  def data(value):
    return tf.data.Dataset.from_tensors(tf.constant([value]))

  config = FitConfig(learning_rate=0.1, num_epochs=50, **options)
  return fit(model, lambda _: data(1.0), config, directory, seed=0, eval_fn=lambda: data(0.45))


def test_early_stopping_restores_the_best_weights(tmp_path):
  """Adam's first steps are of 0.1: w = 0.1, 0.2, ...; 0.4 or 0.5 is best, and three more follow."""
  model = Drift()
  result = fit_drift(model, tmp_path, patience=3)
  assert result.stopped_early and result.steps == result.best_step + 3
  assert result.best_step in (4, 5)
  assert abs(float(model.w) - 0.45) < 0.06
  assert result.best["eval/w"] == float(model.w)
  assert result.final["eval/w"] > 0.65
  other = Drift()
  checkpoints.load_weights(other, result.weights)
  assert float(other.w) == float(model.w)
  assert result == fit_drift(Drift(), tmp_path, patience=3)


def test_without_patience_all_epochs_and_still_the_best(tmp_path):
  model = Drift()
  result = fit_drift(model, tmp_path)
  assert result.epochs == 50 and not result.stopped_early
  assert result.best_step in (4, 5) and result.best["eval/w"] == float(model.w)


def test_nan_evaluations_are_an_error_and_never_the_best(tmp_path):
  def nan():
    return tf.data.Dataset.from_tensors(tf.constant([np.nan]))

  with pytest.raises(NonFiniteLossError, match="No evaluation gave a finite loss"):
    fit(
      Drift(), lambda _: tf.data.Dataset.from_tensors(tf.constant([1.0])),
      FitConfig(num_epochs=2), tmp_path, seed=0, eval_fn=nan,
    )  # fmt: skip


def test_held_out_loss_is_a_mean_over_rows(tmp_path):
  """Batches of 2 and 1 rows: (0 + 0 + 9) / 3, not ((0 + 0) / 2 + 9) / 2."""
  result = fit(
    Drift(),
    lambda _: tf.data.Dataset.from_tensors(tf.constant([0.0])),  # w stays 0.
    FitConfig(num_epochs=1),
    tmp_path,
    seed=0,
    eval_fn=lambda: tf.data.Dataset.from_tensor_slices(tf.constant([0.0, 0.0, 3.0])).batch(2),
  )
  assert result.best["eval/loss"] == pytest.approx(3.0)


def test_seeds_differ_by_step_and_are_the_same_at_each_evaluation(tmp_path):
  class Seeds(Drift):
    def loss(self, batch, seed):
      # 12 bits of each half, which float32 holds exactly.
      halves = tf.cast(tf.bitwise.bitwise_and(seed, 0xFFF), tf.float32)
      return tf.reduce_mean((self.w - batch) ** 2), {"seed": halves[0] * 4096 + halves[1]}

  def data(*_):
    return tf.data.Dataset.from_tensor_slices(tf.constant([1.0, 2.0])).batch(1)

  seen = {}
  for seed in (0, 1):
    config = FitConfig(num_epochs=3, log_every=1)
    result = fit(Seeds(), data, config, tmp_path / str(seed), seed=seed, eval_fn=data)
    lines = read_jsonl(result.history)
    seen[seed] = [line["train/seed"] for line in lines if "train/seed" in line]
    evaluated = [line["eval/seed"] for line in lines if "eval/seed" in line]
    assert len(evaluated) == 3 and len(set(evaluated)) == 1
  assert len(seen[0]) == 6 and len({*seen[0], *seen[1]}) == 12


def test_unknown_cardinality_gets_a_total_after_one_epoch(tmp_path):
  totals = []

  class Totals(Logger):
    def tick(self, step, total=None):
      totals.append((step, total))

  def data(_):
    return tf.data.Dataset.from_tensors(tf.constant([1.0])).repeat(3).filter(lambda _: True)

  fit(Drift(), data, FitConfig(num_epochs=2), tmp_path, seed=0, logger=Totals())
  assert totals == [(1, None), (2, None), (3, None), (4, 6), (5, 6), (6, 6)]


def test_evaluation_changes_no_variable():
  model, (_, held_out) = SmallModel(), make_data()
  data = tf.data.Dataset.from_tensors(held_out)
  model.loss(held_out, tf.constant([0, 0]))
  before = values(model)
  metrics, rows = make_eval_step(model, tf.constant([0, 0]), data.element_spec)(held_out, 0)
  assert list(metrics) == ["loss", "mae"] and rows == 32
  for variable, old, new in zip(model.variables, before, values(model), strict=True):
    np.testing.assert_array_equal(new, old, err_msg=variable.path)


def test_gradients_are_clipped_by_global_norm(tmp_path):
  """Adam hides the scale of gradients, but not of one against the next."""
  ends = []
  for clip_norm in (1.0, 1e9):
    model = Drift()

    def values(epoch):
      return tf.data.Dataset.from_tensors(tf.constant([1000.0 if epoch else 0.5]))

    fit(
      model, values, FitConfig(num_epochs=2, clip_norm=clip_norm, learning_rate=0.01),
      tmp_path / str(clip_norm), seed=0,
    )  # fmt: skip
    ends.append(float(model.w))
  # Clipped, both gradients have norm 1, and Adam takes two full steps. Unclipped they are 1 and
  # 2000, and the second step is m / sqrt(v) of the two, bias-corrected.
  assert ends[0] == pytest.approx(0.02, abs=1e-4)
  second = (0.1 * 2000 / 0.19) / (0.001 * 2000**2 / 0.001999) ** 0.5
  assert ends[1] == pytest.approx(0.01 + 0.01 * second, abs=1e-4)


def test_damaged_last_checkpoint_falls_back(tmp_path, uninterrupted):
  with pytest.raises(Killed):
    run(tmp_path, SHORT, logger=KillAt(tmp_path / "metrics.jsonl", 20))
  *_, last = sorted((tmp_path / "checkpoints").iterdir())
  assert last.name == "step-00000018.npz"
  last.write_bytes(last.read_bytes()[:-1000])
  with pytest.warns(RuntimeWarning, match="step-00000018.npz is damaged"):
    run(tmp_path, SHORT)
  same_run(tmp_path, uninterrupted)


def test_empty_data_is_an_error(tmp_path):
  with pytest.raises(ValueError, match=r"train_fn\(0\) gave no batch"):
    fit(
      Drift(), lambda _: tf.data.Dataset.from_tensors(tf.constant([1.0])).take(0), FitConfig(),
      tmp_path, seed=0,
    )  # fmt: skip


def test_config_is_checked():
  for bad in (
    {"num_epochs": 0},
    {"learning_rate": float("nan")},
    {"patience": -1},
    {"precision": "float16"},
  ):
    with pytest.raises(ValueError, match=next(iter(bad))):
      FitConfig(**bad)


def test_loss_that_reaches_no_variable_is_an_error(tmp_path):
  class Stuck(Drift):
    def loss(self, batch, seed):
      return tf.reduce_mean(batch), {}

  with pytest.raises(ValueError, match="does not depend on any"):
    fit_drift(Stuck(), tmp_path)
