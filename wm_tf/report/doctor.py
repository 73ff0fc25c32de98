"""The diagnosis of `trainers.doctor`: all verdicts, a summary, and a text for the terminal.

It combines the verdicts on every run (`verdicts.py`) with those on dreams, actions and transfer
(`doctor_verdicts.py`).
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from wm_tf.report import scores
from wm_tf.report.doctor_verdicts import model_checks
from wm_tf.report.formatting import number
from wm_tf.report.verdicts import (
  GOOD,
  INFO,
  NOT_RUN,
  POOR,
  RETURN,
  USABLE,
  Check,
  checks,
  return_in_words,
)

_GROUPS = (
  RETURN,
  "VAE",
  "reconstruction",
  "dynamics",
  "dreams",
  "actions",
  "controller",
  "transfer",
)
_PLANNER = "planner_in_environment"

# Table of `open_loop` -> its title and decimals. Which tables exist depends on the observations.
OPEN_LOOP_TABLES = {
  "latent": ("error of the latent", 3),
  "psnr": ("PSNR of decoded images, dB", 1),
  "observation": ("error of decoded vectors", 3),
}
_ANSWERS = {
  "dream": "dreamed",
  "still": "no change",
  "mean": "the mean",
  "other_actions": "dreamed, others' actions",
  "reconstruction": "reconstruction",
}


def doctor_checks(results: Mapping[str, Any]) -> list[Check]:
  """Judges all figures in `doctor.json`.

  Args:
    results: see `verdicts.checks` and `doctor_verdicts.model_checks`. The scores `random`,
      `heuristic` and `reward_threshold` are needed to judge the controller's return.

  Returns:
    Checks by group; figures that `results` lacks are "not run". The doctor does not run a planner:
    the planner's return is included only if `results` has it.
  """
  found = [
    _with_certainty(check, results) if check.name.startswith("rank correlation") else check
    for check in checks(results)
    if _PLANNER in results or not check.name.endswith("planner")
  ]
  found += model_checks(results)
  return sorted(found, key=lambda check: _GROUPS.index(check.group))


def verdict_in_words(found: Sequence[Check]) -> str:
  """Returns a summary of the checks, which names the first group with a poor figure.

  Groups are in the order of the training stages. A poor early stage also affects all later ones.

  Args:
    found: the result of `doctor_checks`.
  """
  rank = next((c for c in found if c.name.startswith("rank correlation")), None)
  trust = {
    GOOD: "The dreams of this model can be trusted to separate good controllers from bad ones.",
    USABLE: "The dreams separate good controllers from bad ones roughly: evaluate the best ones.",
    POOR: "Do not select controllers by this model's dreams: they rank controllers wrongly.",
  }.get(rank.verdict if rank else "", "The agreement of dream and environment was not measured.")
  judged = [c for c in found if c.group == RETURN and c.verdict in (GOOD, USABLE, POOR)]
  first = f"{return_in_words(judged)} " if judged else ""
  poor = [c for c in found if c.verdict == POOR and c.group != RETURN]
  if not poor:
    return f"{first}{trust} No figure of the model that was measured is poor."
  begin = poor[0]
  return (
    f"{first}{trust} Poor: {len(poor)}. Begin with the {begin.group}, {begin.name}: {begin.words}"
  )


def terminal_text(results: Mapping[str, Any], found: Sequence[Check], width: int = 96) -> str:
  """Formats the diagnosis for a terminal.

  Args:
    results: the content of `doctor.json`.
    found: the result of `doctor_checks(results)`.
    width: the number of columns.

  Returns:
    A summary, then every figure with its usual value, then the errors of dreams by steps.
  """
  lines = [f"{scores.environment_title(results)}: is this model good?", ""]
  lines += textwrap.wrap(verdict_in_words(found), width)
  group = None
  for check in found:
    if check.group != group:
      group = check.group
      lines += ["", group]
    mark = {GOOD: "+", USABLE: "~", POOR: "!", INFO: " ", NOT_RUN: "?"}[check.verdict]
    lines.append(f"  {mark} {check.name}: {check.value}")
    rest = f"{check.verdict}. {check.words}" if check.words else f"{check.verdict}."
    indent = {"initial_indent": "      ", "subsequent_indent": "      "}
    lines += textwrap.wrap(f"{rest} Usual: {check.reference}.", width, **indent)
  lines += ["", *open_loop_lines(results)]
  return "\n".join(lines)


def open_loop_lines(results: Mapping[str, Any]) -> list[str]:
  """Formats the errors of dreams and of simple baselines by number of steps.

  Args:
    results: the content of `doctor.json`.

  Returns:
    The lines of a table; empty if `results` has no `open_loop`.
  """
  found = results.get("open_loop")
  if not isinstance(found, Mapping):
    return []
  steps = list(found["num_dreams"])
  lines = [f"{'steps dreamed':<30}" + "".join(f"{k:>9}" for k in steps)]
  for key, (title, places) in OPEN_LOOP_TABLES.items():
    if not found.get(key):
      continue
    lines.append(title)
    for name, by_steps in found[key].items():
      cells = "".join(f"{number(by_steps[k], places):>9}" for k in steps)
      lines.append(f"  {_ANSWERS[name]:<28}{cells}")
  cells = "".join(f"{number(found['reward_r2'][k], 2):>9}" for k in steps)
  return [*lines, f"{'R² of the return so far':<30}{cells}"]


def _with_certainty(check: Check, results: Mapping[str, Any]) -> Check:
  """Moves the rank correlation to the group "transfer" and adds its interval and ceiling."""
  found = results.get("transfer")
  text = check.value
  if isinstance(found, Mapping) and found.get("rank_correlation") is not None:
    details = [f"over {found['num_controllers']} controllers"]
    if found.get("interval"):
      details.append("90% interval " + " to ".join(f"{x:.2f}" for x in found["interval"]))
    if found.get("ceiling") is not None:
      details.append(f"these episodes allow {found['ceiling']:.2f}")
    text += f" ({', '.join(details)})"
  return check._replace(group="transfer", value=text)
