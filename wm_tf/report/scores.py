"""The returns of a run's agents, as rows of score tables, and the gap to the model."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from wm_tf.report.formatting import decimals, is_number, plus_minus

UNNAMED = "an unnamed environment"
SCRIPTED = "heuristic"  # The scripted policy's key in results.json, if there is one.

# Key in results.json -> its label, in the order in which scores are shown.
LABELS = {
  "random": "random",
  SCRIPTED: "scripted policy",
  "controller_in_model": "controller, in the model",
  "controller_in_environment": "controller, in the environment",
  "planner_in_environment": "served planner, in the environment",
}


class Score(NamedTuple):
  """One row of the score table. Missing figures are None.

  Attributes:
    key: the entry's name in `results`.
    label: the name to show.
    mean: the mean return over the episodes.
    std: the standard deviation of the return over the episodes, with divisor n.
    n: the number of episodes.
    seeds: the seeds of the episodes.
    seconds: the duration of the evaluation.
    note: a remark that is needed to read the score, such as the length of the dreams.
  """

  key: str
  label: str
  mean: float | None = None
  std: float | None = None
  n: int | None = None
  seeds: Sequence[int] = ()
  seconds: float | None = None
  note: str = ""

  @property
  def standard_error(self) -> float | None:
    """The standard error of the mean, `std / sqrt(n - 1)`; None for fewer than two episodes.

    It equals `s / sqrt(n)`, where `s` is the standard deviation with divisor `n - 1`.
    """
    if self.std is None or not self.n or self.n < 2:
      return None
    return self.std / math.sqrt(self.n - 1)


def environment_id(results: Mapping[str, Any]) -> str:
  """Returns the gymnasium id of the run's environment.

  Args:
    results: has the id as `env_id`, or as `environment` (in `results.json`).

  Returns:
    The id; "an unnamed environment" if `results` has none.
  """
  return str(results.get("env_id") or results.get("environment") or UNNAMED)


def environment_title(results: Mapping[str, Any]) -> str:
  """Returns the id of the run's environment, and its name in parentheses if it differs.

  Args:
    results: see `environment_id`; `environment_name` is the name that `make_env` takes.
  """
  env_id, name = environment_id(results), results.get("environment_name")
  return f"{env_id} ({name})" if name and str(name) != env_id else env_id


def has_scripted_policy(results: Mapping[str, Any]) -> bool:
  """Returns whether the run's environment has a scripted policy, evaluated or not.

  Args:
    results: the content of `results.json`.
  """
  return SCRIPTED in results


def reward_threshold(results: Mapping[str, Any]) -> float | None:
  """Returns the return at which gymnasium calls the environment solved; None if it has none.

  Args:
    results: the content of `results.json`.
  """
  value = results.get("reward_threshold")
  return float(value) if is_number(value) and math.isfinite(value) else None


def score(key: str, entry: Any, label: str | None = None) -> Score:
  """Reads one entry of the results.

  Args:
    key: the entry's name.
    entry: `{mean, std, n, seeds, seconds, note}`; all but the mean are optional.
    label: the name to show; None for the one in `LABELS`, or the key itself.

  Returns:
    The row; all figures are None if `entry` has no mean.
  """
  label = label or LABELS.get(key) or key.replace("_", " ")
  if not isinstance(entry, Mapping) or not is_number(entry.get("mean")):
    return Score(key, label)

  def optional(name: str) -> float | None:
    return float(entry[name]) if is_number(entry.get(name)) else None

  n, seeds = optional("n"), entry.get("seeds")
  return Score(
    key,
    label,
    float(entry["mean"]),
    optional("std"),
    int(n) if n is not None and math.isfinite(n) else None,
    [int(seed) for seed in seeds] if isinstance(seeds, list | tuple | np.ndarray) else [],
    optional("seconds"),
    str(entry.get("note") or ""),
  )


def scores(results: Mapping[str, Any]) -> list[Score]:
  """Reads all scores of a run.

  Args:
    results: the content of `results.json`.

  Returns:
    The scores in `LABELS`, evaluated or not (the scripted policy only if there is one), then every
    other entry of `results` with a `mean`.
  """
  known = [key for key in LABELS if key != SCRIPTED or has_scripted_policy(results)]
  extra = (score(key, entry) for key, entry in results.items() if key not in LABELS)
  return [score(key, results.get(key)) for key in known] + [r for r in extra if r.mean is not None]


class Gap(NamedTuple):
  """The return in the model minus the return in the environment.

  Attributes:
    mean: the difference of the mean returns.
    standard_error: its standard error; None unless both means have one.
    text: both as text, with as many decimals as the returns have.
  """

  mean: float
  standard_error: float | None
  text: str


def gap(results: Mapping[str, Any]) -> Gap | None:
  """Returns the controller's gap between model and environment; None unless both were evaluated.

  Args:
    results: has the scores `controller_in_model` and `controller_in_environment`.
  """
  model = score("controller_in_model", results.get("controller_in_model"))
  real = score("controller_in_environment", results.get("controller_in_environment"))
  if model.mean is None or real.mean is None:
    return None
  error = difference_error(model, real)
  mean = model.mean - real.mean
  text = plus_minus(mean, error, decimals([model.mean, real.mean]), sign="+")
  return Gap(mean, error, text)


def difference_error(a: Score, b: Score) -> float | None:
  """Returns the standard error of the difference of two means; None unless both have one.

  Args:
    a: the first score.
    b: the second score.
  """
  errors = a.standard_error, b.standard_error
  return None if None in errors else math.hypot(*errors)


def total_seconds(seconds: Any) -> float | None:
  """Returns the duration of a run, `seconds["total"]` or the sum of the stages; None if unknown.

  Args:
    seconds: stage to seconds; any other value has no total.
  """
  if not isinstance(seconds, Mapping):
    return None
  if is_number(seconds.get("total")):
    return float(seconds["total"])
  return math.fsum(float(v) for v in seconds.values() if is_number(v)) or None
