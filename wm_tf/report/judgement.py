"""The common parts of all verdicts: judged figures and comparisons with limits."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from wm_tf.report import formatting

GOOD, USABLE, POOR, INFO = "good", "usable", "poor", "no verdict"
NOT_RUN = formatting.NOT_RUN
NOT_FINITE = "The figure is not finite."


class Check(NamedTuple):
  """A judged figure, as text.

  Attributes:
    group: "return", "VAE", "reconstruction", "dynamics", "dreams", "actions",
      "controller" or "transfer".
    name: the measured quantity and its unit.
    value: the figure, or "not run".
    reference: the usual value.
    verdict: GOOD, USABLE, POOR, INFO or NOT_RUN.
    words: a sentence that explains the verdict.
  """

  group: str
  name: str
  value: str
  reference: str
  verdict: str
  words: str


def not_run(group: str, name: str, reference: str) -> Check:
  """Returns the check of a figure that was not measured.

  Args:
    group: see `Check`.
    name: see `Check`.
    reference: see `Check`.
  """
  return Check(group, name, NOT_RUN, reference, NOT_RUN, "")


def section_of(results: Mapping[str, Any], name: str) -> Mapping[str, Any]:
  """Returns a section of the results; empty if it is missing or not a mapping.

  Args:
    results: the results.
    name: the section's key.
  """
  section = results.get(name)
  return section if isinstance(section, Mapping) else {}


def figure_of(section: Mapping[str, Any], name: str) -> float | None:
  """Returns a figure of a section as a float; None if it is missing or not a number.

  Args:
    section: a section of the results.
    name: the figure's key.
  """
  value = section.get(name)
  return float(value) if formatting.is_number(value) else None


def judge_low(value: float, limits: tuple[float, float]) -> str:
  """Returns the verdict on a figure that should be small; NaN is POOR.

  Args:
    value: the figure.
    limits: `(good, usable)`: GOOD up to the first, USABLE below the second.
  """
  return GOOD if value <= limits[0] else USABLE if value < limits[1] else POOR


def judge_high(value: float, limits: tuple[float, float]) -> str:
  """Returns the verdict on a figure that should be large; NaN is POOR.

  Args:
    value: the figure.
    limits: `(good, usable)`: GOOD from the first, USABLE from the second.
  """
  return GOOD if value >= limits[0] else USABLE if value >= limits[1] else POOR


def make_check(
  group: str,
  name: str,
  reference: str,
  value: float | None,
  judge: Callable[[float], str],
  words: Mapping[str, str],
  text: str | None = None,
  places: int = 2,
) -> Check:
  """Judges one figure.

  Args:
    group: see `Check`.
    name: see `Check`.
    reference: see `Check`.
    value: the figure; None if it was not measured.
    judge: maps the figure to a verdict.
    words: a sentence for each verdict.
    text: the figure as text; None for the number with `places` decimals.
    places: the number of decimals.

  Returns:
    The check. Its verdict is NOT_RUN if `value` is None.
  """
  if value is None:
    return not_run(group, name, reference)
  verdict = judge(value)
  sentence = words.get(verdict, "") if math.isfinite(value) else NOT_FINITE
  text = text or formatting.number(value, places)
  return Check(group, name, text, reference, verdict, sentence)
