"""The chart of an ensemble's disagreement on its data, on real visits and in dreams."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np

from wm_tf.report.figures import COLORS, STYLE, add_legend, new_axes, to_svg


def disagreement_figure(samples: Mapping[str, Sequence[float]]) -> str:
  """Draws the distribution of an ensemble's disagreement as SVG.

  Args:
    samples: name (`training data`, `real visits`, `dreams`) to the disagreement at each of its
      steps; at least one step for each name.

  Returns:
    The SVG.
  """
  limit = max(float(np.quantile(values, 0.995)) for values in samples.values())
  colors = {"dreams": "dream", "real visits": "real"}
  with matplotlib.rc_context(STYLE):
    figure, axes = new_axes(2.6)
    for name, values in samples.items():
      axes.hist(
        np.minimum(values, limit),  # The last bin includes larger values.
        bins=48,
        range=(0.0, limit),
        density=True,
        histtype="step",
        linewidth=1.6,
        color=COLORS[colors.get(name, "chance")],
        label=name,
      )
      axes.axvline(np.median(values), color=COLORS[colors.get(name, "chance")], linewidth=0.8)
    axes.set_yticks([])
    axes.set_xlabel("disagreement of a step (lines: medians)")
    add_legend(axes)
    return to_svg(figure)
