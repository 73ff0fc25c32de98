"""The report of a run as one self-contained HTML file that loads nothing from the network."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from wm_tf import files
from wm_tf.report import figures as charts
from wm_tf.report import markup, scores, verdicts
from wm_tf.report.formatting import decimals, duration, is_number, number, plus_minus
from wm_tf.report.overview import course_in_words
from wm_tf.report.published import published_scores
from wm_tf.report.record_sections import data_section, reproduce_section, time_section


def write_report(
  path: str | os.PathLike[str],
  results: Mapping[str, Any],
  config: Mapping[str, Any],
  figures: markup.Figures | None = None,
  **options: Any,
) -> None:
  """Writes the report of a run to a file, atomically.

  Args:
    path: the HTML file.
    results: see `render_page`.
    config: see `render_page`.
    figures: see `render_page`.
    **options: further arguments of `render_page`.

  Raises:
    ValueError: if a figure is neither PNG, GIF nor SVG.
  """
  page = render_page(results, config, figures, **options).encode()
  with files.atomic_open(path) as file:
    file.write(page)


def save_figures(folder: str | os.PathLike[str], figures: markup.Figures) -> dict[str, str]:
  """Writes each figure to its own file, `<key>.png`, `.gif` or `.svg`.

  Args:
    folder: the folder to write to; created if needed.
    figures: PNG or GIF bytes or SVG text by key.

  Returns:
    The path of each file by key.

  Raises:
    ValueError: if a figure is neither PNG, GIF nor SVG.
  """
  folder = files.user_path(folder)
  folder.mkdir(parents=True, exist_ok=True)
  paths = {}
  for key, figure in figures.items():
    name = "".join(c if c.isalnum() or c in "-_." else "_" for c in key)
    path = folder / f"{name}.{markup.kind_of(key, figure)}"
    with files.atomic_open(path) as file:
      file.write(figure.encode() if isinstance(figure, str) else figure)
    paths[key] = str(path)
  return paths


def render_page(
  results: Mapping[str, Any],
  config: Mapping[str, Any],
  figures: markup.Figures | None = None,
  *,
  histories: Mapping[str, Sequence[Mapping[str, Any]]] | None = None,
  captions: Mapping[str, str] | None = None,
  notes: Sequence[str] = (),
  command: str | None = None,
  created: str | None = None,
  title: str | None = None,
) -> str:
  """Renders the page. Figures that `results` lacks are shown as "not run".

  Args:
    results: the content of `results.json`: the environment's id and name (see `environment_title`),
      scores and `reward_threshold` (see `return_checks`), `vae` (see `vae_checks`), `dynamics` (see
      `dynamics_checks`), `data`, `iterations` and `seconds`.
    config: the run's configuration, nested.
    figures: PNG or GIF bytes or SVG text by key. A key that starts with `animation`, `film_strip`
      or `learning_curves` puts the figure in that section; all others are in a separate section.
    histories: title to the records of a JSONL history; each is drawn as a learning curve.
    captions: the caption of each figure, by key.
    notes: sentences shown with the scores.
    command: the command that made the run; None if unknown.
    created: the time of the run as text; None if unknown.
    title: the heading; None for a default with the environment's id.

  Returns:
    The HTML document.

  Raises:
    ValueError: if a figure is neither PNG, GIF nor SVG.
  """
  title = title or f"A world model of {scores.environment_id(results)}"
  pictures = markup.Pictures(figures or {}, captions or {})
  sections = [
    _header(results, title, created),
    _scores(results, pictures, notes),
    _dream(pictures),
    _transfer(results, pictures),
    _quality(results, pictures),
    _curves(histories or {}, pictures),
    data_section(results),
    time_section(results.get("seconds")),
    pictures.rest(),
    reproduce_section(results, config, command),
  ]
  return markup.document(title, sections)


def _header(results, title: str, created: str | None) -> str:
  when = f" · {escape(created)}" if created else ""
  name = results.get("environment_name")
  named = f" in {escape(str(name))}" if name else ""
  judged = [c for c in verdicts.checks(results) if c.group == verdicts.RETURN]
  lines = [
    f"{escape(check.name.capitalize())}: {markup.verdict(check.verdict)}. {escape(check.words)}"
    for check in judged
    if check.verdict != verdicts.NOT_RUN
  ] or [escape(verdicts.return_in_words(judged))]
  lines.append(escape(course_in_words(results)))
  return (
    f'<header><p class="eyebrow">Report of a run{named}{when}</p><h1>{escape(title)}</h1>'
    + "".join(f'<p class="lead">{line}</p>' for line in lines)
    + "</header>"
  )


def _scores(results, pictures: markup.Pictures, notes: Sequence[str]) -> str:
  rows = scores.scores(results)
  places = decimals(row.mean for row in rows)
  movie = pictures.take("animation")
  bars = pictures.take("scores") or pictures.chart(
    charts.scores_figure(results),
    "Mean return; higher is better. Thick line: standard error of the mean; thin line: standard "
    "deviation over episodes.",
  )
  body = []
  for row in rows:
    own = ' class="own"' if row.key.endswith("_in_environment") and row.mean is not None else ""
    note = f'<br><span class="faint">{escape(row.note)}</span>' if row.note else ""
    if row.mean is None:
      body.append(
        f'<tr><th scope="row">{escape(row.label)}</th><td class="number">{markup.MISSING}</td>'
        '<td class="minor"></td><td></td><td class="minor"></td></tr>'
      )
      continue
    cells = (
      markup.cell(plus_minus(row.mean, row.standard_error, places)),
      markup.cell(number(row.std, places), minor=True),
      markup.cell(number(row.n)),
      markup.cell(duration(row.seconds), minor=True),
    )
    body.append(f'<tr{own}><th scope="row">{escape(row.label)}{note}</th>{"".join(cells)}</tr>')
  table = markup.table(
    ("agent", ">mean ± std. error", "?std. deviation", ">episodes", "?time"), body
  )
  published = published_scores(scores.environment_id(results))
  context = ""
  if published is not None:
    lines = [
      f'<tr><th scope="row">{escape(item.method)}</th>'
      f"{markup.cell(plus_minus(item.mean, item.std))}<td>{escape(item.source)}</td></tr>"
      for item in published.scores
    ]
    context = markup.details(
      f"Published scores on {published.environment}, for context",
      f"<p>{escape(published.caveat.capitalize())}. Mean ± standard deviation.</p>"
      + markup.table(("method", f">{published.environment}", "source"), lines),
    )
  remarks = "".join(f"<li>{escape(note)}</li>" for note in notes)
  remarks = f'<ul class="faint">{remarks}</ul>' if remarks else ""
  top = f'<div class="pair">{movie}{bars}</div>'
  return markup.section("Scores", f'{top}<div class="card">{table}</div>{remarks}{context}')


def _dream(pictures: markup.Pictures) -> str:
  strips = pictures.take("film_strip")
  return markup.section("Real, reconstructed and dreamed", strips or f"<p>{markup.MISSING}</p>")


def _transfer(results, pictures: markup.Pictures) -> str:
  found = scores.gap(results)
  iterations = results.get("iterations")
  iterations = iterations if isinstance(iterations, list | tuple) else ()
  iterations = [item for item in iterations if isinstance(item, Mapping)]
  text = f"<p>{markup.MISSING}</p>"
  if found is not None:
    text = (
      "<p>The controller's return in the model minus its return in the environment: "
      f"<strong>{found.text}</strong>. {escape(verdicts.gap_check(results).words)}</p>"
    )
  if iterations:
    levels = {key: results.get(key) for key in ("random", scores.SCRIPTED)}
    levels["reward threshold"] = {"mean": scores.reward_threshold(results)}
    chart = pictures.take("returns") or pictures.chart(
      charts.returns_figure(iterations, levels),
      "Return of each iteration's controller. Whiskers: standard error; the band is the gap.",
    )
    text += f'<div class="pair">{chart}<div class="card">{_iterations(iterations)}</div></div>'
  return markup.section("Return in the model and in the environment", text)


def _iterations(iterations) -> str:
  body = []
  for index, item in enumerate(iterations):
    model, real = (
      scores.score(key, item.get(key))
      for key in ("controller_in_model", "controller_in_environment")
    )
    found = scores.gap(item)
    places = decimals([model.mean, real.mean])
    episodes = item.get("episodes")
    cells = markup.cell(number(episodes if is_number(episodes) else None))
    for row in (model, real):
      cells += markup.cell(plus_minus(row.mean, row.standard_error, places))
    cells += markup.cell("-" if found is None else found.text)
    name = escape(str(item.get("iteration", index)))
    body.append(f'<tr><th scope="row">{name}</th>{cells}</tr>')
  heads = ("iteration", ">episodes", ">model", ">environment", ">gap")
  return f'<div class="wide">{markup.table(heads, body)}</div>'


def _quality(results, pictures: markup.Pictures) -> str:
  found = verdicts.checks(results)
  text = f"<p>{escape(verdicts.summary(found))}</p>"
  text += f'<div class="card">{markup.checks_table(found)}</div>'
  if verdicts.open_loop_table(results.get("dynamics")):
    text += pictures.take("open_loop") or pictures.chart(
      charts.open_loop_figure(results["dynamics"]),
      "The model dreams ahead from actions alone. Above the grey line, predicting no change is "
      "closer.",
    )
  return markup.section("Verdicts", text)


def _curves(histories, pictures: markup.Pictures) -> str:
  given = pictures.take("learning_curves")
  panels = "".join(
    pictures.chart(charts.learning_curves({title: records}), f"Learning curve: {title}", False)
    for title, records in histories.items()
  )
  found = (
    f'<div class="pair">{given}{panels}</div>' if given or panels else f"<p>{markup.MISSING}</p>"
  )
  return markup.section("Learning curves", found)
