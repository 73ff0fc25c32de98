"""The verdicts on a run: every quality figure next to its reference range.

The return comes first, because good figures of the model do not matter if the agent's return is
low. The limits are in `return_verdicts.py`, `vae_verdicts.py`, `dynamics_verdicts.py` and, for the
gap, in this module.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from wm_tf.report import scores
from wm_tf.report.controller_verdicts import controller_checks
from wm_tf.report.dynamics_verdicts import dynamics_checks, open_loop_table
from wm_tf.report.judgement import (
  GOOD,
  INFO,
  NOT_RUN,
  POOR,
  USABLE,
  Check,
  not_run,
  section_of,
)
from wm_tf.report.published import model_references
from wm_tf.report.return_verdicts import GROUP as RETURN
from wm_tf.report.return_verdicts import return_checks, return_in_words
from wm_tf.report.vae_verdicts import reconstruction_checks, vae_checks

__all__ = [
  "GOOD",
  "INFO",
  "NOT_RUN",
  "POOR",
  "RETURN",
  "USABLE",
  "Check",
  "checks",
  "gap_check",
  "open_loop_table",
  "return_in_words",
  "summary",
]

_GAP_SHARE = 0.25  # A gap below a quarter of the real return is usable.


def checks(results: Mapping[str, Any]) -> list[Check]:
  """Judges a run.

  Args:
    results: the content of `results.json`: scores (see `return_checks`), `vae` (see `vae_checks`)
      or `reconstruction` (see `reconstruction_checks`), `dynamics` (see `dynamics_checks`),
      `controller` (see `controller_checks`) and the environment's id.

  Returns:
    Checks of the groups "return", "VAE" or "reconstruction", "dynamics", "controller" and
    "transfer", in this order. Figures that `results` lacks are "not run".
  """
  usual = model_references(scores.environment_id(results))
  reconstruction = section_of(results, "reconstruction")
  return [
    *return_checks(results),
    *(
      reconstruction_checks(reconstruction, usual)
      if reconstruction
      else vae_checks(section_of(results, "vae"), usual)
    ),
    *dynamics_checks(section_of(results, "dynamics"), usual),
    *controller_checks(section_of(results, "controller")),
    gap_check(results),
  ]


def summary(found: Sequence[Check]) -> str:
  """Returns the verdict on the return and the number of verdicts on the model, as sentences.

  Args:
    found: the result of `checks`.
  """
  model = [check for check in found if check.group != RETURN]
  judged = [check for check in model if check.verdict in (GOOD, USABLE, POOR)]
  missing = [check for check in model if check.verdict == NOT_RUN]
  first = return_in_words(found)
  if not judged:
    return f"{first} No figure of the model was measured yet."
  counts = {v: sum(check.verdict == v for check in judged) for v in (GOOD, USABLE, POOR)}
  parts = ", ".join(f"{count} {verdict}" for verdict, count in counts.items() if count)
  text = f"{first} {len(judged)} figure{'s' * (len(judged) > 1)} of the model judged: {parts}."
  return text + (f" {len(missing)} not run." if missing else "")


def gap_check(results: Mapping[str, Any]) -> Check:
  """Judges the controller's return in the model minus its return in the environment.

  Args:
    results: has the scores `controller_in_model` and `controller_in_environment`.

  Returns:
    The check; "not run" unless both scores exist.
  """
  name = "controller's return in the model minus in the environment"
  reference = "within two standard errors of zero"
  found = scores.gap(results)
  if found is None:
    return not_run("transfer", name, reference)
  real = float(results["controller_in_environment"]["mean"])
  size = abs(found.mean)
  small = size <= _GAP_SHARE * abs(real)
  noise = found.standard_error is not None and size <= 2 * found.standard_error
  if noise and small:
    verdict, words = (
      GOOD,
      "The predicted return does not differ significantly from the real one.",
    )
  elif noise:
    verdict, words = (
      USABLE,
      "Not significant, but the standard error is large: evaluate more episodes.",
    )
  elif found.mean < 0:
    verdict, words = (
      USABLE,
      "The predicted return is too low: the controller does not exploit the model.",
    )
  elif small:
    verdict, words = USABLE, "The predicted return is somewhat higher than the real one."
  else:
    verdict = POOR
    words = "The controller exploits the model: collect with it, refit, and train it again."
  return Check("transfer", name, found.text, reference, verdict, words)
