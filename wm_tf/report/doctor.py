"""The verdicts of `trainers.doctor`, in plain words: what is good, what is not, where to begin.

To the figures that every run is judged by (`verdicts.py`) it adds those that take a model apart.
The thresholds lie in one place below. Except where a source is named they are this project's own,
from its runs on CarRacing: what is usual, not what is possible.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from wm_tf.report import scores
from wm_tf.report.verdicts import GOOD, INFO, POOR, USABLE, Check, checks

# (good, usable) limits, as in `verdicts.py`.
_GAIN = (0.25, 0.0)  # Share of the best simple answer's error that a dream removes.
_PICTURE = (0.4, 0.0)  # Share of the way from the last frame's PSNR to the reconstruction's.
_RETURN_R2 = (0.4, 0.1)
_REWARD_ERROR = (0.1, 0.25)  # Of the reward's standard deviation.
_LISTENS = (0.3, 0.1)  # Share of the error that the right actions take away from wrong ones'.
_HEARD = (0.3, 0.1)  # Share of the action in the variance of dreams from one state.
_EXCESS = (0.25, 1.0)  # Of the standard deviation of real returns over controllers.
_STEPS = "10"  # Steps ahead by which dreams are judged: about as far as a plan looks.
_GROUPS = ("VAE", "dynamics", "dreams", "actions", "transfer")


def doctor_checks(results: Mapping[str, Any]) -> list[Check]:
  """Judges everything that `doctor.json` holds; what it lacks is "not run"."""
  found = [
    _with_certainty(check, results) if check.name.startswith("rank correlation") else check
    for check in checks(results)
  ]
  found += [
    _gain(results),
    _pictures(results),
    _dreamed_return(results),
    _reward_calibration(results),
    _termination_calibration(results),
    _listens(results),
    _heard(results),
    _nothing(results),
    _excess(results),
    _regret(results),
  ]
  return sorted(found, key=lambda check: _GROUPS.index(check.group))


def verdict_in_words(found: Sequence[Check]) -> str:
  """What the checks come to, and where to begin: an early stage spoils all after it."""
  rank = next((c for c in found if c.name.startswith("rank correlation")), None)
  trust = {
    GOOD: "What this model dreams can be trusted to tell good controllers from bad ones.",
    USABLE: "This model tells good controllers from bad ones roughly; check the best in reality.",
    POOR: "Do not select controllers by this model's dreams: their order is not the real one.",
  }.get(rank.verdict if rank else "", "How dream and reality agree was not measured.")
  poor = [c for c in found if c.verdict == POOR]
  if not poor:
    return f"{trust} Nothing that was measured is poor."
  first = poor[0]
  return f"{trust} Poor: {len(poor)}. Begin with the {first.group}, {first.name}: {first.words}"


def terminal_text(results: Mapping[str, Any], found: Sequence[Check], width: int = 96) -> str:
  """The diagnosis for a terminal: a verdict, then every figure with what is usual."""
  lines = [f"{scores.environment_id(results)}: is this model good?", ""]
  lines += textwrap.wrap(verdict_in_words(found), width)
  group = None
  for check in found:
    if check.group != group:
      group = check.group
      lines += ["", group]
    mark = {GOOD: "+", USABLE: "~", POOR: "!", INFO: " "}.get(check.verdict, "?")
    lines.append(f"  {mark} {check.name}: {check.value}")
    rest = f"{check.verdict}. {check.words}" if check.words else f"{check.verdict}."
    indent = {"initial_indent": "      ", "subsequent_indent": "      "}
    lines += textwrap.wrap(f"{rest} Usual: {check.reference}.", width, **indent)
  lines += ["", *open_loop_lines(results)]
  return "\n".join(lines)


def open_loop_lines(results: Mapping[str, Any]) -> list[str]:
  """The table of dreams against simple answers by number of steps, as lines of text."""
  found = results.get("open_loop")
  if not isinstance(found, Mapping):
    return []
  steps = list(found["num_dreams"])
  words = {
    "dream": "dreamed",
    "still": "no change",
    "mean": "the mean",
    "other_actions": "dreamed, others' actions",
    "reconstruction": "reconstruction",
  }
  lines = [f"{'steps dreamed':<30}" + "".join(f"{k:>9}" for k in steps)]
  for key, title, places in (("latent", "error of the latent", 3), ("psnr", "PSNR, dB", 1)):
    lines.append(title)
    for name, by_steps in found[key].items():
      cells = "".join(f"{scores.number(by_steps[k], places):>9}" for k in steps)
      lines.append(f"  {words[name]:<28}{cells}")
  cells = "".join(f"{scores.number(found['reward_r2'][k], 2):>9}" for k in steps)
  return [*lines, f"{'R² of the return so far':<30}{cells}"]


# --- The checks -----------------------------------------------------------------------------------


def _judged(
  group: str,
  name: str,
  reference: str,
  figures: tuple[float, str] | None,
  limits: tuple[float, float],
  words: tuple[str, str, str],
  low: bool = False,
) -> Check:
  """A check of a figure and its text against `(good, usable)`; `low` if it should be small."""
  if figures is None:
    return Check(group, name, scores.NOT_RUN, reference, scores.NOT_RUN, "")
  value, text = figures
  # A comparison with NaN fails, so that it is poor.
  good = value <= limits[0] if low else value >= limits[0]
  usable = value < limits[1] if low else value > limits[1]
  verdict = GOOD if good else USABLE if usable else POOR
  sentence = dict(zip((GOOD, USABLE, POOR), words, strict=True))[verdict]
  sentence = sentence if math.isfinite(value) else "The figure is not finite."
  return Check(group, name, text, reference, verdict, sentence)


def _figures(
  results: Mapping[str, Any], key: str, make: Callable[[Mapping[str, Any]], tuple[float, str]]
) -> tuple[float, str] | None:
  """`make(results[key])`; None where there is nothing of the kind."""
  section = results.get(key)
  if not isinstance(section, Mapping):
    return None
  try:
    return make(section)
  except (KeyError, TypeError, ZeroDivisionError):  # A figure is None, or no dream is so long.
    return None


def _with_certainty(check: Check, results: Mapping[str, Any]) -> Check:
  """The rank correlation, moved to where it belongs and with what is known of its error."""
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


def _gain(results) -> Check:
  def make(found):
    latent = found["latent"]
    gain = {
      k: 1.0 - latent["dream"][k] / min(latent["still"][k], latent["mean"][k])
      for k in found["num_dreams"]
    }
    return gain[_STEPS], ", ".join(f"{100 * g:.0f}% at {k}" for k, g in gain.items())

  return _judged(
    "dreams",
    "error that dreams remove from the better of no change and the mean, by steps",
    "above a quarter at 10 steps; a dream is one future of many, and falls behind in the end",
    _figures(results, "open_loop", make),
    _GAIN,
    (
      "Dreams know what comes, as far as a plan looks.",
      "Dreams know a little more than nothing: keep them short.",
      "Ten steps ahead a dream is worth no more than a guess: train the dynamics longer.",
    ),
  )


def _pictures(results) -> Check:
  def make(found):
    dream, still, best = (found["psnr"][n][_STEPS] for n in ("dream", "still", "reconstruction"))
    text = f"{dream:.1f} dB (last frame seen {still:.1f}, reconstruction {best:.1f})"
    return (dream - still) / (best - still), text

  return _judged(
    "dreams",
    f"PSNR of decoded frames {_STEPS} steps ahead",
    "nearer to the reconstruction than to the last frame seen",
    _figures(results, "open_loop", make),
    _PICTURE,
    (
      "Decoded dreams look like what came.",
      "Decoded dreams are better than a still picture, not by much.",
      "A still picture is closer to what came than the decoded dream.",
    ),
  )


def _dreamed_return(results) -> Check:
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
      "A dream brings what reality brought for the same actions.",
      "A dream's return goes with the real one, loosely.",
      "A dream's return says little about the real one, even for actions like the data's.",
    ),
  )


def _reward_calibration(results) -> Check:
  def make(found):
    text = f"{found['error']:.2f} ({100 * found['error'] / found['std']:.0f}% of its spread)"
    drift = found["bias"] * found["decisions"]
    return found["error"] / found["std"], f"{text}; {drift:+.0f} over an episode"

  return _judged(
    "dreams",
    "calibration of the reward: mean error of what it promises, per decision",
    "below a tenth of the reward's standard deviation",
    _figures(results, "reward_calibration", make),
    _REWARD_ERROR,
    (
      "A promised reward is paid on average.",
      "Promises are somewhat off: compare dreams with each other, not with reality.",
      "Promised rewards are not paid: the dream's returns are in a currency of their own.",
    ),
    low=True,
  )


def _termination_calibration(results) -> Check:
  name = "calibration of the termination: expected against real ones in held-out steps"
  reference = "as many as there are, within twice the square root"
  found = results.get("termination_calibration")
  if not isinstance(found, Mapping):
    return Check("dreams", name, scores.NOT_RUN, reference, scores.NOT_RUN, "")
  expected, real = found["expected"], found["real"]
  text = f"{expected:.1f} expected, {real:.0f} real"
  off = abs(expected - real)
  if off <= 2.0 * math.sqrt(max(real, expected, 1.0)):
    verdict, words = GOOD, "Dreams end about as often as episodes do."
    if real < 5:
      verdict, words = INFO, "Too few episodes terminate to tell."
  elif off <= max(real, expected) / 2.0:
    verdict, words = USABLE, "Dreams end somewhat too often or too seldom."
  else:
    verdict = POOR
    words = "Dreams end at the wrong rate: a controller cannot learn what ends an episode."
  return Check("dreams", name, text, reference, verdict, words)


def _listens(results) -> Check:
  def make(found):
    right, wrong = (found["latent"][name][_STEPS] for name in ("dream", "other_actions"))
    return 1.0 - right / wrong, f"{right:.3f} against {wrong:.3f}"

  return _judged(
    "actions",
    f"error {_STEPS} steps ahead along the real actions, against another drive's",
    "at least 30% less",
    _figures(results, "open_loop", make),
    _LISTENS,
    (
      "The model knows what actions do.",
      "Actions matter somewhat to the model.",
      "It hardly matters to the model what is done: collect data with more varied actions.",
    ),
  )


def _heard(results) -> Check:
  def make(found):
    by_horizon = sorted(found.items(), key=lambda item: int(item[0]))
    text = ", ".join(f"{100 * part['heard']:.0f}% over {k} decisions" for k, part in by_horizon)
    return by_horizon[0][1]["heard"], text

  return _judged(
    "actions",
    "share of the action in what dreams from one state bring (the rest is chance)",
    "above 30% over a planning horizon",
    _figures(results, "action_sensitivity", make),
    _HEARD,
    (
      "What a dream brings depends on what is done in it.",
      "Chance matters more than the action: use more dreams for each candidate.",
      "Dreams bring what they bring, whatever is done: nothing can be learned in them.",
    ),
  )


def _nothing(results) -> Check:
  figures = None
  rows = [row for row in results.get("controllers") or () if row["name"] == "nothing"]
  spread = (results.get("transfer") or {}).get("real_spread")
  if rows and spread:
    promised, paid = rows[0]["dream"], rows[0]["real"]
    figures = max(0.0, promised - paid) / spread, f"{promised:.0f} promised, {paid:.0f} paid"
  return _judged(
    "actions",
    "what doing nothing brings",
    "the same in dream and environment",
    figures,
    _EXCESS,
    (
      "The dream does not move on by itself.",
      "The dream rewards doing nothing somewhat.",
      "The dream goes on well whatever is done, as if good driving were the course of nature: "
      "collect more bad driving, with more noise.",
    ),
    low=True,
  )


def _excess(results) -> Check:
  def make(found):
    gap = found["gap"]
    excess = gap["favourites"] - gap["mean"]
    text = f"{gap['favourites']:+.0f} for its favourites, {gap['mean']:+.0f} over all"
    return max(0.0, excess) / found["real_spread"], text

  return _judged(
    "transfer",
    "exploitation: dream minus real return of the quarter that the dream likes best",
    "no larger than over all controllers",
    _figures(results, "transfer", make),
    _EXCESS,
    (
      "What the dream likes best, it does not flatter.",
      "The dream flatters its favourites somewhat: choose among them by real episodes.",
      "What the dream likes best is what it is most wrong about: that is exploitation.",
    ),
    low=True,
  )


def _regret(results) -> Check:
  def make(found):
    text = (
      f"{found['regret']:.0f} (the controllers' real returns spread by {found['real_spread']:.0f})"
    )
    return found["regret"] / found["real_spread"], text

  return _judged(
    "transfer",
    "return lost by taking the dream's favourite instead of the best controller",
    "0; a quarter of the spread is little",
    _figures(results, "transfer", make),
    _EXCESS,
    (
      "The dream's favourite is about the best there is.",
      "The dream's favourite is decent, not the best.",
      "The dream's favourite is a bad choice.",
    ),
    low=True,
  )
