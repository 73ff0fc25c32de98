"""Verdicts on the training of a controller in dreams.

The limits come from trainings in this project on CarRacing. A critic at half of the true return, or
gradients of which nearly all were clipped, went along with controllers whose returns differed by
hundreds between seeds.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

from wm_tf.report.formatting import decimals, number, plus_minus
from wm_tf.report.judgement import (
  GOOD,
  INFO,
  POOR,
  USABLE,
  Check,
  figure_of,
  judge_low,
  make_check,
  not_run,
)

_GROUP = "controller"
_RATIO = ((0.8, 1.1), (0.6, 1.4))  # (good, usable) ranges of the critic over the true return.
_CLIPPED = (0.2, 0.5)
_SATURATED = (0.5, 0.9)
_SURE = 5.0  # Standard errors by which the return must differ from 0 to be divided by.


def controller_checks(figures: Mapping[str, Any]) -> list[Check]:
  """Judges the training of a controller.

  Args:
    figures: `critic`, `monte_carlo` and `monte_carlo_error` (see `learners.critic_figures`);
      `clipped` and `saturated` (see `learners.actor_critic.Update`). All are optional.

  Returns:
    One check for each; "not run" if its figures are missing. None at all without figures: methods
    such as evolution have neither a critic nor gradients.
  """
  if not figures:
    return []
  return [
    _critic_check(figures),
    _share_check(
      figures,
      "clipped",
      "share of clipped gradients",
      "below 20%",
      _CLIPPED,
      (
        "Most updates follow the gradient at its own length.",
        "Many updates are shortened.",
        "Most updates are shortened: the gradient is noise, or clip_norm is too small.",
      ),
    ),
    _share_check(
      figures,
      "saturated",
      "share of saturated numbers in the actions, at the end of the training",
      "below 50%; more where full strength is right, such as full gas",
      _SATURATED,
      (
        "The controller uses the range of its actions.",
        "Actions are often at their limits.",
        "Actions are nearly always at their limits: the controller may exploit the model.",
      ),
    ),
  ]


def _share_check(
  figures: Mapping[str, Any],
  key: str,
  name: str,
  reference: str,
  limits: tuple[float, float],
  words: tuple[str, str, str],
) -> Check:
  share = figure_of(figures, key)
  text = None if share is None else f"{100 * share:.0f}%"
  judge = functools.partial(judge_low, limits=limits)
  sentences = dict(zip((GOOD, USABLE, POOR), words, strict=True))
  return make_check(_GROUP, name, reference, share, judge, sentences, text)


def _critic_check(figures: Mapping[str, Any]) -> Check:
  name = "critic's value over the Monte Carlo return of its actor in dreams"
  reference = "between 0.8 and 1.1"
  critic, real, error = (
    figure_of(figures, key) for key in ("critic", "monte_carlo", "monte_carlo_error")
  )
  if critic is None or real is None or error is None:
    return not_run(_GROUP, name, reference)
  places = decimals([critic, real])
  if abs(real) <= _SURE * error:
    text = f"{number(critic, places)} against {plus_minus(real, error, places)}"
    return Check(_GROUP, name, text, reference, INFO, "The return is too close to 0 to divide by.")
  ratio = critic / real
  inside = [low <= ratio <= high for low, high in _RATIO]
  verdict = GOOD if inside[0] else USABLE if inside[1] else POOR
  words = {
    GOOD: "The critic is right about what its actor obtains.",
    USABLE: "The critic is somewhat off.",
    POOR: "The critic is wrong: train longer, or raise target_rate.",
  }
  text = f"{number(ratio, 2)} ({number(critic, places)} against {plus_minus(real, error, places)})"
  return Check(_GROUP, name, text, reference, verdict, words[verdict])
