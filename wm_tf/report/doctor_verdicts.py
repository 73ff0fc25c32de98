"""The doctor's verdicts on dreams, on actions, and on the transfer from dreams to reality.

Unless a source is named, the limits come from this project's own runs on CarRacing: they describe
usual values, not the best possible ones. They are ratios, so that they hold at any scale of
observations and rewards.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

from wm_tf.report.formatting import decimals, number
from wm_tf.report.judgement import (
  GOOD,
  INFO,
  POOR,
  USABLE,
  Check,
  judge_high,
  judge_low,
  make_check,
  not_run,
)

# (good, usable) limits, as in `dynamics_verdicts.py`.
_GAIN = (0.25, 0.0)  # Share of the best simple answer's error that a dream removes.
_OBSERVATION = (0.4, 0.0)  # Share of the way from the last observation to the reconstruction.
_RETURN_R2 = (0.4, 0.1)
_REWARD_ERROR = (0.1, 0.25)  # Share of the reward's standard deviation.
_LISTENS = (0.3, 0.1)  # Share of the error with wrong actions that the right actions remove.
_HEARD = (0.3, 0.1)  # Share of the action in the variance of dreams from one state.
_EXCESS = (0.25, 1.0)  # Share of the standard deviation of real returns over controllers.
_STEPS = "10"  # The number of steps at which dreams are judged, about a planning horizon.


def model_checks(results: Mapping[str, Any]) -> list[Check]:
  """Judges dreams, actions and transfer.

  Args:
    results: the content of `doctor.json`: `open_loop`, `reward_calibration`,
      `termination_calibration`, `action_sensitivity`, `controllers` and `transfer`.

  Returns:
    Checks of the groups "dreams", "actions" and "transfer"; "not run" for missing figures.
  """
  return [
    _gain(results),
    _decoded(results),
    _dreamed_return(results),
    _reward_calibration(results),
    _termination_calibration(results),
    _listens(results),
    _heard(results),
    _nothing(results),
    _excess(results),
    _regret(results),
  ]


def _judged(
  group: str,
  name: str,
  reference: str,
  figures: tuple[float, str] | None,
  limits: tuple[float, float],
  words: tuple[str, str, str],
  low: bool = False,
) -> Check:
  """Judges a figure `(value, text)` against `(good, usable)`; `low` if it should be small."""
  value, text = figures or (None, None)
  judge = functools.partial(judge_low if low else judge_high, limits=limits)
  sentences = dict(zip((GOOD, USABLE, POOR), words, strict=True))
  return make_check(group, name, reference, value, judge, sentences, text)


def _figures(
  results: Mapping[str, Any], key: str, make: Callable[[Mapping[str, Any]], tuple[float, str]]
) -> tuple[float, str] | None:
  """Returns `make(results[key])`; None if the section or one of its figures is missing."""
  section = results.get(key)
  if not isinstance(section, Mapping):
    return None
  try:
    return make(section)
  except (KeyError, TypeError, ZeroDivisionError):  # A figure is None, or no dream is long enough.
    return None


def _gain(results: Mapping[str, Any]) -> Check:
  def make(found):
    latent = found["latent"]
    gain = {
      k: 1.0 - latent["dream"][k] / min(latent["still"][k], latent["mean"][k])
      for k in found["num_dreams"]
    }
    return gain[_STEPS], ", ".join(f"{100 * g:.0f}% at {k}" for k, g in gain.items())

  return _judged(
    "dreams",
    "error reduction by dreams over the better of no change and the mean, by steps",
    "above 25% at 10 steps; it falls with steps, since a dream is one of many futures",
    _figures(results, "open_loop", make),
    _GAIN,
    (
      "Dreams predict the future over a planning horizon.",
      "Dreams are only a little better than the simple predictions: use short dreams.",
      "Dreams of ten steps are no better than the simple predictions: train the dynamics longer.",
    ),
  )


def _decoded(results: Mapping[str, Any]) -> Check:
  """Judges decoded observations: images by their PSNR, otherwise vectors by their error."""
  open_loop = results.get("open_loop")
  vectors = isinstance(open_loop, Mapping) and "psnr" not in open_loop

  def make(found):
    table = found["observation"] if vectors else found["psnr"]
    dream, still, best = (table[n][_STEPS] for n in ("dream", "still", "reconstruction"))
    unit, places = ("", 3) if vectors else (" dB", 1)
    text = (
      f"{dream:.{places}f}{unit} (last observation {still:.{places}f}, "
      f"reconstruction {best:.{places}f})"
    )
    return (dream - still) / (best - still), text

  what = "error of decoded vectors" if vectors else "PSNR of decoded images"
  return _judged(
    "dreams",
    f"{what} {_STEPS} steps ahead",
    "closer to the reconstruction's than to the last observation's",
    _figures(results, "open_loop", make),
    _OBSERVATION,
    (
      "Decoded dreams are close to the real observations.",
      "Decoded dreams are only a little closer to the real ones than the last observation.",
      "Decoded dreams are no closer to the real observations than the last observation.",
    ),
  )


def _dreamed_return(results: Mapping[str, Any]) -> Check:
  def make(found):
    by_steps = {k: v for k, v in found["reward_r2"].items() if v is not None}
    return by_steps[_STEPS], ", ".join(f"{v:.2f} at {k}" for k, v in by_steps.items())

  return _judged(
    "dreams",
    "R² of the return of a dream along real actions, by steps",
    "above 0.4 at 10 steps",
    _figures(results, "open_loop", make),
    _RETURN_R2,
    (
      "The return of a dream is close to the real return of the same actions.",
      "The return of a dream is weakly related to the real return of the same actions.",
      "The return of a dream does not predict the real return, even for actions as in the data.",
    ),
  )


def _reward_calibration(results: Mapping[str, Any]) -> Check:
  def make(found):
    places = max(2, decimals([found["std"] / 10.0]))
    text = (
      f"{number(found['error'], places)} ({100 * found['error'] / found['std']:.0f}% of its spread)"
    )
    drift = found["bias"] * found["decisions"]
    return found["error"] / found["std"], f"{text}; {_signed(drift)} over an episode"

  return _judged(
    "dreams",
    "calibration of the reward: mean error of the predicted reward, per decision",
    "below a tenth of the reward's standard deviation",
    _figures(results, "reward_calibration", make),
    _REWARD_ERROR,
    (
      "Predicted rewards are accurate on average.",
      "Predicted rewards are inaccurate: compare dreams with each other, not with real episodes.",
      "Predicted rewards are wrong: dreamed returns are not on the environment's scale.",
    ),
    low=True,
  )


def _termination_calibration(results: Mapping[str, Any]) -> Check:
  name = "calibration of the termination: expected and real number in held-out steps"
  reference = "the real number, within twice its square root"
  found = results.get("termination_calibration")
  if not isinstance(found, Mapping):
    return not_run("dreams", name, reference)
  expected, real = found["expected"], found["real"]
  text = f"{expected:.1f} expected, {real:.0f} real"
  off = abs(expected - real)
  if off <= 2.0 * math.sqrt(max(real, expected, 1.0)):
    verdict, words = GOOD, "Dreams terminate about as often as real episodes."
    if real < 5:
      verdict, words = INFO, "Too few episodes terminate for a verdict."
  elif off <= max(real, expected) / 2.0:
    verdict, words = USABLE, "Dreams terminate somewhat too often or too rarely."
  else:
    verdict = POOR
    words = "Dreams terminate at a wrong rate: a controller cannot learn about termination."
  return Check("dreams", name, text, reference, verdict, words)


def _listens(results: Mapping[str, Any]) -> Check:
  def make(found):
    right, wrong = (found["latent"][name][_STEPS] for name in ("dream", "other_actions"))
    return 1.0 - right / wrong, f"{right:.3f} against {wrong:.3f}"

  return _judged(
    "actions",
    f"error {_STEPS} steps ahead with the real actions, compared with another episode's actions",
    "at least 30% less",
    _figures(results, "open_loop", make),
    _LISTENS,
    (
      "The predictions depend on the actions.",
      "The predictions depend only weakly on the actions.",
      "The predictions hardly depend on the actions: collect data with more varied actions.",
    ),
  )


def _heard(results: Mapping[str, Any]) -> Check:
  def make(found):
    by_horizon = sorted(found.items(), key=lambda item: int(item[0]))
    text = ", ".join(f"{100 * part['heard']:.0f}% over {k} decisions" for k, part in by_horizon)
    return by_horizon[0][1]["heard"], text

  return _judged(
    "actions",
    "share of the action in the variance of returns of dreams from one state (the rest is chance)",
    "above 30% over a planning horizon",
    _figures(results, "action_sensitivity", make),
    _HEARD,
    (
      "The return of a dream depends on its actions.",
      "The return of a dream is mostly chance: use more dreams for each candidate.",
      "The return of a dream hardly depends on its actions: nothing can be learned in dreams.",
    ),
  )


def _nothing(results: Mapping[str, Any]) -> Check:
  figures = None
  rows = [row for row in results.get("controllers") or () if row["name"] == "nothing"]
  spread = (results.get("transfer") or {}).get("real_spread")
  if rows and spread:
    dream, real = rows[0]["dream"], rows[0]["real"]
    places = decimals([spread])
    text = f"{number(dream, places)} in the dream, {number(real, places)} in the environment"
    figures = max(0.0, dream - real) / spread, text
  return _judged(
    "actions",
    "return of doing nothing",
    "the same in dream and environment",
    figures,
    _EXCESS,
    (
      "The dream does not overrate doing nothing.",
      "The dream overrates doing nothing somewhat.",
      "The dream rewards doing nothing, but the environment does not: collect such episodes.",
    ),
    low=True,
  )


def _excess(results: Mapping[str, Any]) -> Check:
  def make(found):
    gap = found["gap"]
    excess = gap["favourites"] - gap["mean"]
    places = decimals([found["real_spread"]])
    text = (
      f"{_signed(gap['favourites'], places)} for its favourites, "
      f"{_signed(gap['mean'], places)} over all"
    )
    return max(0.0, excess) / found["real_spread"], text

  return _judged(
    "transfer",
    "exploitation: dream minus real return of the quarter that the dream rates highest",
    "no larger than over all controllers",
    _figures(results, "transfer", make),
    _EXCESS,
    (
      "The dream does not overrate its favourites.",
      "The dream overrates its favourites somewhat: select among them by real episodes.",
      "The dream overrates the controllers that it rates highest: they exploit its errors.",
    ),
    low=True,
  )


def _regret(results: Mapping[str, Any]) -> Check:
  def make(found):
    regret, spread = found["regret"], found["real_spread"]
    places = decimals([spread])
    text = (
      f"{number(regret, places)} (the controllers' real returns spread by {number(spread, places)})"
    )
    return regret / spread, text

  return _judged(
    "transfer",
    "return lost by taking the dream's favourite instead of the best controller",
    "0; good up to a quarter of the spread",
    _figures(results, "transfer", make),
    _EXCESS,
    (
      "The dream's favourite is about as good as the best controller.",
      "The dream's favourite is worse than the best controller, but usable.",
      "The dream's favourite is much worse than the best controller.",
    ),
    low=True,
  )


def _signed(value: float, places: int | None = None) -> str:
  """Formats a number with its sign; by default the decimals depend on its size."""
  return number(value, decimals([value]) if places is None else places, sign="+")
