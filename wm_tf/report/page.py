"""The report of a run as one HTML file that needs nothing beside it and no network."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from wm_tf.report import figures as charts
from wm_tf.report import markup, scores, verdicts

_POLICY_COLORS = ("real", "rule", "plan", "dream", "chance")


def write_report(
  path: str | os.PathLike[str],
  results: Mapping[str, Any],
  config: Mapping[str, Any],
  figures: markup.Figures | None = None,
  **options: Any,
) -> None:
  """Writes `render_page(results, config, figures, **options)` to `path`, atomically."""
  _write(path, render_page(results, config, figures, **options).encode())


def save_figures(folder: str | os.PathLike[str], figures: markup.Figures) -> dict[str, str]:
  """Writes every figure to `folder` as `<key>.png`, `.gif` or `.svg` (for a README, say).

  Returns:
    Key to the path that was written.
  """
  os.makedirs(folder, exist_ok=True)
  paths = {}
  for key, figure in figures.items():
    name = "".join(c if c.isalnum() or c in "-_." else "_" for c in key)
    paths[key] = os.path.join(folder, f"{name}.{markup.kind_of(key, figure)}")
    _write(paths[key], figure.encode() if isinstance(figure, str) else figure)
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
  """Renders the page. Whatever `results` lacks is shown as "not run".

  Args:
    results: what `results.json` holds.
    config: the run's configuration, nested.
    figures: PNG or GIF bytes or SVG text by key. Keys that start with `animation`, `film_strip`
      or `learning_curves` go to their section, all others to one of their own.
    histories: title to the records of a JSONL history; each is drawn as a learning curve.
    captions: figure key to the text beneath it.
    notes: sentences that a reader of the scores should know.
    command: the command that made the run.
    created: when it was made, in words.
    title: the heading.

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
    _data(results.get("data")),
    _time(results.get("seconds")),
    pictures.rest(),
    _reproduce(results, config, command),
  ]
  return markup.document(title, sections)


def _header(results, title: str, created: str | None) -> str:
  when = f" · {escape(created)}" if created else ""
  return (
    f'<header><p class="eyebrow">Report of a run{when}</p><h1>{escape(title)}</h1>'
    f'<p class="lead">{escape(scores.in_words(results))}</p></header>'
  )


def _scores(results, pictures: markup.Pictures, notes: Sequence[str]) -> str:
  rows = scores.scores(results)
  places = scores.decimals(row.mean for row in rows)
  movie = pictures.take("animation")
  bars = pictures.take("scores") or pictures.chart(
    charts.scores_figure(results),
    "Mean return. Thick line: standard error of the mean; thin line: standard deviation over "
    "episodes.",
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
      markup.cell(scores.plus_minus(row.mean, row.standard_error, places)),
      markup.cell(scores.number(row.std, places), minor=True),
      markup.cell(scores.number(row.n)),
      markup.cell(scores.duration(row.seconds), minor=True),
    )
    body.append(f'<tr{own}><th scope="row">{escape(row.label)}{note}</th>{"".join(cells)}</tr>')
  table = markup.table(
    ("agent", ">mean ± std. error", "?std. deviation", ">episodes", "?time"), body
  )
  published = scores.references(results)
  context = ""
  if published is not None:
    lines = [
      f'<tr><th scope="row">{escape(item.method)}</th>'
      f"{markup.cell(scores.plus_minus(item.mean, item.std))}<td>{escape(item.source)}</td></tr>"
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
  return markup.section("Dream and reality", strips or f"<p>{markup.MISSING}</p>")


def _transfer(results, pictures: markup.Pictures) -> str:
  found = scores.gap(results)
  iterations = results.get("iterations")
  iterations = iterations if isinstance(iterations, list | tuple) else ()
  iterations = [item for item in iterations if isinstance(item, Mapping)]
  text = f"<p>{markup.MISSING}</p>"
  if found is not None:
    check = next(c for c in verdicts.checks(results) if c.group == "transfer")
    text = (
      f"<p>The model's promise minus what the environment paid: <strong>{found.text}</strong>. "
      f"{escape(check.words)}</p>"
    )
  if iterations:
    levels = {key: results.get(key) for key in ("random", "heuristic")}
    chart = pictures.take("returns") or pictures.chart(
      charts.returns_figure(iterations, levels),
      "Return of each iteration's controller. Whiskers: standard error; the band is the gap.",
    )
    text += f'<div class="pair">{chart}<div class="card">{_iterations(iterations)}</div></div>'
  return markup.section("Does the dream keep its promise?", text)


def _iterations(iterations) -> str:
  body = []
  for index, item in enumerate(iterations):
    model, real = (
      scores.score(key, item.get(key))
      for key in ("controller_in_model", "controller_in_environment")
    )
    found = scores.gap(item)
    places = scores.decimals([model.mean, real.mean])
    episodes = item.get("episodes")
    cells = markup.cell(scores.number(episodes if scores.is_number(episodes) else None), minor=True)
    for row in (model, real):
      cells += markup.cell(scores.plus_minus(row.mean, row.standard_error, places))
    cells += markup.cell("-" if found is None else found.text)
    name = escape(str(item.get("iteration", index)))
    body.append(f'<tr><th scope="row">{name}</th>{cells}</tr>')
  heads = ("iteration", "?episodes", ">model", ">environment", ">gap")
  return f'<div class="wide">{markup.table(heads, body)}</div>'


def _quality(results, pictures: markup.Pictures) -> str:
  found = verdicts.checks(results)
  text = f"<p>{verdicts.summary(found)}</p>"
  text += f'<div class="card">{markup.checks_table(found)}</div>'
  if verdicts.open_loop_table(results.get("dynamics")):
    text += pictures.take("open_loop") or pictures.chart(
      charts.open_loop_figure(results["dynamics"]),
      "The model dreams ahead from actions alone. Above the grey line, predicting no change would "
      "have been closer.",
    )
  return markup.section("Is the model good?", text)


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


def _data(data: Any) -> str:
  if not isinstance(data, Mapping):
    return markup.section("Data", f"<p>{markup.MISSING}</p>")
  by_policy = data.get("by_policy") if isinstance(data.get("by_policy"), Mapping) else {}
  counts = {}
  for policy, entry in by_policy.items():
    episodes = entry.get("episodes") if isinstance(entry, Mapping) else entry
    if scores.is_number(episodes):
      counts[str(policy)] = int(episodes)
  amounts = [
    f"<strong>{scores.number(data[key])}</strong> {key}"
    for key in ("episodes", "frames")
    if scores.is_number(data.get(key))
  ]
  text = f"<p>{', '.join(amounts)}. {escape(_heuristic_share(counts))}</p>"
  total = sum(counts.values())
  if total:
    text += _share_bar(
      [(name, count, f"{scores.number(count)} episodes") for name, count in counts.items()]
    )
  return markup.section("Data", text)


def _heuristic_share(counts: Mapping[str, int]) -> str:
  total = sum(counts.values())
  if not total:
    return "Which policies collected it was not recorded."
  scripted = sum(count for name, count in counts.items() if "heuristic" in name.lower())
  if not scripted:
    return "None of it came from the scripted heuristic: everything was learned from scratch."
  share = 100 * scripted / total
  return (
    f"The scripted heuristic drove {scripted:,} of {total:,} episodes ({share:.0f}%): "
    "the model has seen good driving that nobody had to learn."
  )


def _time(seconds: Any) -> str:
  total = scores.total_seconds(seconds)
  if not total:
    return markup.section("Time", f"<p>{markup.MISSING}</p>")
  stages = [
    (str(stage), float(value), scores.duration(float(value)))
    for stage, value in seconds.items()
    if stage != "total" and scores.is_number(value) and value >= 0
  ]
  text = f"<p><strong>{scores.duration(total)}</strong> in all.</p>"
  return markup.section("Time", text + (_share_bar(stages) if stages else ""))


def _share_bar(parts: Iterable[tuple[str, float, str]]) -> str:
  """A bar cut in proportion, and a table that names the cuts."""
  parts = list(parts)
  total = math.fsum(amount for _, amount, _ in parts) or 1.0
  pieces, rows = [], []
  for index, (name, amount, words) in enumerate(parts):
    color = f"background:var(--{_POLICY_COLORS[index % len(_POLICY_COLORS)]})"
    if index >= len(_POLICY_COLORS):
      color += ";opacity:.55"
    share = 100 * amount / total
    pieces.append(f'<i style="width:{share:.3f}%;{color}"></i>')
    label = escape(name.replace("_", " "))
    amounts = markup.cell(escape(words)) + markup.cell(f"{share:.0f}%")
    rows.append(
      f'<tr><th scope="row"><span class="key" style="{color}"></span>{label}</th>{amounts}</tr>'
    )
  bar = f'<div class="bar" aria-hidden="true">{"".join(pieces)}</div>'
  return f'<div class="card">{bar}<table><tbody>{"".join(rows)}</tbody></table></div>'


def _reproduce(results, config, command: str | None) -> str:
  text = f"<pre>{escape(command)}</pre>" if command else ""
  text += markup.details("Configuration", _flat_table(config))
  seeds = [
    f'<tr><th scope="row">{escape(row.label)}</th><td>{escape(scores.ranges(row.seeds))}</td></tr>'
    for row in scores.scores(results)
    if len(row.seeds)
  ]
  if seeds:
    text += markup.details("Seeds of the evaluations", markup.table(("evaluation", "seeds"), seeds))
  text += markup.details("All figures, as results.json has them", _flat_table(results))
  return markup.section("Make it again", text)


def _flat_table(nested: Mapping[str, Any]) -> str:
  body = [
    f'<tr><th scope="row"><code>{escape(name)}</code></th><td><code>{escape(text)}</code></td></tr>'
    for name, text in _flatten(nested)
  ]
  return markup.table(("name", "value"), body) if body else f"<p>{markup.MISSING}</p>"


def _flatten(value: Any, prefix: str = "") -> list[tuple[str, str]]:
  """`{"a": {"b": 1}}` becomes `[("a.b", "1")]`: the names that --override takes."""
  if isinstance(value, Mapping):
    items = [(str(key), item) for key, item in value.items()]
  elif isinstance(value, list | tuple) and any(isinstance(item, Mapping) for item in value):
    items = [(str(index), item) for index, item in enumerate(value)]
  else:
    # Seeds come in hundreds, and in a row.
    seeds = prefix.rpartition(".")[2] == "seeds" and isinstance(value, list | tuple)
    seeds = seeds and all(isinstance(seed, int) for seed in value)
    return [(prefix, scores.ranges(value) if seeds else str(value))]
  join = f"{prefix}." if prefix else ""
  return [pair for key, item in items for pair in _flatten(item, join + key)]


def _write(path: str | os.PathLike[str], data: bytes) -> None:
  """Writes whole or not at all: to a temporary file beside `path`, then renamed over it."""
  folder, name = os.path.split(os.path.abspath(path))
  os.makedirs(folder, exist_ok=True)
  # Always the same name: what a killed process leaves, the next one overwrites.
  temporary = os.path.join(folder, f".{name}.tmp")
  with open(temporary, "wb") as file:
    try:
      file.write(data)
      file.flush()
      os.replace(temporary, path)
    except BaseException:
      os.unlink(temporary)
      raise
