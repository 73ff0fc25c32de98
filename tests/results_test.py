"""A return that the README quotes is in a file of docs/results."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

_ROOT = Path(__file__).parents[1]
_RESULTS = _ROOT / "docs" / "results"
# "749 ± 226", and the row "| controller | 749 | 226 | 32 |", with or without emphasis.
_NUMBER = r"\d+(?:,\d{3})*(?:\.\d+)?"
_PAIR = re.compile(rf"([-−+]?{_NUMBER}) ± ({_NUMBER})")
_ROW = re.compile(
  rf"^\|[^|]*\| \**([-−]?{_NUMBER})\** \| \**({_NUMBER})\** \| \**\d+\** \|$", re.MULTILINE
)
# Shorter lists of equal length are not taken for returns on equal tracks.
_MIN_EPISODES = 4


def _numbers(values: Any) -> list[float] | None:
  """The values as numbers if they are a list of these."""
  if not isinstance(values, list) or len(values) < 2:
    return None
  return values if all(isinstance(value, int | float) for value in values) else None


def _figures(values: Any) -> Iterator[tuple[float, float]]:
  """Yields every mean with its spread that a file holds, or that follows from its returns."""
  if isinstance(values, dict):
    mean, std = values.get("mean"), values.get("std")
    if isinstance(mean, int | float) and isinstance(std, int | float):
      yield mean, std
    lists = [found for found in map(_numbers, values.values()) if found]
    for found in lists:
      yield from _spreads(found)
    for one, other in itertools.permutations(lists, 2):  # Paired differences, on equal tracks.
      if len(one) == len(other) >= _MIN_EPISODES:
        yield from _spreads(list(np.subtract(one, other)))
    values = list(values.values())
  if isinstance(values, list):
    if not _numbers(values):
      for value in values:
        yield from _figures(value)
    yield from _over_seeds([value for value in values if isinstance(value, dict)])


def _over_seeds(rows: list[dict[str, Any]]) -> Iterator[tuple[float, float]]:
  """Yields the spreads of the rows' means, and of the means of their paired differences."""
  means = {}
  for key in {key for row in rows for key in row}:
    lists = [found for row in rows if (found := _numbers(row.get(key)))]
    if len(lists) == len(rows) >= 2 and all(len(found) >= _MIN_EPISODES for found in lists):
      means[key] = [float(np.mean(found)) for found in lists]
      yield from _spreads(means[key])
  for one, other in itertools.permutations(means.values(), 2):
    yield from _spreads(list(np.subtract(one, other)))


def _spreads(values: list[float]) -> Iterator[tuple[float, float]]:
  for ddof in (0, 1):
    std = float(np.std(values, ddof=ddof))
    yield float(np.mean(values)), std
    yield float(np.mean(values)), std / len(values) ** 0.5


def _quoted(text: str) -> list[tuple[str, str]]:
  """Every mean with its spread, as it is written."""
  return [match.group(1, 2) for match in (*_PAIR.finditer(text), *_ROW.finditer(text))]


def _is_rounded(text: str, value: float) -> bool:
  text = text.replace(",", "").replace("−", "-")
  places = len(text.partition(".")[2])
  return abs(float(text) - value) <= 0.5000001 * 10**-places


def _holds(figures: list[tuple[float, float]], mean: str, std: str) -> bool:
  return any(_is_rounded(mean, a) and _is_rounded(std, b) for a, b in figures)


@pytest.fixture(scope="module")
def figures() -> list[tuple[float, float]]:
  files = [json.loads(path.read_text()) for path in _RESULTS.glob("*.json")]
  return [figure for values in files for figure in _figures(values)]


def test_every_return_that_the_readme_quotes_is_in_a_results_file(figures):
  quoted = _quoted((_ROOT / "README.md").read_text())
  assert len(quoted) >= 5
  missing = [f"{mean} ± {std}" for mean, std in quoted if not _holds(figures, mean, std)]
  assert not missing, f"README.md quotes what no file of docs/results holds: {missing}"


def test_a_return_that_was_changed_is_found(figures):
  mean, std = _quoted((_ROOT / "README.md").read_text())[0]
  assert _holds(figures, mean, std)
  changed = str(float(mean.replace(",", "").replace("−", "-")) + 41)
  assert not _holds(figures, changed, std)


@pytest.mark.parametrize(
  ("text", "expected"),
  [
    ("reaches -163 ± 91 on", [("-163", "91")]),
    ("| **planner** | **838** | 126 | 32 |", [("838", "126")]),
    ("The planner gets 89 ± 3.7, and 5 minutes", [("89", "3.7")]),
    ("| action_repeat | 1 | environment steps |", []),
  ],
)
def test_what_counts_as_a_return(text, expected):
  assert _quoted(text) == expected
