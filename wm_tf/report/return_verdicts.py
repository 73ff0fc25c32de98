"""The verdicts on the returns of a run's agents in the environment.

A return is judged by its share of the way from random actions to a target. The target is the reward
threshold at which gymnasium calls the environment solved or the scripted policy's return, whichever
is higher. Without a target the best possible return is unknown, so that no return is called good.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from wm_tf.report import scores
from wm_tf.report.formatting import decimals, is_finite, number, plus_minus
from wm_tf.report.judgement import GOOD, INFO, NOT_FINITE, NOT_RUN, POOR, USABLE, Check, not_run

GROUP = "return"
_SHARE = (0.9, 0.5)  # (good, usable) share of the way from random actions to the target.
_SURE = 3.0  # Standard errors above random actions that count as significant.
_EFFECT = 1.0  # Standard deviations above random actions that are usable without a target.
_SUFFIX = "_in_environment"


class _Target(NamedTuple):
  """A target return and its description."""

  value: float
  words: str


def return_checks(results: Mapping[str, Any]) -> list[Check]:
  """Judges the return of every agent of a run in the environment.

  Args:
    results: the content of `results.json`: the scores `random`, `controller_in_environment`,
      `planner_in_environment` and other `*_in_environment`; `heuristic` if there is a scripted
      policy; `reward_threshold`, the return at which gymnasium calls the environment solved, or
      None.

  Returns:
    One check for each agent. Controller and planner are "not run" if they were not evaluated.
  """
  rows = {row.key: row for row in scores.scores(results)}
  agents = [row for key, row in rows.items() if key.endswith(_SUFFIX)]
  random = rows["random"]
  shown = [random, *([rows[scores.SCRIPTED]] if scores.SCRIPTED in rows else [])]
  threshold = scores.reward_threshold(results)
  target = _target(random, shown[1:], threshold)
  places = decimals([*(row.mean for row in (*agents, *shown)), threshold])
  baselines = [
    f"{row.label} {plus_minus(row.mean, row.standard_error, places)}"
    for row in shown
    if row.mean is not None
  ]
  if threshold is not None:
    baselines.append(f"reward threshold {number(threshold, places)}")
  reference = f"more than {_SURE:.0f} standard errors above random actions; no target is known"
  if target is not None:
    reference = f"at least {100 * _SHARE[0]:.0f}% of the way from random actions to {target.words}"
    reference += f" of {number(target.value, places)}"
  found = []
  for row in agents:
    name = f"return of the {_agent_name(row)}"
    if row.mean is None:
      found.append(not_run(GROUP, name, reference))
      continue
    text = plus_minus(row.mean, row.standard_error, places)
    text += f" ({'; '.join(baselines)})" if baselines else ""
    verdict, words = _judge(row, random, target)
    found.append(Check(GROUP, name, text, reference, verdict, words))
  return found


def return_in_words(found: Sequence[Check]) -> str:
  """Returns the verdicts on all evaluated agents as sentences.

  Args:
    found: checks of any group; only those of the group "return" are used.
  """
  judged = [check for check in found if check.group == GROUP and check.verdict != NOT_RUN]
  if not judged:
    return "The return in the environment was not measured."
  return " ".join(
    f"{check.name[0].upper()}{check.name[1:]}: {check.verdict}. {check.words}" for check in judged
  )


def _agent_name(row: scores.Score) -> str:
  agent = row.key.removesuffix(_SUFFIX).replace("_", " ")
  return "served planner" if agent == "planner" else agent


def _target(
  random: scores.Score, scripted: Sequence[scores.Score], threshold: float | None
) -> _Target | None:
  """Returns the highest known return above random actions; None if there is none."""
  known = [_Target(row.mean, "the scripted policy's return") for row in scripted]
  known += [_Target(threshold, "the reward threshold")]
  floor = random.mean if is_finite(random.mean) else -math.inf
  known = [target for target in known if is_finite(target.value) and target.value > floor]
  return max(known, key=lambda target: target.value, default=None)


def _judge(row: scores.Score, random: scores.Score, target: _Target | None) -> tuple[str, str]:
  """Returns the verdict on one agent's score and a sentence that explains it."""
  if not math.isfinite(row.mean):
    return POOR, NOT_FINITE
  if not is_finite(random.mean):
    if target is not None and row.mean >= target.value:
      return GOOD, f"Reaches {target.words}."
    return INFO, "Random actions were not evaluated, so there is no baseline."
  ahead, error = row.mean - random.mean, scores.difference_error(row, random)
  if not is_finite(error):
    return INFO, "Too few episodes: evaluate the agent and random actions on two or more each."
  if ahead < 0 and -ahead > _SURE * error:
    return POOR, "Worse than random actions."
  if ahead <= 0 or ahead <= _SURE * error:
    return POOR, "No significant difference from random actions in these episodes."
  if target is None:
    spread = math.sqrt((row.std**2 + random.std**2) / 2.0)
    if ahead < _EFFECT * spread:
      return (
        POOR,
        "Above random actions by less than one standard deviation of episodes.",
      )
    return USABLE, (
      "Better than random actions. The best possible return is not known, so it cannot be called "
      "good."
    )
  way = target.value - random.mean
  share = ahead / way
  part = f"{math.floor(100 * share)}% of the way from random actions to {target.words}"
  if share < _SHARE[1]:
    return POOR, f"Covers only {part}."
  if share < _SHARE[0]:
    return USABLE, f"Covers {part}."
  if (ahead - 2.0 * error) / way < _SHARE[1]:
    return USABLE, f"Covers {part}, but in too few episodes to be sure."
  return GOOD, f"Reaches {target.words}." if share >= 1 else f"Covers {part}."
