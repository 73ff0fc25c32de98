"""Scores as plain numbers and words: what the terminal table and the page both say."""

from __future__ import annotations

import math
import numbers
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

NOT_RUN = "not run"

# Key in results.json -> the words for it, in the order in which they are shown.
_LABELS = {
  "random": "random",
  "heuristic": "scripted heuristic",
  "controller_in_model": "controller, in the model",
  "controller_in_environment": "controller, in the environment",
  "planner_in_environment": "served planner, in the environment",
}


class Score(NamedTuple):
  """One row of the score table. Every figure is None where the run has none.

  Attributes:
    key: the entry's name in `results`.
    label: the same in words.
    mean: mean return over the episodes.
    std: standard deviation of the return over the episodes.
    n: number of episodes.
    seeds: seeds of the episodes.
    seconds: how long the evaluation took.
    note: what else must be known to read it, such as the length of the dreams.
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
    """Standard error of the mean; None below two episodes, where there is none to speak of."""
    if self.std is None or not self.n or self.n < 2:
      return None
    return self.std / math.sqrt(self.n)


class Reference(NamedTuple):
  """A published score. `std` is None where the source gives none."""

  method: str
  mean: float
  std: float | None
  source: str


class References(NamedTuple):
  """Published scores of one environment and what keeps them from being comparable."""

  environment: str
  caveat: str
  scores: tuple[Reference, ...]


_CAR_RACING = References(
  "CarRacing-v0",
  "measured on v0: another version of the environment, so context and not a comparison",
  (
    Reference("DQN", 343, 18, "World Models paper"),
    Reference("A3C, discrete", 652, 10, "World Models paper"),
    Reference("World Models, z only", 632, 251, "World Models paper"),
    Reference("World Models, z and h", 906, 21, "World Models paper"),
    Reference("ctallec/world-models", 860, 120, "its repository"),
    Reference("ctallec/world-models, untrained RNN", 870, 120, "its repository"),
    Reference("planning with an MDN-RNN (EPLS)", 679, 210, "from its logs"),
    Reference("trained only in the dream (dropout), last", 625, 289, "from its logs"),
    Reference("PPO-Beta", 913, 26, "secondary source"),
  ),
)
_TAKE_COVER = References(
  "DoomTakeCover-v0",
  "measured on other versions of the environment, so context and not a comparison",
  (
    Reference("random", 210, 108, "reported"),
    Reference("World Models, temperature 1.15", 1092, 556, "World Models paper"),
    Reference("zacwellmer/WorldModels, temperature 1", 849, 499, "reported"),
    Reference("dropout dream land", 933, 552, "reported"),
    Reference("AttentionAgent", 1125, 589, "reported"),
  ),
)


def environment_id(results: Mapping[str, Any]) -> str:
  """The gymnasium id that the run was about: `results["env_id"]`, CarRacing-v3 by default."""
  return str(results.get("env_id") or "CarRacing-v3")


def references(results: Mapping[str, Any]) -> References | None:
  """Published scores for the run's environment, or None where we know of none."""
  name = environment_id(results)
  if name.startswith("CarRacing"):
    return _CAR_RACING
  return _TAKE_COVER if "TakeCover" in name else None


def is_number(value: Any) -> bool:
  """Whether `value` is a number that can be shown (NumPy scalars too; NaN and infinity too)."""
  return isinstance(value, numbers.Real) and not isinstance(value, bool)


def score(key: str, entry: Any, label: str | None = None) -> Score:
  """Reads one `{mean, std, n, seeds, seconds}`; whatever is missing stays None."""
  label = label or _LABELS.get(key) or key.replace("_", " ")
  if not isinstance(entry, Mapping) or not is_number(entry.get("mean")):
    return Score(key, label)
  optional = lambda name: float(entry[name]) if is_number(entry.get(name)) else None
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
  """The five headline scores, run or not, then every other entry of `results` with a `mean`."""
  rows = [score(key, results.get(key)) for key in _LABELS]
  extra = (score(key, entry) for key, entry in results.items() if key not in _LABELS)
  return rows + [row for row in extra if row.mean is not None]


class Gap(NamedTuple):
  """What the dream promised minus what the environment paid.

  Attributes:
    mean: the difference of the mean returns.
    standard_error: its standard error; None unless both means have one.
    text: the same in words, with as many decimals as the returns have.
  """

  mean: float
  standard_error: float | None
  text: str


def gap(results: Mapping[str, Any]) -> Gap | None:
  """The controller's mean return in the model minus in the environment; None unless both ran."""
  model = score("controller_in_model", results.get("controller_in_model"))
  real = score("controller_in_environment", results.get("controller_in_environment"))
  if model.mean is None or real.mean is None:
    return None
  errors = model.standard_error, real.standard_error
  error = None if None in errors else math.hypot(*errors)
  mean = model.mean - real.mean
  text = plus_minus(mean, error, decimals([model.mean, real.mean]), sign="+")
  return Gap(mean, error, text)


def decimals(values: Iterable[float | None]) -> int:
  """Decimals for a column of numbers: 0 from a hundred up, 1 from ten up, else 2."""
  largest = max((abs(v) for v in values if v is not None and math.isfinite(v)), default=100.0)
  return 0 if largest >= 100 else 1 if largest >= 10 else 2


def number(value: float | None, places: int = 0, sign: str = "") -> str:
  """A number for people: thousands separated, a dash for None; `sign="+"` shows the plus."""
  if value is None:
    return "-"
  if not math.isfinite(value):
    return str(float(value))
  return f"{round(float(value), places) + 0.0:{sign},.{places}f}"  # + 0.0: never "-0".


def plus_minus(value: float | None, error: float | None, places: int = 0, sign: str = "") -> str:
  """`512 ± 34`, or only the first where there is no error."""
  text = number(value, places, sign)
  return text if value is None or error is None else f"{text} ± {number(error, places)}"


def duration(seconds: float | None) -> str:
  """`8.4 s`, `3 min 05 s`, `2 h 07 min`."""
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
  """Seeds in few words: `[3, 4, 5, 9]` becomes `3-5, 9`."""
  runs: list[list[int]] = []
  for value in sorted(set(values)):
    if runs and value == runs[-1][1] + 1:
      runs[-1][1] = value
    else:
      runs.append([value, value])
  return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)


def total_seconds(seconds: Any) -> float | None:
  """`seconds["total"]`, or else the sum of the stages; None if there is neither."""
  if not isinstance(seconds, Mapping):
    return None
  if is_number(seconds.get("total")):
    return float(seconds["total"])
  return math.fsum(float(v) for v in seconds.values() if is_number(v)) or None


def in_words(results: Mapping[str, Any]) -> str:
  """What was learned from how much, in how long, and what came of it: a few plain sentences."""
  data = results.get("data") if isinstance(results.get("data"), Mapping) else {}
  frames, episodes = (data.get(key) for key in ("frames", "episodes"))
  learned = any(isinstance(results.get(key), Mapping) for key in ("vae", "dynamics"))
  text = f"{'A' if learned else 'No'} world model of {environment_id(results)} was learned"
  if is_number(frames) and learned:
    text += f" from {number(frames)} frames"
    text += f" ({number(episodes)} episodes)" if is_number(episodes) else ""
  total = total_seconds(results.get("seconds"))
  text += f"; the whole run took {duration(total)}." if total else "."

  rows = {row.key: row for row in scores(results)}
  places = decimals(row.mean for row in rows.values())
  say = lambda key, words: (
    [f"{words} {plus_minus(rows[key].mean, rows[key].standard_error, places)}"]
    if rows[key].mean is not None
    else []
  )
  tried = say("controller_in_environment", "the controller trained in its dreams scores")
  tried += say("planner_in_environment", "the served planner" + (" scores" if not tried else ""))
  if not tried:
    return f"{text} Neither controller nor planner has been tried in the real environment yet."
  against = say("random", "random actions") + say("heuristic", "the scripted heuristic")
  text += f" In the real environment {' and '.join(tried)}"
  text += f", against {' and '.join(against)}." if against else "."
  return text + _against_heuristic(rows, places)


def _against_heuristic(rows: Mapping[str, Score], places: int) -> str:
  heuristic = rows["heuristic"]
  tried = [rows[key] for key in ("controller_in_environment", "planner_in_environment")]
  tried = [row for row in tried if row.mean is not None and math.isfinite(row.mean)]
  if heuristic.mean is None or not tried:
    return ""
  best = max(tried, key=lambda row: row.mean)
  ahead = best.mean - heuristic.mean
  errors = best.standard_error, heuristic.standard_error
  if None not in errors and abs(ahead) <= 2 * math.hypot(*errors):
    return " These episodes cannot tell the best of them from the heuristic."
  side = "above" if ahead > 0 else "short of"
  return f" The best is {number(abs(ahead), places)} {side} the heuristic."


def terminal_table(results: Mapping[str, Any]) -> str:
  """The scores of a run as text for a terminal, with published scores beneath for context.

  Args:
    results: what `results.json` holds. Entries that are missing are shown as "not run".

  Returns:
    Lines joined by newlines, at most 90 columns wide for the five known rows.
  """
  rows = scores(results)
  places = decimals(row.mean for row in rows)
  width = max(len(row.label) for row in rows)
  head = f"{'agent':<{width}} {'mean':>8} {'s.e.':>7} {'std':>7} {'n':>5} {'time':>11}"
  rule = "─" * len(head)
  lines = [f"{environment_id(results)}: return per episode", "", head, rule]
  for row in rows:
    if row.mean is None:
      lines.append(f"{row.label:<{width}} {NOT_RUN:>8}")
      continue
    mean, error, std = (number(v, places) for v in (row.mean, row.standard_error, row.std))
    n = number(row.n)
    lines.append(
      f"{row.label:<{width}} {mean:>8} {error:>7} {std:>7} {n:>5} {duration(row.seconds):>11}"
    )
  lines.append(rule)
  found = gap(results)
  if found is not None:
    lines.append(f"gap, controller in the model minus in the environment: {found.text}")
  published = references(results)
  if published is not None:
    lines += ["", f"Published, {published.environment}", f"({published.caveat}):"]
    width = max(len(item.method) for item in published.scores)
    for item in published.scores:
      lines.append(f"  {item.method:<{width}} {plus_minus(item.mean, item.std):>12}")
  return "\n".join(lines)
