"""The doctor's charts as SVG in the colours of the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
from matplotlib import ticker

from wm_tf.report.figures import COLORS, STYLE, add_legend, new_axes, to_svg

_ANSWERS = {
  "dream": ("dreamed", "dream", "-"),
  "other_actions": ("dreamed, another episode's actions", "dream", ":"),
  "still": ("no change", "chance", "-"),
  "mean": ("the mean", "rule", "-"),
  "reconstruction": ("reconstruction", "real", "-"),
}


def transfer_figure(controllers: Sequence[Mapping[str, Any]]) -> str:
  """Draws every controller's mean return in the dream against that in the environment, as SVG.

  Args:
    controllers: `{"name", "dream", "real", "real_error", "original"}` each; `original` says whether
      the controller was learned or is a variation.

  Returns:
    The SVG.
  """
  with matplotlib.rc_context(STYLE):
    figure, axes = new_axes(3.4)
    axes.grid(visible=True, axis="both")
    for original, color, label in ((False, "dream", "variation"), (True, "real", "learned")):
      rows = [row for row in controllers if bool(row["original"]) == original]
      if not rows:
        continue
      x, y = ([row[key] for row in rows] for key in ("real", "dream"))
      errors = [row.get("real_error") or 0.0 for row in rows]
      axes.errorbar(x, y, xerr=errors, fmt="none", ecolor=COLORS[color], alpha=0.35, linewidth=1)
      axes.plot(x, y, "o", color=COLORS[color], markersize=4, label=label)
    values = [row[key] for row in controllers for key in ("real", "dream")]
    ends = [min(values), max(values)]
    axes.plot(ends, ends, color=COLORS["faint"], linestyle=":", linewidth=1, label="equal")
    axes.set_xlabel("return in the environment")
    axes.set_ylabel("return in the dream")
    add_legend(axes)
    return to_svg(figure)


def open_loop_curves(table: Mapping[str, Mapping[str, float]], unit: str) -> str:
  """Draws the errors of dreams and of baselines over the number of dreamed steps, as SVG.

  Args:
    table: the name of a prediction (`dream`, `still`, `mean`, ...) to its figure by number of
      steps.
    unit: the label of the vertical axis.

  Returns:
    The SVG.
  """
  with matplotlib.rc_context(STYLE):
    figure, axes = new_axes(2.7)
    for name, by_steps in table.items():
      label, color, line = _ANSWERS[name]
      x = [int(k) for k in by_steps]
      look = {"color": COLORS[color], "linestyle": line, "marker": "o", "markersize": 3.5}
      axes.plot(x, list(by_steps.values()), label=label, **look)
    axes.set_xscale("log")
    axes.set_xticks(x, [str(k) for k in x])
    axes.xaxis.set_minor_locator(ticker.NullLocator())
    axes.set_xlabel("steps ahead")
    axes.set_ylabel(unit)
    add_legend(axes)
    return to_svg(figure)


def calibration_figure(found: Mapping[str, Any], quantity: str) -> str:
  """Draws predicted against real values, with a point for each bin of predictions, as SVG.

  Args:
    found: `bins` of `count`, `predicted` and `real`.
    quantity: the name of the predicted quantity.

  Returns:
    The SVG.
  """
  with matplotlib.rc_context(STYLE):
    figure, axes = new_axes(2.7)
    axes.grid(visible=True, axis="both")
    predicted, real = ([b[key] for b in found["bins"]] for key in ("predicted", "real"))
    ends = [min(predicted + real), max(predicted + real)]
    axes.plot(ends, ends, color=COLORS["faint"], linestyle=":", linewidth=1, label="equal")
    axes.plot(predicted, real, color=COLORS["dream"], marker="o", markersize=4, label="held out")
    axes.set_xlabel(f"{quantity}, predicted")
    axes.set_ylabel("real")
    add_legend(axes)
    return to_svg(figure)
