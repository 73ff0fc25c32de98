"""Verdicts follow from figures."""

import pytest

from tests.report.pages import RESULTS, changed
from wm_tf import report
from wm_tf.report import verdicts


def _verdict(results, name):
  found = [c for c in report.checks(results) if name in c.name]
  assert len(found) == 1
  return found[0]


@pytest.mark.parametrize(
  ("section", "changes", "name", "verdict"),
  [
    ("vae", {"sse": 19.0}, "SSE", "good"),
    ("vae", {"sse": 90.0}, "SSE", "usable"),  # Less than half of the mean image's.
    ("vae", {"sse": 150.0}, "SSE", "poor"),
    ("vae", {"sse": 10.0, "sse_mean_image": 9.0}, "SSE", "poor"),  # Worse than one image.
    ("vae", {"sse": float("nan")}, "SSE", "poor"),
    ("vae", {"sse": None}, "SSE", "not run"),
    ("vae", {"active_dimensions": 8}, "active", "usable"),
    ("vae", {"active_dimensions": 0}, "active", "poor"),
    ("vae", {}, "KL", "no verdict"),
    ("dynamics", {"nll_per_dimension": -0.5}, "likelihood", "good"),
    ("dynamics", {"nll_per_dimension": 1.38}, "likelihood", "usable"),
    ("dynamics", {"nll_per_dimension": 1.42}, "likelihood", "poor"),
    ("dynamics", {"one_step_error": 0.6}, "one-step", "usable"),
    ("dynamics", {"one_step_error": 0.68}, "one-step", "poor"),
    ("dynamics", {"persistence_error": None}, "one-step", "not run"),
    ("dynamics", {}, "open loop", "good"),
    ("dynamics", {"open_loop": {"1": 0.4, "5": 0.6, "10": 9.0, "20": 0.1}}, "open loop", "usable"),
    ("dynamics", {"open_loop": {"1": 0.7}}, "open loop", "poor"),
    ("dynamics", {"open_loop": {}}, "open loop", "not run"),
    ("dynamics", {}, "R²", "good"),
    ("dynamics", {"reward_r2": -3.0}, "R²", "poor"),
    ("dynamics", {}, "reward, AUC", "good"),
    ("dynamics", {}, "termination", "poor"),
    ("dynamics", {"rank_correlation": 0.5}, "rank", "usable"),
    ("dynamics", {}, "rank", "not run"),
    ("controller_in_model", {}, "return in the model", "good"),
    ("controller_in_model", {"mean": 600.0}, "return in the model", "usable"),
    ("controller_in_model", {"mean": 900.0}, "return in the model", "poor"),
    ("controller_in_model", {"mean": 100.0}, "return in the model", "usable"),
    ("controller_in_model", {"mean": 900.0, "n": 2, "std": 900.0}, "return in the model", "usable"),
  ],
)
def test_verdict(section, changes, name, verdict):
  check = _verdict(changed(section, **changes), name)
  assert check.verdict == verdict
  assert (check.value == "not run") == (verdict == "not run")
  assert bool(check.words) == (verdict != "not run")


def test_open_loop_reach_stops_where_persistence_first_wins():
  def reach(results):
    return _verdict(results, "open loop").value

  assert reach(RESULTS) == "20"
  assert reach(changed("dynamics", open_loop={"1": 0.4, "5": 2.0, "10": 0.1})) == "1"
  assert reach(changed("dynamics", open_loop={"1": 0.4, "20": 1.0})) == "20 or more"


def test_summary_counts_verdicts():
  assert verdicts.summary(report.checks(RESULTS)) == "9 figures judged: 8 good, 1 poor. 1 not run."
  assert "nothing can be judged" in verdicts.summary(report.checks({}))
