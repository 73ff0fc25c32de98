"""Charts as SVG (matplotlib) in the page's light or dark colours.

Every colour is written as `var(--name, #hex)`: the page defines the names, and other viewers use
the hex value. Charts have a transparent background.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
from matplotlib import ticker
from matplotlib.figure import Figure

from wm_tf.report import scores
from wm_tf.report.dynamics_verdicts import open_loop_table
from wm_tf.report.formatting import NOT_RUN, decimals, is_finite, is_number, number, plus_minus

# The light theme's colours; `style.py` has the dark theme's under the same names.
COLORS = {
  "ink": "#23262b",
  "faint": "#767b84",
  "line": "#d9d7d1",
  "real": "#0b6fb0",
  "dream": "#b8488f",
  "rule": "#c27c00",
  "plan": "#0d8a63",
  "chance": "#8b9099",
}
_WIDTH = 4.6  # Inches; narrow, so that the text is readable on a phone.
_POINTS = 500  # The largest number of points drawn of one curve.
_SCORE_COLORS = {
  "random": "chance",
  "heuristic": "rule",
  "controller_in_model": "dream",
  "planner_in_environment": "plan",
  "reward threshold": "ink",
}
# The style of every chart, for `matplotlib.rc_context`.
STYLE = {
  "svg.fonttype": "none",  # Keep text as text, so that it is searchable and has the page's font.
  "svg.hashsalt": "wm_tf",  # The same data gives the same file.
  "text.parse_math": False,  # Show "$" in names as it is.
  "font.family": "DejaVu Sans",
  "font.size": 9,
  "axes.labelsize": 9,
  "xtick.labelsize": 8.5,
  "ytick.labelsize": 8.5,
  "text.color": COLORS["ink"],
  "axes.labelcolor": COLORS["faint"],
  "axes.edgecolor": COLORS["line"],
  "axes.spines.top": False,
  "axes.spines.right": False,
  "axes.spines.left": False,
  "axes.grid": True,
  "axes.grid.axis": "y",
  "axes.axisbelow": True,
  "grid.color": COLORS["line"],
  "grid.linewidth": 0.6,
  "xtick.color": COLORS["line"],
  "ytick.color": COLORS["line"],
  "xtick.labelcolor": COLORS["faint"],
  "ytick.labelcolor": COLORS["faint"],
  "ytick.major.size": 0,
  "ytick.minor.size": 0,
  "legend.frameon": False,
  "legend.fontsize": 8.5,
  "lines.linewidth": 1.6,
  "axes.unicode_minus": True,
}


def scores_figure(results: Mapping[str, Any]) -> str:
  """Draws the mean returns with standard deviation (thin) and standard error (thick).

  Bars begin at zero. If no return is positive the means are points, because a long bar would look
  like a high return. A dotted line is the reward threshold at which gymnasium calls the environment
  solved.

  Args:
    results: see `return_checks`.

  Returns:
    The SVG.
  """
  rows = scores.scores(results)
  places = decimals(row.mean for row in rows)
  threshold = scores.reward_threshold(results)
  values = [row.mean for row in rows if is_finite(row.mean)]
  bars = any(value > 0 for value in [*values, threshold or 0.0]) or not any(values)
  with matplotlib.rc_context(STYLE):
    figure, axes = new_axes(0.55 * len(rows) + 0.45)
    axes.grid(visible=False)
    for y, row in enumerate(rows):
      if row.mean is None or not math.isfinite(row.mean):
        text = NOT_RUN if row.mean is None else number(row.mean)
        color = "faint"
      else:
        text = plus_minus(row.mean, row.standard_error, places)
        text += "" if row.n is None else f" · n {row.n}"
        color = "ink"
        bar = COLORS[_SCORE_COLORS.get(row.key, "real")]
        if bars:
          axes.plot([0, 0], [y - 0.08, y + 0.36], color=COLORS["faint"], linewidth=0.8)
          axes.barh(y + 0.14, row.mean, 0.36, color=bar)
        else:
          axes.plot(row.mean, y + 0.14, "o", color=bar, markersize=7)
        for size, width in ((row.std, 1.0), (row.standard_error, 3.0)):
          if size is not None:
            ends = [row.mean - size, row.mean + size]
            axes.plot(ends, [y + 0.14] * 2, color=COLORS["ink"], linewidth=width, alpha=0.75)
      # Labels are above the bars, so that the bars have the full width of a narrow screen.
      across = axes.get_yaxis_transform()  # x in shares of the axes, y in rows.
      axes.text(0, y - 0.28, row.label, va="center", transform=across)
      axes.text(1, y - 0.28, text, va="center", ha="right", color=COLORS[color], transform=across)
    axes.set_ylim(len(rows) - 0.45, -0.6)
    axes.set_yticks([])
    label = "return per episode"
    if threshold is not None:
      for y in range(len(rows)):  # Only at the height of the bars, so that labels are readable.
        ends = [y - 0.08, y + 0.36]
        axes.plot([threshold] * 2, ends, color=COLORS["ink"], linestyle=(0, (1, 1.5)))
      label += f" (dotted: reward threshold {number(threshold, places)})"
    axes.set_xlabel(label)
    return to_svg(figure)


def returns_figure(
  iterations: Sequence[Mapping[str, Any]],
  reference_scores: Mapping[str, Any] | None = None,
) -> str:
  """Draws the controller's return in the model and in the environment over the iterations.

  Args:
    iterations: `{"iteration", "controller_in_model": {mean, std, n}, "controller_in_environment":
      {mean, std, n}}`; either score may be missing. Whiskers are standard errors; the band is the
      gap.
    reference_scores: label (`random`, `heuristic`, `reward threshold`) to `{mean, ...}`, drawn as
      horizontal lines.

  Returns:
    The SVG.
  """
  series = {
    "in the model": ("controller_in_model", "dream"),
    "in the environment": ("controller_in_environment", "real"),
  }
  numbers = [int(item.get("iteration", i)) for i, item in enumerate(iterations)]
  with matplotlib.rc_context(STYLE):
    figure, axes = new_axes(2.9)
    found = {}
    for label, (key, color) in series.items():
      rows = (scores.score(key, item.get(key)) for item in iterations)
      rows = {x: r for x, r in zip(numbers, rows, strict=True) if is_finite(r.mean)}
      found[key] = {x: row.mean for x, row in rows.items()}
      look = {"color": COLORS[color], "marker": "o", "markersize": 4}
      axes.plot(list(rows), list(found[key].values()), label=label if rows else None, **look)
      errors = [row.standard_error or 0 for row in rows.values()]
      axes.errorbar(list(rows), list(found[key].values()), errors, fmt="none", ecolor=COLORS[color])
    model, real = found.values()
    both = [x for x in numbers if x in model and x in real]
    band = [[values[x] for x in both] for values in (model, real)]
    axes.fill_between(both, *band, color=COLORS["dream"], alpha=0.12, linewidth=0)
    for label, entry in (reference_scores or {}).items():
      row = scores.score(label, entry)
      if is_finite(row.mean):
        color = COLORS[_SCORE_COLORS.get(label, "faint")]
        axes.axhline(row.mean, color=color, linestyle=(0, (4, 2)), linewidth=1.2, label=row.label)
    axes.xaxis.set_major_locator(ticker.MaxNLocator(integer=True))
    axes.set_xlabel("iteration")
    axes.set_ylabel("return per episode")
    add_legend(axes)
    return to_svg(figure)


def open_loop_figure(dynamics: Mapping[str, Any]) -> str:
  """Draws the error of the latent by dreamed steps, and the error of predicting no change.

  Args:
    dynamics: see `dynamics_checks`.

  Returns:
    The SVG.
  """
  rows = open_loop_table(dynamics)
  with matplotlib.rc_context(STYLE):
    figure, axes = new_axes(2.6)
    still = [(steps, error) for steps, _, error in rows if error is not None]
    axes.plot(*_columns(still), color=COLORS["chance"], marker="o", markersize=4, label="no change")
    axes.plot(
      *_columns([(steps, error) for steps, error, _ in rows]),
      color=COLORS["dream"],
      marker="o",
      markersize=4,
      label="dreamed, no frames seen",
    )
    axes.set_xscale("log")
    axes.set_xticks([steps for steps, _, _ in rows], [str(steps) for steps, _, _ in rows])
    axes.xaxis.set_minor_locator(ticker.NullLocator())
    axes.set_ylim(bottom=0)
    axes.set_xlabel("steps ahead")
    axes.set_ylabel("error of the latent")
    add_legend(axes)
    return to_svg(figure)


def learning_curves(
  histories: Mapping[str, Sequence[Mapping[str, Any]]],
  *,
  metrics: Mapping[str, Sequence[str]] | None = None,
) -> str:
  """Draws one panel for each history, below one another.

  Args:
    histories: title to the records of a JSONL history. The horizontal axis is the first of
      `generation`, `step` and `epoch` that the records have. If it restarts (a refit, the next
      iteration), the curve continues to the right of a dotted line.
    metrics: title to the keys to draw. By default every `loss` (`train/loss`, `eval/loss`) and
      every key with "return" or "fitness" in its name; all numbers if there are none of these.

  Returns:
    The SVG. At most 500 points of a curve are drawn, including the last one.
  """
  with matplotlib.rc_context(STYLE):
    count = max(1, len(histories))
    figure = Figure(figsize=(_WIDTH, 2.5 * count), layout="constrained")
    panels = figure.subplots(count, squeeze=False)[:, 0]
    if not histories:
      _empty(panels[0])
    for axes, (title, records) in zip(panels, histories.items(), strict=False):
      num_curves = _panel(axes, records, (metrics or {}).get(title))
      pad = 8 + 14 * math.ceil(num_curves / 2)  # The legend is between title and axes.
      axes.set_title(title, loc="left", fontsize=9.5, color=COLORS["ink"], pad=pad)
    return to_svg(figure)


def _panel(axes, records, keys) -> int:
  """Draws the curves of one history; returns the number of curves."""
  axis = next((k for k in ("generation", "step", "epoch") if any(k in r for r in records)), None)
  keys = list(keys or _metric_names(records))
  curves = {key: ([], []) for key in keys}
  offset, previous, boundaries, latest, run = 0.0, None, [], 0.0, None
  for index, record in enumerate(records):
    x = record.get(axis, index) if axis else index
    new_run = record.get("iteration", run) != run
    if previous is not None and (x < previous or (new_run and x <= previous)):
      offset = latest
      boundaries.append(latest)
      for xs, ys in curves.values():  # NaN separates the lines of two runs.
        xs.append(latest)
        ys.append(math.nan)
    run, previous = record.get("iteration", run), x
    latest = offset + x
    for key in keys:
      value = record.get(key)
      if is_finite(value):
        curves[key][0].append(latest)
        curves[key][1].append(float(value))
  curves = {key: curve for key, curve in curves.items() if any(map(math.isfinite, curve[1]))}
  if not curves:
    _empty(axes)
    return 0
  for boundary in boundaries:
    axes.axvline(boundary, color=COLORS["faint"], linestyle=":", linewidth=0.8)
  palette = ("dream", "real", "plan", "rule", "chance")
  for (key, (xs, ys)), color in zip(curves.items(), _cycle(palette), strict=False):
    stride = math.ceil(len(xs) / _POINTS)
    kept = [i for i in range(len(xs)) if i % stride == (len(xs) - 1) % stride]
    axes.plot(
      [xs[i] for i in kept],
      [ys[i] for i in kept],
      color=COLORS[color],
      marker="o" if len(kept) < 12 else None,
      markersize=3,
      label=_metric_words(key),
    )
  values = [y for _, ys in curves.values() for y in ys if math.isfinite(y)]
  if min(values) > 0 and max(values) > 10 * min(values):
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(ticker.FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_locator(ticker.NullLocator())
  axes.set_xlabel(axis or "record")
  add_legend(axes)
  return len(curves)


def _metric_names(records) -> list[str]:
  names = dict.fromkeys(
    key
    for record in records
    for key, value in record.items()
    if is_number(value) and key not in ("generation", "step", "epoch", "iteration", "time")
  )
  preferred = [name for name in names if re.search(r"(^|/)loss$|fitness|return", name)]
  return preferred or list(names)


def _metric_words(key: str) -> str:
  return re.sub(r"[_/]+", " ", re.sub(r"^eval/", "held out ", key))


def _cycle(names):
  while True:
    yield from names


def _columns(rows):
  return ([row[0] for row in rows], [row[1] for row in rows])


def new_axes(height: float):
  """Makes a figure with the width of the page's charts.

  Args:
    height: in inches.

  Returns:
    The figure and its axes.
  """
  figure = Figure(figsize=(_WIDTH, height), layout="constrained")
  return figure, figure.subplots()


def _empty(axes) -> None:
  axes.text(0.5, 0.5, NOT_RUN, ha="center", color=COLORS["faint"], transform=axes.transAxes)
  axes.set(xticks=[], yticks=[])


def add_legend(axes) -> None:
  """Adds a legend above the axes, where it does not cover any data.

  Args:
    axes: matplotlib axes.
  """
  handles, labels = axes.get_legend_handles_labels()
  if handles:
    axes.legend(handles, labels, loc="lower left", bbox_to_anchor=(-0.02, 1.0), ncols=2)


def to_svg(figure: Figure) -> str:
  """Returns a figure as SVG text in the page's colours and font.

  Args:
    figure: the figure.
  """
  buffer = io.StringIO()
  metadata = dict.fromkeys(("Date", "Creator", "Format", "Type"))
  figure.savefig(buffer, format="svg", transparent=True, metadata=metadata)
  text = re.sub(r"<!DOCTYPE.*?>\n?", "", buffer.getvalue(), flags=re.DOTALL)
  text = text.replace("'DejaVu Sans'", "system-ui, 'DejaVu Sans', sans-serif")
  for name, value in COLORS.items():
    text = text.replace(value, f"var(--{name}, {value})")
  return text
