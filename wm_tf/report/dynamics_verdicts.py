"""Verdicts on the predictions of a world model's dynamics on held-out episodes.

The limits hold for any environment, unless `published.py` has limits for the run's environment.
They come from published figures and from trials of these models, and describe usual values, not the
best possible ones.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

from wm_tf.report.formatting import number
from wm_tf.report.judgement import (
  GOOD,
  POOR,
  USABLE,
  Check,
  figure_of,
  judge_high,
  judge_low,
  make_check,
  not_run,
  section_of,
)
from wm_tf.report.published import ModelReferences

# (good, usable) limits. A figure beyond the second is poor; so is one that is not finite.
_NLL = (1.3, 1.419)  # 1.419 nats is the entropy of N(0, 1), an uninformed prediction.
_RATIO = (0.8, 1.0)  # One-step error over the error of predicting no change.
_OPEN_LOOP = (20, 5)  # The number of steps up to which a dream is better than persistence.
_R2 = (0.7, 0.3)
_AUC = (0.9, 0.75)
_RANK = (0.7, 0.4)


def dynamics_checks(dynamics: Mapping[str, Any], usual: ModelReferences) -> list[Check]:
  """Judges the predictions of the dynamics on held-out episodes.

  Args:
    dynamics: `nll_per_dimension`, `mixture`, `one_step_error`, `persistence_error`, `open_loop`,
      `open_loop_persistence`, `reward_r2`, `reward_auc`, `termination_auc`, `rank_correlation`. All
      are optional.
    usual: the usual figures in the run's environment.

  Returns:
    One check for each figure; "not run" if it is missing.
  """
  return [
    _nll_check(dynamics, usual),
    _one_step_check(dynamics),
    _open_loop_check(dynamics),
    *_head_checks(dynamics, usual),
    make_check(
      "dynamics",
      "rank correlation of dream and real return over controllers (Spearman)",
      "over 30 or more controllers of mixed skill; 1 is perfect",
      figure_of(dynamics, "rank_correlation"),
      functools.partial(judge_high, limits=_RANK),
      {
        GOOD: "Controllers that are better in the dream are better in the environment.",
        USABLE: "The dream separates good controllers from bad ones, but not from better ones.",
        POOR: "The dream ranks controllers wrongly: do not select by it.",
      },
    ),
  ]


def _nll_check(dynamics: Mapping[str, Any], usual: ModelReferences) -> Check:
  mixture = dynamics.get("mixture")
  kind = f", {str(mixture).replace('_', ' ')} mixture" if mixture else ""
  known = f"{usual.nll}; " if usual.nll else ""
  return make_check(
    "dynamics",
    f"negative log-likelihood, nats per latent dimension{kind}",
    f"{known}a standard normal 1.42; negative values are possible",
    figure_of(dynamics, "nll_per_dimension"),
    functools.partial(judge_low, limits=_NLL),
    {
      GOOD: "The next latent is well predicted.",
      USABLE: "Only a little better than a standard normal.",
      POOR: "No better than a standard normal: the dynamics have not learned.",
    },
  )


def _one_step_check(dynamics: Mapping[str, Any]) -> Check:
  one_step = figure_of(dynamics, "one_step_error")
  persistence = figure_of(dynamics, "persistence_error")
  ratio = text = None
  words = {}
  if one_step is not None and persistence:
    ratio = one_step / persistence
    text = f"{number(one_step, 3)} (persistence {number(persistence, 3)})"
    sentence = f"{abs(1 - ratio) * 100:.0f}% below predicting no change."
    if not ratio < 1:
      sentence = f"{abs(1 - ratio) * 100:.0f}% above predicting no change."
    words = dict.fromkeys((GOOD, USABLE, POOR), sentence)
  return make_check(
    "dynamics",
    "one-step error against predicting no change",
    "below persistence, the lower the better",
    ratio,
    functools.partial(judge_low, limits=_RATIO),
    words,
    text,
  )


def _head_checks(dynamics: Mapping[str, Any], usual: ModelReferences) -> list[Check]:
  """Judges the predictions of reward and termination."""
  auc_words = {
    GOOD: "Ranks these steps well.",
    USABLE: "Ranks these steps with errors.",
    POOR: "Hardly better than chance: a controller would learn from noise.",
  }
  return [
    make_check(
      "dynamics",
      "reward, R²",
      usual.reward_r2 or "1 is perfect; not measurable where all rewards are equal",
      figure_of(dynamics, "reward_r2"),
      functools.partial(judge_high, limits=usual.reward_r2_limits or _R2),
      {
        GOOD: "Dreamed rewards are close to the environment's.",
        USABLE: "Dreamed rewards are noisy.",
        POOR: "The dream does not predict the rewards.",
      },
    ),
    make_check(
      "dynamics",
      "reward, AUC of steps above the most frequent reward",
      usual.reward_auc or "above 0.9; not measurable where all rewards are equal",
      figure_of(dynamics, "reward_auc"),
      functools.partial(judge_high, limits=_AUC),
      auc_words,
    ),
    make_check(
      "dynamics",
      "termination, AUC",
      "above 0.9; not measurable where no held-out episode terminates",
      figure_of(dynamics, "termination_auc"),
      functools.partial(judge_high, limits=_AUC),
      auc_words,
    ),
  ]


def open_loop_table(dynamics: Any) -> list[tuple[int, float, float | None]]:
  """Reads the open-loop errors.

  Args:
    dynamics: see `dynamics_checks`; any other value has no errors.

  Returns:
    `(steps, error, error of predicting no change or None)`, sorted by steps.
  """
  if not isinstance(dynamics, Mapping):
    return []
  model, still = (section_of(dynamics, key) for key in ("open_loop", "open_loop_persistence"))
  rows = ((int(steps), figure_of(model, steps), figure_of(still, steps)) for steps in model)
  return sorted(row for row in rows if row[1] is not None)


def _open_loop_check(dynamics: Mapping[str, Any]) -> Check:
  name = "open loop: number of steps for which dreams are better than predicting no change"
  reference = "beyond the planning horizon, 12 to 16 by default"
  rows = [row for row in open_loop_table(dynamics) if row[2] is not None]
  if not rows:
    return not_run("dynamics", name, reference)
  reach = 0
  for steps, error, still in rows:
    if not error < still:
      break
    reach = steps
  text = f"{reach} or more" if reach == rows[-1][0] else str(reach)
  words = {
    GOOD: "Dreams are better than no change beyond the planning horizon.",
    USABLE: "Dreams are better than no change for some steps: use short plans and dreams.",
    POOR: "Dreams are no better than no change after a few steps.",
  }
  verdict = judge_high(reach, _OPEN_LOOP)
  return Check("dynamics", name, text, reference, verdict, words[verdict])
