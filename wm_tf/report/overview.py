"""A summary of a run in sentences, and its scores as a table for the terminal."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping
from typing import Any

from wm_tf.report import scores
from wm_tf.report.formatting import NOT_RUN, decimals, duration, is_number, number, plus_minus
from wm_tf.report.published import published_scores
from wm_tf.report.return_verdicts import return_checks, return_in_words

_WIDTH = 90  # Columns of the terminal table.


def in_words(results: Mapping[str, Any]) -> str:
  """Returns a summary of a run: the agents' quality, the data and the time.

  Args:
    results: the content of `results.json`.

  Returns:
    Several sentences. The verdict on the return comes first.
  """
  return f"{return_in_words(return_checks(results))} {course_in_words(results)}"


def course_in_words(results: Mapping[str, Any]) -> str:
  """Returns the data, the time and the scores of a run as sentences, without verdicts.

  Args:
    results: the content of `results.json`.
  """
  data = results.get("data") if isinstance(results.get("data"), Mapping) else {}
  frames, episodes = (data.get(key) for key in ("frames", "episodes"))
  learned = any(
    isinstance(results.get(key), Mapping) for key in ("vae", "reconstruction", "dynamics")
  )
  text = f"{'A' if learned else 'No'} world model of {scores.environment_id(results)} was learned"
  if is_number(frames) and learned:
    text += f" from {number(frames)} frames"
    text += f" ({number(episodes)} episodes)" if is_number(episodes) else ""
  total = scores.total_seconds(results.get("seconds"))
  text += f"; the whole run took {duration(total)}." if total else "."

  rows = {row.key: row for row in scores.scores(results)}
  places = decimals(row.mean for row in rows.values())

  def scored(key: str, words: str) -> list[str]:
    row = rows.get(key)
    if row is None or row.mean is None:
      return []
    return [f"{words} {plus_minus(row.mean, row.standard_error, places)}"]

  tried = scored("controller_in_environment", "the controller trained in its dreams scores")
  tried += scored("planner_in_environment", "the served planner" + ("" if tried else " scores"))
  if not tried:
    return f"{text} No controller or planner has been evaluated in the real environment yet."
  against = scored("random", "random actions") + scored(scores.SCRIPTED, "the scripted policy")
  text += f" In the real environment {' and '.join(tried)}"
  text += f", against {' and '.join(against)}." if against else "."
  return text + _against_scripted(rows, places)


def _against_scripted(rows: Mapping[str, scores.Score], places: int) -> str:
  scripted = rows.get(scores.SCRIPTED)
  tried = [rows[key] for key in ("controller_in_environment", "planner_in_environment")]
  tried = [row for row in tried if row.mean is not None and math.isfinite(row.mean)]
  if scripted is None or scripted.mean is None or not tried:
    return ""
  best = max(tried, key=lambda row: row.mean)
  ahead, error = best.mean - scripted.mean, scores.difference_error(best, scripted)
  if error is not None and abs(ahead) <= 2 * error:
    return " The best of them does not differ significantly from the scripted policy."
  side = "above" if ahead > 0 else "below"
  return f" The best is {number(abs(ahead), places)} {side} the scripted policy."


def terminal_table(results: Mapping[str, Any]) -> str:
  """Formats the scores of a run for a terminal.

  Args:
    results: the content of `results.json`. Missing scores are shown as "not run"; the scripted
      policy and published scores are shown only if they exist.

  Returns:
    Lines joined by newlines; verdicts are wrapped at 90 columns.
  """
  rows = scores.scores(results)
  places = decimals(row.mean for row in rows)
  width = max(len(row.label) for row in rows)
  head = f"{'agent':<{width}} {'mean':>8} {'s.e.':>7} {'std':>7} {'n':>5} {'time':>11}"
  rule = "─" * len(head)
  lines = [f"{scores.environment_title(results)}: return per episode", "", head, rule]
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
  for check in return_checks(results):
    if check.verdict != NOT_RUN:
      text = f"{check.name}: {check.verdict}. {check.words}"
      lines += textwrap.wrap(text, _WIDTH, subsequent_indent="  ")
  found = scores.gap(results)
  if found is not None:
    lines.append(f"gap, controller in the model minus in the environment: {found.text}")
  threshold = scores.reward_threshold(results)
  if threshold is not None:
    lines.append(
      f"reward threshold at which gymnasium calls it solved: {number(threshold, places)}"
    )
  published = published_scores(scores.environment_id(results))
  if published is not None:
    lines += ["", f"Published, {published.environment}", f"({published.caveat}):"]
    width = max(len(item.method) for item in published.scores)
    for item in published.scores:
      lines.append(f"  {item.method:<{width}} {plus_minus(item.mean, item.std):>12}")
  return "\n".join(lines)
