"""The folder of one call of `fit`: its settings, and the result when it is finished."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from wm_tf.files import read_json, to_json, write_json
from wm_tf.training import checkpoints

RUN = "run.json"  # Settings of the fit; a call with other settings is refused.
CHECKPOINTS, BEST = "checkpoints", "best"  # Removed when the fit is finished.
HISTORY, WEIGHTS, RESULT = "metrics.jsonl", "weights.npz", "fit.json"  # `RESULT` is written last.


class RunMismatchError(ValueError):
  """A folder holds a run of another configuration, seed or model."""


@dataclasses.dataclass(frozen=True)
class FitResult:
  """The result of `fit`.

  Attributes:
    best: held-out metrics (`eval/loss`, ...) of the model's final weights; empty without held-out
      data.
    final: held-out metrics of the last evaluation.
    train: training metrics (`train/loss`, ...) averaged up to the last step.
    best_step: the step of the model's final weights.
    steps: number of batches trained on.
    epochs: number of completed epochs.
    skipped_steps: number of steps without an update, because the loss or gradient was not finite.
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
  """Records the settings of a fit in its folder, or compares them with the recorded ones.

  Args:
    directory: the folder.
    run: `config`, `seed` and `fingerprint`; JSON-able.
    defaults: values of fields of `config` that a folder of an older version lacks.

  Raises:
    RunMismatchError: if the recorded settings differ.
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
  """Returns whether a folder holds a finished fit with its weights.

  Args:
    directory: the folder.
  """
  return (directory / RESULT).exists() and (directory / WEIGHTS).exists()


def finished(directory: Path) -> FitResult:
  """Reads the result of a finished fit, and removes its checkpoints.

  Args:
    directory: the folder.

  Returns:
    The result.
  """
  for name in (CHECKPOINTS, BEST):
    checkpoints.Checkpoints(directory / name).clear()
  return FitResult(
    **read_json(directory / RESULT),
    history=directory / HISTORY,
    weights=directory / WEIGHTS,
  )
