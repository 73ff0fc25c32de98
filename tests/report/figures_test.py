"""Charts are drawn in scale, and say what they show."""

import re
from xml.etree import ElementTree

import numpy as np
import pytest

from tests.report.pages import HISTORY, RESULTS, score
from wm_tf import report
from wm_tf.report.planner_figures import planner_figure


def _curves(svg, color):
  """Every open path drawn in `color`, as arrays of points."""
  paths = ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}path")
  paths = [p.get("d") for p in paths if f"stroke: var(--{color}" in p.get("style", "")]
  return [np.array(re.findall(r"[ML] (\S+) (\S+)", d), float) for d in paths]


def test_bars_are_as_long_as_the_means():
  results = {"random": score(-100.0, 0.0, 1), "heuristic": score(400.0, 0.0, 1)}
  svg = report.scores_figure(results)
  root = ElementTree.fromstring(svg)
  lengths = {}
  for path in root.iter("{http://www.w3.org/2000/svg}path"):
    for name in ("chance", "rule"):
      if f"fill: var(--{name}" in path.get("style", ""):
        points = np.array(re.findall(r"[ML] (\S+) (\S+)", path.get("d")), float)
        lengths[name] = np.ptp(points[:, 0])
  assert lengths["rule"] == pytest.approx(4 * lengths["chance"], rel=1e-3)
  assert svg.count("not run") == 3


def test_a_history_that_starts_again_goes_on_to_the_right():
  records = [
    {"iteration": i, "generation": g, "dream/return_best": 10.0 * i + g, "dream/alive": 1.0}
    for i in range(3)
    for g in range(5)
  ]
  svg = report.learning_curves({"ES": records})
  curve = max(_curves(svg, "dream"), key=len)
  assert len(curve) == 15
  assert np.all(np.diff(curve[:, 0]) >= -1e-6)
  assert np.ptp(curve[:, 0]) == pytest.approx(12 * (curve[1, 0] - curve[0, 0]), rel=1e-3)
  boundaries = [c for c in _curves(svg, "faint") if len(c) == 2 and c[0, 0] == c[1, 0]]
  assert len(boundaries) == 2
  assert "dream return best" in svg and "generation" in svg and "alive" not in svg


def test_learning_curves_draw_loss_and_leave_the_rest():
  svg = report.learning_curves({"VAE $x$": HISTORY, "empty": []})
  assert "VAE $x$" in svg and "train loss" in svg and "held out loss" in svg
  assert "reward" not in svg
  assert svg.count("not run") == 1
  chosen = report.learning_curves({"VAE": HISTORY}, metrics={"VAE": ["train/reward_loss"]})
  assert "train reward loss" in chosen and "held out" not in chosen


def test_long_curves_are_thinned_and_keep_their_end():
  records = [{"step": i, "train/loss": float(i % 7)} for i in range(10_001)]
  curve = max(_curves(report.learning_curves({"a": records}), "dream"), key=len)
  assert len(curve) <= 500
  records = [{**r, "eval/loss": 1.0} for r in records]
  full = max(_curves(report.learning_curves({"a": records}), "dream"), key=len)
  assert full[-1, 0] == pytest.approx(curve[-1, 0], abs=1.0)


def test_values_that_are_not_finite_are_left_out():
  records = [{"step": i, "train/loss": float("nan") if i == 2 else 1.0 + i} for i in range(5)]
  curve = max(_curves(report.learning_curves({"a": records}), "dream"), key=len)
  assert len(curve) == 4
  bad = {"mean": float("nan"), "std": float("inf"), "n": 4}
  svg = report.scores_figure({"random": bad})
  assert ">nan<" in svg
  report.returns_figure([{"iteration": 0, "controller_in_model": bad}], {"random": bad})


def test_returns_figure_draws_both_returns_in_scale():
  svg = report.returns_figure(
    [
      {
        "iteration": i,
        "controller_in_model": {"mean": 300.0},
        "controller_in_environment": {"mean": m},
      }
      for i, m in enumerate([0.0, 100.0, 200.0])
    ],
    {"heuristic": {"mean": 300.0}},
  )

  def widest(color):
    return max(_curves(svg, color), key=lambda curve: np.ptp(curve[:, 0]))

  model, real, heuristic = (widest(color) for color in ("dream", "real", "rule"))
  assert np.ptp(model[:, 1]) == pytest.approx(0)
  assert heuristic[0, 1] == pytest.approx(model[0, 1])
  gaps = real[:, 1] - model[:, 1]  # SVG's y grows downwards.
  assert gaps == pytest.approx(gaps[0] * np.array([1, 2 / 3, 1 / 3]), rel=1e-3)


def test_charts_are_the_same_for_the_same_data():
  assert report.scores_figure(RESULTS) == report.scores_figure(RESULTS)
  assert report.open_loop_figure(RESULTS["dynamics"]) == report.open_loop_figure(
    RESULTS["dynamics"]
  )


def test_planner_figure_takes_rows_with_and_without_a_standard_error():
  rows = {
    name: {"milliseconds": {"p50": 2.0}, "in_environment": {"mean": mean, "std": 4.0, "n": n}}
    for name, mean, n in (("controller", 10.0, 5), ("few_dreams", 20.0, 1))
  }
  words = " ".join(ElementTree.fromstring(planner_figure(rows)).itertext())
  assert "controller" in words and "few dreams" in words
