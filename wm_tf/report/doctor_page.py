"""The doctor's page: one self-contained HTML file that loads nothing from the network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from wm_tf.report import doctor_figures as charts
from wm_tf.report import markup, scores
from wm_tf.report.doctor import OPEN_LOOP_TABLES, verdict_in_words
from wm_tf.report.formatting import decimals, number, plus_minus
from wm_tf.report.verdicts import Check, summary

_OPEN_LOOP_WORDS = {
  "latent": "Squared error per standardised latent dimension; lower is better. Where the dream "
  "meets the mean, it knows nothing more about the episode.",
  "psnr": "Decoded images against the real ones; higher is better. A dream can be as good as the "
  "reconstruction at most.",
  "observation": "Error of decoded vectors; lower is better. A dream can be as good as the "
  "reconstruction at most.",
}


def render_doctor(
  results: Mapping[str, Any],
  found: Sequence[Check],
  figures: markup.Figures | None = None,
  *,
  captions: Mapping[str, str] | None = None,
  command: str = "",
) -> str:
  """Renders the page.

  Args:
    results: the content of `doctor.json`; missing figures are omitted or shown as "not run".
    found: the result of `doctor_checks(results)`.
    figures: film strips as PNG bytes, by key.
    captions: the caption of each figure, by key.
    command: the command that made the diagnosis.

  Returns:
    The HTML document.
  """
  pictures = markup.Pictures(figures or {}, captions or {})
  title = f"Is this model of {scores.environment_title(results)} good?"
  return markup.document(
    title,
    [
      f'<header><p class="eyebrow">Diagnosis of {escape(str(results.get("workdir", "a run")))}, '
      f"iteration {escape(str(results.get('iteration', '?')))}</p><h1>{escape(title)}</h1>"
      f'<p class="lead">{escape(verdict_in_words(found))}</p>'
      f'<p class="faint">{escape(summary(list(found)))}</p></header>',
      _transfer(results, pictures),
      _films(pictures),
      markup.section("Every figure", f'<div class="card">{markup.checks_table(found)}</div>'),
      _open_loop(results, pictures),
      _calibration(results, pictures),
      _actions(results),
      pictures.rest(),
      markup.section("How to repeat it", f"<pre>{escape(command)}</pre>") if command else "",
    ],
  )


def _transfer(results: Mapping[str, Any], pictures: markup.Pictures) -> str:
  title = "Rank correlation of dreamed and real returns"
  controllers, found = results.get("controllers"), results.get("transfer")
  if not controllers or not found:
    return markup.section(title, f"<p>{markup.MISSING}</p>")
  chart = pictures.chart(
    charts.transfer_figure(controllers),
    "Each point is a controller: its return in the dream against its return in the environment. "
    "Bars: standard error of the real mean.",
  )
  text = (
    f"<p>{found['num_controllers']} controllers of mixed skill, {found['num_episodes']} official "
    f"episodes each with the same seeds, {found['num_dreams']} dreams each from the same starts."
    "</p>"
  )
  rows = "".join(
    f'<tr><th scope="row">{escape(length)} decisions</th>'
    f"{markup.cell('-' if value is None else f'{value:.2f}')}</tr>"
    for length, value in (results.get("rank_correlation_by_length") or {}).items()
  )
  lengths = markup.table(("length of the dreams", ">rank correlation"), [rows])
  places = decimals([row[key] for row in controllers for key in ("dream", "real")])
  body = [
    f'<tr><th scope="row">{escape(row["name"])}</th>'
    f"{markup.cell(number(row['dream'], places))}"
    f"{markup.cell(plus_minus(row['real'], row.get('real_error'), places))}"
    f"{markup.cell(number(row['dream'] - row['real'], places, sign='+'))}</tr>"
    for row in sorted(controllers, key=lambda row: -row["real"])
  ]
  heads = ("controller", ">dream", ">environment ± std. error", ">gap")
  every = markup.details("Every controller", markup.table(heads, body))
  return markup.section(
    title, f'{text}<div class="pair">{chart}<div class="card">{lengths}</div></div>{every}'
  )


def _films(pictures: markup.Pictures) -> str:
  strips = pictures.take("film_strip")
  return markup.section("Film strips and plots", strips) if strips else ""


def _open_loop(results: Mapping[str, Any], pictures: markup.Pictures) -> str:
  found = results.get("open_loop")
  if not found:
    return ""
  drawn = "".join(
    pictures.chart(charts.open_loop_curves(found[key], OPEN_LOOP_TABLES[key][0]), words)
    for key, words in _OPEN_LOOP_WORDS.items()
    if found.get(key)
  )
  counts = ", ".join(f"{n} of {k}" for k, n in found["num_dreams"].items())
  return markup.section(
    "Open-loop error of dreams",
    f"<p>Held-out episodes, dreamed on along their real actions. Dreams by steps: {counts}.</p>"
    f'<div class="pair">{drawn}</div>',
  )


def _calibration(results: Mapping[str, Any], pictures: markup.Pictures) -> str:
  parts = []
  for key, quantity, words in (
    ("reward_calibration", "reward of a decision", "Held-out decisions, in ten equal groups."),
    (
      "termination_calibration",
      "probability of termination",
      "Groups with equally many expected terminations, so that rare ones can be seen.",
    ),
  ):
    if results.get(key, {}).get("bins"):
      parts.append(pictures.chart(charts.calibration_figure(results[key], quantity), words))
  if not parts:
    return ""
  return markup.section(
    "Calibration of reward and termination", f'<div class="pair">{"".join(parts)}</div>'
  )


def _actions(results: Mapping[str, Any]) -> str:
  found = results.get("action_sensitivity")
  if not found:
    return ""
  body = []
  for horizon, part in found.items():
    cells = "".join(markup.cell(f"{100 * part[n]:.0f}%") for n in ("start", "action", "chance"))
    cells += markup.cell(f"{100 * part['heard']:.0f}%")
    cells += markup.cell(number(part["range"], 1))
    body.append(f'<tr><th scope="row">{escape(horizon)} decisions</th>{cells}</tr>')
  heads = ("dreams of", ">start", ">action", ">chance", ">action, given the start", ">range")
  return markup.section(
    "Sensitivity of dreams to actions",
    "<p>The variance of dreamed returns that is due to the start, to the actions and to chance; "
    "and the difference of return between the best and the worst of the action sequences "
    f'tried.</p><div class="card"><div class="wide">{markup.table(heads, body)}</div></div>',
  )
