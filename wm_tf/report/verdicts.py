"""Is my model good? Every quality figure of a run beside its reference range, judged in words.

The thresholds lie in one place below. They come from published figures (World Models, Ha and
Schmidhuber 2018, and its reimplementations) and from trials of this recipe; they say what is usual,
not what is possible.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from wm_tf.report import scores

GOOD, USABLE, POOR, INFO = "good", "usable", "poor", "no verdict"
NOT_RUN = scores.NOT_RUN

# (good, usable) limits. A figure beyond the second is poor; so is one that is not finite.
_SSE = (25.0, 40.0)  # Squared error per 64x64x3 image in [0, 1].
_SSE_SHARE = 0.5  # ... and a VAE that halves the mean image's error is usable whatever its SSE.
_ACTIVE = (12, 6)
_NLL = (1.3, 1.419)  # 1.419 nats: the entropy of N(0, 1), so of knowing nothing.
_RATIO = (0.8, 1.0)  # One-step error over the error of predicting no change.
_OPEN_LOOP = (20, 5)  # Steps up to which a dream beats persistence.
_R2 = (0.4, 0.1)
_AUC = (0.9, 0.75)
_RANK = (0.7, 0.4)
_GAP_SHARE = 0.25  # A gap below a quarter of the real return is usable.


class Check(NamedTuple):
  """One judged figure, all in words.

  Attributes:
    group: "VAE", "dynamics" or "transfer".
    name: what was measured, and its unit.
    value: the figure, or "not run".
    reference: what is usual.
    verdict: GOOD, USABLE, POOR, INFO or NOT_RUN.
    words: what the verdict means, in a sentence.
  """

  group: str
  name: str
  value: str
  reference: str
  verdict: str
  words: str


def checks(results: Mapping[str, Any]) -> list[Check]:
  """Judges the `vae` and `dynamics` figures of a run, and how its controller transferred."""
  return _vae(_section(results, "vae")) + _dynamics(_section(results, "dynamics")) + _gap(results)


def summary(found: list[Check]) -> str:
  """How many figures came out how, in a sentence."""
  judged = [c for c in found if c.verdict in (GOOD, USABLE, POOR)]
  missing = [c for c in found if c.verdict == NOT_RUN]
  if not judged:
    return "Nothing was measured yet, so nothing can be judged."
  parts = []
  for verdict in (GOOD, USABLE, POOR):
    count = sum(c.verdict == verdict for c in judged)
    if count:
      parts.append(f"{count} {verdict}")
  text = f"{len(judged)} figure{'s' * (len(judged) > 1)} judged: {', '.join(parts)}."
  return text + (f" {len(missing)} not run." if missing else "")


def _section(results, name) -> Mapping[str, Any]:
  section = results.get(name)
  return section if isinstance(section, Mapping) else {}


def _figure(section: Mapping[str, Any], name: str) -> float | None:
  value = section.get(name)
  return float(value) if scores.is_number(value) else None


def _low(value: float, limits) -> str:
  """Verdict on a figure that should be small. NaN fails every comparison and is poor."""
  return GOOD if value <= limits[0] else USABLE if value < limits[1] else POOR


def _high(value: float, limits) -> str:
  return GOOD if value >= limits[0] else USABLE if value >= limits[1] else POOR


def _check(
  group: str,
  name: str,
  reference: str,
  value: float | None,
  judge: Callable[[float], str],
  words: Mapping[str, str],
  text: str | None = None,
  places: int = 2,
) -> Check:
  if value is None:
    return Check(group, name, NOT_RUN, reference, NOT_RUN, "")
  verdict = judge(value)
  sentence = words.get(verdict, "") if math.isfinite(value) else "The figure is not finite."
  return Check(group, name, text or scores.number(value, places), reference, verdict, sentence)


def _vae(vae: Mapping[str, Any]) -> list[Check]:
  sse, mean_image = _figure(vae, "sse"), _figure(vae, "sse_mean_image")
  text = None if sse is None else scores.number(sse, 1)
  explained = ""
  if sse is not None and mean_image:
    text += f" (mean image {scores.number(mean_image, 1)})"
    explained = f" It removes {100 * (1 - sse / mean_image):.0f}% of the mean image's error."

  def judge_sse(value):
    verdict = _low(value, _SSE)
    if mean_image and not value < mean_image:
      return POOR
    halves = bool(mean_image) and value <= _SSE_SHARE * mean_image
    return USABLE if verdict == POOR and halves else verdict

  active, size = _figure(vae, "active_dimensions"), _figure(vae, "latent_size")
  active_text = None
  if active is not None:
    active_text = scores.number(active) + ("" if size is None else f" of {scores.number(size)}")
  return [
    _check(
      "VAE",
      "reconstruction error, SSE per 64x64x3 image, held-out frames",
      "CarRacing about 20; Doom 27.7 after 1,000 steps, 3.6 after 300,000",
      sse,
      judge_sse,
      {
        GOOD: "Frames come back with what matters in them." + explained,
        USABLE: "Coarse: the road survives, small things may not." + explained,
        POOR: "The VAE has not learned: train longer, or look at the data." + explained,
      },
      text,
    ),
    _check(
      "VAE",
      "active latent dimensions",
      "24 of 32 in a trial of this recipe",
      active,
      lambda value: _high(value, _ACTIVE),
      {
        GOOD: "The latent is well used.",
        USABLE: "Few dimensions carry anything: a smaller beta or more free nats may help.",
        POOR: "The posterior has collapsed: lower beta or raise the free nats.",
      },
      active_text,
    ),
    _check(
      "VAE",
      "KL to the prior, nats per image",
      "above the free nats; trades against the SSE",
      _figure(vae, "kl"),
      lambda value: INFO if math.isfinite(value) else POOR,
      {INFO: "Neither high nor low is better by itself."},
      places=1,
    ),
  ]


def _dynamics(dynamics: Mapping[str, Any]) -> list[Check]:
  mixture = dynamics.get("mixture")
  kind = f", {str(mixture).replace('_', ' ')} mixture" if mixture else ""
  nll = _figure(dynamics, "nll_per_dimension")
  one_step, persistence = (
    _figure(dynamics, "one_step_error"),
    _figure(dynamics, "persistence_error"),
  )
  ratio = None
  if one_step is not None and persistence:
    ratio = one_step / persistence
  ratio_text = (
    f"{scores.number(one_step, 3)} (persistence {scores.number(persistence, 3)})"
    if ratio is not None
    else None
  )
  auc_words = {
    GOOD: "Ranks such steps well.",
    USABLE: "Ranks such steps, with mistakes.",
    POOR: "Hardly better than a coin: the controller would learn from noise.",
  }
  return [
    _check(
      "dynamics",
      f"negative log-likelihood, nats per latent dimension{kind}",
      "CarRacing 1.05 to 1.13; knowing nothing 1.42; negative is legal",
      nll,
      lambda value: _low(value, _NLL),
      {
        GOOD: "The next latent is well predicted.",
        USABLE: "Better than knowing nothing, but not by much.",
        POOR: "No better than a standard normal: the dynamics have not learned.",
      },
    ),
    _check(
      "dynamics",
      "one-step error against predicting no change",
      "below persistence, the lower the better",
      ratio,
      lambda value: _low(value, _RATIO),
      {} if ratio is None else dict.fromkeys((GOOD, USABLE, POOR), _ratio_words(ratio)),
      ratio_text,
    ),
    _open_loop(dynamics),
    _check(
      "dynamics",
      "reward, R²",
      "0.52 in a trial of this recipe",
      _figure(dynamics, "reward_r2"),
      lambda value: _high(value, _R2),
      {
        GOOD: "The dream pays for what the environment pays for.",
        USABLE: "Reward is noisy in the dream.",
        POOR: "The dream does not know what is rewarded.",
      },
    ),
    _check(
      "dynamics",
      "reward, AUC of steps that bring some",
      "0.94 in a trial of this recipe",
      _figure(dynamics, "reward_auc"),
      lambda value: _high(value, _AUC),
      auc_words,
    ),
    _check(
      "dynamics",
      "termination, AUC",
      "above 0.9; not measurable where no held-out episode terminates",
      _figure(dynamics, "termination_auc"),
      lambda value: _high(value, _AUC),
      auc_words,
    ),
    _check(
      "dynamics",
      "rank correlation of dream and real return over controllers (Spearman)",
      "over 30 controllers of mixed skill or more; 1 is perfect",
      _figure(dynamics, "rank_correlation"),
      lambda value: _high(value, _RANK),
      {
        GOOD: "What is better in the dream is better in the environment.",
        USABLE: "The dream tells good from bad, but not good from better.",
        POOR: "The dream's order is not the environment's: do not select by it.",
      },
    ),
  ]


def _ratio_words(ratio: float) -> str:
  change = abs(1 - ratio) * 100
  if ratio < 1:
    return f"{change:.0f}% below predicting no change."
  return f"{change:.0f}% above predicting no change: worse than doing nothing."


def open_loop_table(dynamics: Any) -> list[tuple[int, float, float | None]]:
  """`(steps, error, persistence error or None)`, by steps, from the `open_loop` figures."""
  if not isinstance(dynamics, Mapping):
    return []
  model, still = (_section(dynamics, key) for key in ("open_loop", "open_loop_persistence"))
  rows = ((int(steps), _figure(model, steps), _figure(still, steps)) for steps in model)
  return sorted(row for row in rows if row[1] is not None)


def _open_loop(dynamics: Mapping[str, Any]) -> Check:
  name = "open loop: steps dreamed before predicting no change is as good"
  reference = "beyond the planning horizon, 12 to 16"
  rows = [row for row in open_loop_table(dynamics) if row[2] is not None]
  if not rows:
    return Check("dynamics", name, NOT_RUN, reference, NOT_RUN, "")
  reach = 0
  for steps, error, still in rows:
    if not error < still:
      break
    reach = steps
  text = f"{reach} or more" if reach == rows[-1][0] else str(reach)
  words = {
    GOOD: "Dreams hold for longer than a plan looks ahead.",
    USABLE: "Dreams hold for a while: keep plans and dreams short.",
    POOR: "Dreams fall apart at once.",
  }
  verdict = _high(reach, _OPEN_LOOP)
  return Check("dynamics", name, text, reference, verdict, words[verdict])


def _gap(results: Mapping[str, Any]) -> list[Check]:
  name = "controller's return in the model minus in the environment"
  reference = "within two standard errors of zero"
  found = scores.gap(results)
  if found is None:
    return [Check("transfer", name, NOT_RUN, reference, NOT_RUN, "")]
  real = float(results["controller_in_environment"]["mean"])
  size = abs(found.mean)
  small = size <= _GAP_SHARE * abs(real)
  noise = found.standard_error is not None and size <= 2 * found.standard_error
  if noise and small:
    verdict, words = GOOD, "The dream's promise is kept, as far as these episodes can tell."
  elif noise:
    verdict, words = USABLE, "Within the noise, but the noise is large: evaluate more episodes."
  elif found.mean < 0:
    verdict, words = USABLE, "The dream is harder than the environment: cautious, not exploited."
  elif small:
    verdict, words = USABLE, "The dream promises somewhat more than the environment pays."
  else:
    verdict = POOR
    words = "The controller exploits the model: collect with it, refit, and dream again."
  return [Check("transfer", name, found.text, reference, verdict, words)]
