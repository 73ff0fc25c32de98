"""The sections of the page on a run's data, its time, and how to repeat it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from html import escape
from typing import Any

from wm_tf.report import markup, scores
from wm_tf.report.formatting import duration, is_number, number, ranges

_COLORS = ("real", "rule", "plan", "dream", "chance")


def data_section(results: Mapping[str, Any]) -> str:
  """Returns the section on the data that a run collected.

  Args:
    results: the content of `results.json`, with `data` (`episodes`, `frames`, and `by_policy`,
      which maps a policy to a number of episodes or to a mapping with `episodes`), and with
      `heuristic` if there is a scripted policy.
  """
  data = results.get("data")
  if not isinstance(data, Mapping):
    return markup.section("Data", f"<p>{markup.MISSING}</p>")
  by_policy = data.get("by_policy") if isinstance(data.get("by_policy"), Mapping) else {}
  counts = {}
  for policy, entry in by_policy.items():
    episodes = entry.get("episodes") if isinstance(entry, Mapping) else entry
    if is_number(episodes):
      counts[str(policy)] = int(episodes)
  amounts = [
    f"<strong>{number(data[key])}</strong> {key}"
    for key in ("episodes", "frames")
    if is_number(data.get(key))
  ]
  scripted = _scripted_share(counts, scores.has_scripted_policy(results))
  text = f"<p>{', '.join(amounts)}. {escape(scripted)}</p>"
  total = sum(counts.values())
  if total:
    text += _share_bar(
      [(name, count, f"{number(count)} episodes") for name, count in counts.items()]
    )
  return markup.section("Data", text)


def _scripted_share(counts: Mapping[str, int], exists: bool) -> str:
  """Returns a sentence on the share of the data that came from a scripted policy.

  Args:
    counts: policy to episodes.
    exists: whether the environment has a scripted policy.
  """
  total = sum(counts.values())
  if not total:
    return "Which policies collected it was not recorded."
  scripted = sum(count for name, count in counts.items() if scores.SCRIPTED in name.lower())
  if scripted:
    return (
      f"The scripted policy played {scripted:,} of {total:,} episodes "
      f"({100 * scripted / total:.0f}%): the model has seen behaviour that was not learned."
    )
  if exists:
    return "None of it came from the scripted policy: all behaviour was learned."
  return "No scripted policy exists for this environment."


def time_section(seconds: Any) -> str:
  """Returns the section on the time that a run took, by stage.

  Args:
    seconds: stage to seconds, optionally with `total`; any other value is shown as "not run".
  """
  total = scores.total_seconds(seconds)
  if not total:
    return markup.section("Time", f"<p>{markup.MISSING}</p>")
  stages = [
    (str(stage), float(value), duration(float(value)))
    for stage, value in seconds.items()
    if stage != "total" and is_number(value) and value >= 0
  ]
  text = f"<p><strong>{duration(total)}</strong> in all.</p>"
  return markup.section("Time", text + (_share_bar(stages) if stages else ""))


def _share_bar(parts: Iterable[tuple[str, float, str]]) -> str:
  """Returns a bar divided in proportion, and a table of its parts `(name, amount, text)`."""
  parts = list(parts)
  total = math.fsum(amount for _, amount, _ in parts) or 1.0
  pieces, rows = [], []
  for index, (name, amount, words) in enumerate(parts):
    color = f"background:var(--{_COLORS[index % len(_COLORS)]})"
    if index >= len(_COLORS):
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


def reproduce_section(
  results: Mapping[str, Any], config: Mapping[str, Any], command: str | None
) -> str:
  """Returns the section with the command, configuration, seeds and all figures.

  Args:
    results: the content of `results.json`.
    config: the run's configuration, nested.
    command: the command that made the run; None if unknown.
  """
  text = f"<pre>{escape(command)}</pre>" if command else ""
  text += markup.details("Configuration", _flat_table(config))
  seeds = [
    f'<tr><th scope="row">{escape(row.label)}</th><td>{escape(ranges(row.seeds))}</td></tr>'
    for row in scores.scores(results)
    if len(row.seeds)
  ]
  if seeds:
    text += markup.details("Seeds of the evaluations", markup.table(("evaluation", "seeds"), seeds))
  text += markup.details("All figures, as results.json has them", _flat_table(results))
  return markup.section("How to repeat it", text)


def _flat_table(nested: Mapping[str, Any]) -> str:
  body = [
    f'<tr><th scope="row"><code>{escape(name)}</code></th><td><code>{escape(text)}</code></td></tr>'
    for name, text in _flatten(nested)
  ]
  return markup.table(("name", "value"), body) if body else f"<p>{markup.MISSING}</p>"


def _flatten(value: Any, prefix: str = "") -> list[tuple[str, str]]:
  """Flattens `{"a": {"b": 1}}` to `[("a.b", "1")]`, with the names that --override takes."""
  if isinstance(value, Mapping):
    items = [(str(key), item) for key, item in value.items()]
  elif isinstance(value, list | tuple) and any(isinstance(item, Mapping) for item in value):
    items = [(str(index), item) for index, item in enumerate(value)]
  else:
    # Lists of seeds are long and often consecutive, so they are written as ranges.
    seeds = prefix.rpartition(".")[2] == "seeds" and isinstance(value, list | tuple)
    seeds = seeds and all(isinstance(seed, int) for seed in value)
    return [(prefix, ranges(value) if seeds else str(value))]
  join = f"{prefix}." if prefix else ""
  return [pair for key, item in items for pair in _flatten(item, join + key)]
