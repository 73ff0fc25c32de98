"""The folder of one call of `fit`: the run that it is for, and the result of a finished run."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from wm_tf.files import read_json, to_json, write_json
from wm_tf.training import checkpoints

RUN = "run.json"  # What the folder is for; a call for anything else is refused.
CHECKPOINTS, BEST = "checkpoints", "best"  # Only while it runs.
HISTORY, WEIGHTS, RESULT = "metrics.jsonl", "weights.npz", "fit.json"  # `RESULT` is written last.


class RunMismatchError(ValueError):
  """A folder holds a run of another configuration, seed or model."""


@dataclasses.dataclass(frozen=True)
class FitResult:
  """The result of `fit`.

  Attributes:
    best: held-out metrics (`eval/loss`, ...) of the weights that the model has now; empty without
      held-out data.
    final: held-out metrics of the last evaluation.
    train: training metrics (`train/loss`, ...) averaged up to the last step.
    best_step: the step that the model's weights are from.
    steps: number of batches trained on.
    epochs: number of epochs begun and finished.
    skipped_steps: steps without an update, because the loss or gradient was not finite.
    stopped_early: whether patience ran out.
    seconds: time spent, over all restarts.
    history: the JSONL file of metrics (`loggers.read_jsonl`).
    weights: the file of the model's weights (`checkpoints.load_weights`).
  """

  best: dict[str, float]
  final: dict[str, float]
  train: dict[str, float]
  best_step: int
  steps: int
  epochs: int
  skipped_steps: int
  stopped_early: bool
  seconds: float
  history: Path
  weights: Path


def claim(directory: Path, run: Mapping[str, Any], defaults: Mapping[str, Any]) -> None:
  """Records which run a folder is for, or checks that it is for this one.

  Args:
    directory: the folder.
    run: `config`, `seed` and `fingerprint`; JSON-able.
    defaults: values of fields of `config` that a folder of an older version does not have.

  Raises:
    RunMismatchError: if the folder is for another run.
  """
  run = to_json(run)
  path = directory / RUN
  if not path.exists():
    write_json(path, run)
    return
  existing = read_json(path)
  existing["config"] = {**defaults, **existing["config"]}
  found, expected = (checkpoints.flatten_with_path(nest) for nest in (existing, run))
  for name in [*found, *(name for name in expected if name not in found)]:
    if found.get(name) != expected.get(name):
      raise RunMismatchError(
        f"{directory} holds a run with {name} = {found.get(name)!r}, and now it is "
        f"{expected.get(name)!r}. Use another folder, the old setting, or delete this folder."
      )


def is_finished(directory: Path) -> bool:
  """Whether a folder holds a finished run with its weights."""
  return (directory / RESULT).exists() and (directory / WEIGHTS).exists()


def finished(directory: Path) -> FitResult:
  """Returns the result of a finished run, and removes what only an unfinished one needs."""
  for name in (CHECKPOINTS, BEST):
    checkpoints.Checkpoints(directory / name).clear()
  return FitResult(
    **read_json(directory / RESULT),
    history=directory / HISTORY,
    weights=directory / WEIGHTS,
  )
