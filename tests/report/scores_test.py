"""Numbers and words: what is derived from the results, and how it is written."""

import numpy as np
import pytest

from tests.report.pages import RESULTS, Page, score
from wm_tf import report
from wm_tf.report import formatting, scores


def test_standard_error_of_the_mean():
  returns = np.random.default_rng(0).normal(size=5)
  row = scores.score("x", {"mean": returns.mean(), "std": returns.std(), "n": len(returns)})
  assert row.standard_error == pytest.approx(returns.std(ddof=1) / len(returns) ** 0.5)
  assert scores.score("x", {"mean": 1.0, "std": 0.0, "n": 1}).standard_error is None
  assert scores.score("x", {"mean": 1.0, "std": 3.0}).standard_error is None


def test_gap_is_the_dream_minus_the_environment():
  found = scores.gap(RESULTS)
  assert found.mean == pytest.approx(548.9 - 512.3)
  assert found.standard_error == pytest.approx((90**2 / 63 + 136**2 / 24) ** 0.5)
  assert found.text == "+37 ± 30"
  assert scores.gap({"controller_in_model": RESULTS["controller_in_model"]}) is None


@pytest.mark.parametrize(
  ("value", "places", "sign", "text"),
  [
    (41234, 0, "", "41,234"),
    (-0.4, 0, "", "0"),
    (-74.6, 0, "", "-75"),
    (36.6, 1, "+", "+36.6"),
    (np.float32(0.5), 2, "", "0.50"),
    (float("nan"), 0, "", "nan"),
    (None, 0, "", "-"),
  ],
)
def test_number(value, places, sign, text):
  assert formatting.number(value, places, sign) == text


def test_durations_and_ranges():
  assert [formatting.duration(s) for s in (8.24, 59.96, 185, 3725, 7200, None)] == [
    "8.2 s",
    "1 min 00 s",
    "3 min 05 s",
    "1 h 02 min",
    "2 h 00 min",
    "-",
  ]
  assert formatting.ranges([9, 3, 4, 5, 4]) == "3-5, 9"
  assert formatting.ranges([]) == ""


def test_terminal_table_holds_every_score():
  lines = report.terminal_table(RESULTS).split("\n")
  cells = {line[:34].strip(): line[34:].split() for line in lines if "served planner" in line}
  assert cells["served planner, in the environment"] == [
    "377",
    "48",
    "128",
    "8",
    "1",
    "h",
    "02",
    "min",
  ]
  row = next(line for line in lines if line.startswith("controller, in the environment"))
  assert row.split()[4:8] == ["512", "28", "136", "25"]
  widths = {len(line) for line in lines[2:9]}
  assert len(widths) == 1 and widths.pop() <= 90
  assert any("+37 ± 30" in line for line in lines)
  published = "\n".join(lines[lines.index("Published, CarRacing-v0") :])
  assert "measured on v0" in published and "906 ± 21" in published


def test_terminal_table_of_nothing_says_not_run():
  text = report.terminal_table({"random": None, "heuristic": {}, "env_id": "Toy-v0"})
  assert text.count("not run") == 5
  assert "Published" not in text
  assert "gap" not in text


def test_any_other_score_gets_a_row():
  results = {**RESULTS, "controller_untrained_rnn": score(101.0, 10.0, 4)}
  assert "controller untrained rnn" in report.terminal_table(results)
  page = Page(report.render_page(results, {}))
  assert page.row("controller untrained rnn")[1] == "101 ± 6"


def test_in_words_names_frames_time_scores_and_the_heuristic():
  text = report.in_words(RESULTS)
  assert "41,234 frames (186 episodes)" in text
  assert "the whole run took 11 min 24 s" in text
  assert "scores 512 ± 28 and the served planner 377 ± 48" in text
  assert "The best is 119 below the scripted policy." in text
  close = {**RESULTS, "heuristic": score(540.0, 131.0, 16)}
  assert "does not differ significantly from the scripted policy" in report.in_words(close)
  ahead = {**RESULTS, "heuristic": score(100.0, 10.0, 16)}
  assert "The best is 412 above the scripted policy." in report.in_words(ahead)
  assert "No world model of an unnamed environment was learned." in report.in_words({})
