"""The planner's chart as SVG in the colours of the report."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import matplotlib
from matplotlib import ticker

from wm_tf.report import scores
from wm_tf.report.figures import COLORS, STYLE, new_axes, to_svg


def planner_figure(rows: Mapping[str, Mapping[str, Any]]) -> str:
  """Draws mean returns with standard errors against the median time of a decision.

  Args:
    rows: name to `milliseconds` (`p50`) and `in_environment` (`mean`, `std`, `n`). The row
      `controller` has another colour, because it does not plan.

  Returns:
    The SVG.
  """
  with matplotlib.rc_context(STYLE):
    figure, axes = new_axes(3.4)
    axes.grid(visible=True, axis="both")
    for name, row in rows.items():
      score, x = scores.score(name, row["in_environment"]), row["milliseconds"]["p50"]
      color = COLORS["real" if name == "controller" else "plan"]
      axes.errorbar(
        x, score.mean, yerr=score.standard_error, fmt="o", color=color, markersize=4, linewidth=1
      )
      axes.annotate(
        name.replace("_", " "),
        (x, score.mean),
        xytext=(4, 3),
        textcoords="offset points",
        fontsize=7,
        color=COLORS["ink"],
      )
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(ticker.FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_locator(ticker.NullLocator())
    axes.set_xlabel("milliseconds per decision (median)")
    axes.set_ylabel("return per episode")
    return to_svg(figure)
