"""Line plots (PNG) of vector observations over time: real, reconstructed and dreamed."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from matplotlib import ticker
from matplotlib.figure import Figure

from wm_tf.report.canvas import DREAM, FAINT, GROUND, INK

MAX_DIMENSIONS = 8
_DPI = 140
_PANEL_HEIGHT = 1.35  # Inches.
_COLORS = {"real": "#ece9e0", "reconstructed": "#5db4ee", "dreamed": "#e08cc4"}
_OTHER_COLORS = ("#ece9e0", "#5db4ee", "#e08cc4", "#eeb24a", "#3fcb9b", "#b39ddb", "#ff8a80")
_STYLES = {"real": "-", "reconstructed": "--", "dreamed": "-"}


def _hex(color: tuple[int, int, int]) -> str:
  return "#" + bytes(color).hex()


_STYLE = {
  "font.family": "DejaVu Sans",
  "font.size": 9,
  "text.parse_math": False,  # Show "$" in names as it is.
  "text.color": _hex(INK),
  "axes.facecolor": _hex(GROUND),
  "axes.edgecolor": "#3a3e46",
  "axes.labelcolor": _hex(FAINT),
  "axes.spines.top": False,
  "axes.spines.right": False,
  "axes.grid": True,
  "axes.axisbelow": True,
  "grid.color": "#2a2e35",
  "grid.linewidth": 0.6,
  "xtick.color": "#3a3e46",
  "ytick.color": "#3a3e46",
  "xtick.labelcolor": _hex(FAINT),
  "ytick.labelcolor": _hex(FAINT),
  "xtick.labelsize": 8,
  "ytick.labelsize": 8,
  "legend.frameon": False,
  "axes.unicode_minus": True,
}


def vector_strip(
  rows: Mapping[str, np.ndarray],
  names: Sequence[str] | None = None,
  *,
  first_step: int = 0,
  dream_from: int | None = None,
  title: str = "",
  width: int = 1456,
) -> bytes:
  """Draws vectors over time: one panel for each dimension, one line for each row.

  Args:
    rows: label to `float[T, D]`, all of one shape: real, reconstructed, dreamed.
    names: the names of the D dimensions; None for their indices.
    first_step: the step number of element 0.
    dream_from: the index of the first vector that was dreamed without further observations. The
      time from there is shaded, and a row whose label begins with "dream" is drawn from the step
      before. None for no shading.
    title: a line above the panels.
    width: the width of the picture in pixels.

  Returns:
    A PNG. If there are more than 8 dimensions, it shows 8 that vary, evenly spread.

  Raises:
    ValueError: if a row has another shape, rows differ in shape, or the number of names is wrong.
  """
  rows = _check_rows(rows)
  num_steps, size = next(iter(rows.values())).shape
  names = [f"[{index}]" for index in range(size)] if names is None else list(names)
  if len(names) != size:
    raise ValueError(f"vector_strip: {size} dimensions need as many names; got {len(names)}.")
  shown = varying_dimensions(next(iter(rows.values())), MAX_DIMENSIONS)
  if len(shown) < size:
    title = f"{title + ': ' if title else ''}{len(shown)} of {size} dimensions"
  columns = 1 if len(shown) <= 4 else 2
  lines = math.ceil(len(shown) / columns)
  with matplotlib.rc_context(_STYLE):
    height = _PANEL_HEIGHT * lines + (0.75 if title else 0.55)
    figure = Figure((width / _DPI, height), dpi=_DPI, facecolor=_hex(GROUND), layout="constrained")
    panels = figure.subplots(lines, columns, sharex=True, squeeze=False)
    if title:
      figure.suptitle(title, x=0.01, ha="left", fontsize=9.5)
    for axes, index in zip(panels.T.flat, shown, strict=False):
      _panel(
        axes, {label: values[:, index] for label, values in rows.items()}, dream_from, first_step
      )
      axes.set_ylabel(names[index], fontsize=8)
      axes.set_xlim(first_step, first_step + max(1, num_steps - 1))
    for axes in panels.T.flat[len(shown) :]:
      axes.set_visible(False)
    lowest = [min(lines, len(shown) - column * lines) - 1 for column in range(columns)]
    for axes in (panels[line, column] for column, line in enumerate(lowest)):
      axes.xaxis.set_major_locator(ticker.MaxNLocator(integer=True))
      axes.tick_params(labelbottom=True)
      axes.set_xlabel("step", fontsize=8)
    handles, labels = panels[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper right", ncols=4, fontsize=8.5)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
  return buffer.getvalue()


def varying_dimensions(values: np.ndarray, count: int) -> list[int]:
  """Chooses the dimensions to show.

  Args:
    values: `float[T, D]`.
    count: the largest number of dimensions to choose, at least 1.

  Returns:
    All dimensions if there are at most `count`; otherwise evenly spread ones among those that vary
    (among all, if fewer than `count` vary).
  """
  size = values.shape[1]
  if size <= count:
    return list(range(size))
  varying = np.flatnonzero(np.ptp(np.nan_to_num(values), axis=0) > 0)
  chosen = varying if len(varying) >= count else np.arange(size)
  return chosen[np.linspace(0, len(chosen) - 1, count).round().astype(int)].tolist()


def _panel(axes, rows: Mapping[str, np.ndarray], dream_from: int | None, first_step: int) -> None:
  """Draws one dimension `float[T]` of every row."""
  first = next(iter(rows.values()))
  integers = bool(np.all(first == np.round(first)))
  for place, (label, values) in enumerate(rows.items()):
    kind = "dreamed" if label.startswith("dream") else label
    begin = max(0, dream_from - 1) if dream_from is not None and kind == "dreamed" else 0
    axes.plot(
      np.arange(begin, len(values)) + first_step,
      values[begin:],
      color=_COLORS.get(kind, _OTHER_COLORS[place % len(_OTHER_COLORS)]),
      linestyle=_STYLES.get(kind, "-"),
      drawstyle="steps-mid" if integers else "default",
      linewidth=1.4,
      label=label.replace("\n", " "),
    )
  if dream_from is not None:
    edges = (first_step + max(0, dream_from - 1), first_step + len(first) - 1)
    axes.axvspan(*edges, color=_hex(DREAM), alpha=0.09, linewidth=0)
    axes.axvline(edges[0], color=_hex(DREAM), linestyle=":", label="from here on no observations")


def _check_rows(rows: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
  """Returns the rows as arrays `float64[T, D]`."""
  if not rows:
    raise ValueError("vector_strip: no rows given; pass at least one, such as {'real': vectors}.")
  found, shape = {}, None
  for label, values in rows.items():
    values = np.asarray(values, np.float64)
    if values.ndim != 2 or 0 in values.shape:
      raise ValueError(f"vector_strip: row {label!r}: expected float[T, D], got {values.shape}.")
    shape = shape or values.shape
    if values.shape != shape:
      raise ValueError(
        f"vector_strip: row {label!r} has shape {values.shape}, the first row {shape}; "
        "cut all rows to the same steps."
      )
    found[label] = values
  return found
