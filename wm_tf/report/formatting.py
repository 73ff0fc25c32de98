"""Formats numbers, durations and seeds for reports."""

from __future__ import annotations

import math
import numbers
from collections.abc import Iterable, Mapping
from typing import Any

NOT_RUN = "not run"


def is_number(value: Any) -> bool:
  """Returns whether a value is a real number, including NumPy scalars, NaN and infinity.

  Args:
    value: any value; a bool is not a number.
  """
  return isinstance(value, numbers.Real) and not isinstance(value, bool)


def is_finite(value: Any) -> bool:
  """Returns whether a value is a finite real number.

  Args:
    value: any value; a bool is not a number.
  """
  return is_number(value) and math.isfinite(value)


def decimals(values: Iterable[float | None]) -> int:
  """Chooses the number of decimals for a column of numbers, by its largest absolute value.

  Args:
    values: the numbers of the column; None and numbers that are not finite are ignored.

  Returns:
    0 from 100, 1 from 10, 2 from 0.1, otherwise enough for two significant digits.
  """
  largest = max((abs(v) for v in values if is_finite(v)), default=100.0)
  if largest >= 100:
    return 0
  if largest >= 10:
    return 1
  return 2 if largest >= 0.1 or not largest else min(8, 1 - math.floor(math.log10(largest)))


def number(value: float | None, places: int = 0, sign: str = "") -> str:
  """Formats a number for readers.

  Args:
    value: the number; None is written as a dash.
    places: the number of decimals.
    sign: "+" to show the sign of positive numbers too.

  Returns:
    The text, with commas between thousands.
  """
  if value is None:
    return "-"
  if not math.isfinite(value):
    return str(float(value))
  return f"{round(float(value), places) + 0.0:{sign},.{places}f}"  # + 0.0: never "-0".


def plus_minus(value: float | None, error: float | None, places: int = 0, sign: str = "") -> str:
  """Formats a value with its error, such as `512 ± 34`.

  Args:
    value: the value; None is written as a dash.
    error: the error; None to write only the value.
    places: the number of decimals.
    sign: "+" to show the sign of positive values too.
  """
  text = number(value, places, sign)
  return text if value is None or error is None else f"{text} ± {number(error, places)}"


def duration(seconds: float | None) -> str:
  """Formats a duration as `8.4 s`, `3 min 05 s` or `2 h 07 min`.

  Args:
    seconds: the duration; None is written as a dash.
  """
  if seconds is None:
    return "-"
  if not math.isfinite(seconds):
    return str(float(seconds))
  if seconds < 59.95:
    return f"{seconds:.1f} s"
  minutes, rest = divmod(round(seconds), 60)
  if minutes < 60:
    return f"{minutes} min {rest:02d} s"
  return f"{minutes // 60} h {minutes % 60:02d} min"


def ranges(values: Iterable[int]) -> str:
  """Formats integers as ranges: `[3, 4, 5, 9]` becomes `3-5, 9`.

  Args:
    values: the integers, in any order.
  """
  runs: list[list[int]] = []
  for value in sorted(set(values)):
    if runs and value == runs[-1][1] + 1:
      runs[-1][1] = value
    else:
      runs.append([value, value])
  return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)


def figures_text(figures: Mapping[str, Any], indent: str = "  ") -> str:
  """Writes a model's held-out figures, one a line.

  Args:
    figures: numbers, texts and mappings of them by name. A mapping of numbers is one line; a
      mapping of mappings has a line of its own and the rest below it.
    indent: what each line begins with.

  Returns:
    The lines.
  """
  lines = []
  for name, value in figures.items():
    if isinstance(value, Mapping) and any(isinstance(v, Mapping) for v in value.values()):
      lines += [f"{indent}{name}", figures_text(value, indent + "  ")]
      continue
    if isinstance(value, Mapping):
      value = "  ".join(f"{k}: {_short(v)}" for k, v in value.items() if v is not None)
    lines.append(f"{indent}{name:24} {_short(value)}")
  return "\n".join(lines)


def scores_text(scores: Mapping[str, Any]) -> str:
  """Writes the returns of a validation or of `results.json`, one agent a line.

  Args:
    scores: by agent, a mapping with `mean`, `std` and `n`; other entries are ignored, except
      `iteration`, which becomes the heading.

  Returns:
    The lines.
  """
  lines = [f"Iteration {scores['iteration']}:"] if "iteration" in scores else []
  for name, score in scores.items():
    if isinstance(score, Mapping) and "mean" in score:
      lines.append(f"  {name:28} {score['mean']:8.1f} ± {score['std']:.1f}  (n = {score['n']})")
  return "\n".join(lines)


def _short(value: Any) -> str:
  return f"{value:.4g}" if isinstance(value, float) else str(value)
