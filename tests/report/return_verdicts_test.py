"""The verdict on the return: against random actions, and by the share of the way to a target."""

import math

import pytest

from tests.report.pages import RESULTS, score
from wm_tf import report
from wm_tf.report import verdicts
from wm_tf.report.return_verdicts import return_checks, return_in_words

_RANDOM = score(20.0, 12.0, 16)  # Standard error 3.


def _controller(entry, **results):
  found = return_checks({"controller_in_environment": entry, **results})
  return next(check for check in found if check.name == "return of the controller")


@pytest.mark.parametrize(
  ("mean", "std", "n", "verdict", "words"),
  [
    (480.0, 8.0, 16, "good", "Reaches the reward threshold."),
    (450.0, 8.0, 16, "good", "Covers 94% of the way"),
    (
      450.0,
      140.0,
      2,
      "usable",
      "to the reward threshold, but in too few episodes",
    ),
    (300.0, 8.0, 16, "usable", "Covers 61% of the way"),
    (200.0, 8.0, 16, "poor", "Covers only 39% of the way"),
    (25.0, 8.0, 16, "poor", "No significant difference from random"),
    (-20.0, 8.0, 16, "poor", "Worse than random"),
    (480.0, 0.0, 1, "no verdict", "Too few episodes"),
    (math.nan, 8.0, 16, "poor", "not finite"),
    (480.0, math.nan, 16, "no verdict", "Too few episodes"),
  ],
)
def test_the_share_of_the_way_to_the_reward_threshold(mean, std, n, verdict, words):
  check = _controller(score(mean, std, n), random=_RANDOM, reward_threshold=475)
  assert check.verdict == verdict and words in check.words
  assert "reward threshold 475" in check.value and "random 20 ± 3" in check.value
  assert check.reference.endswith("from random actions to the reward threshold of 475")


def test_more_than_three_standard_errors_above_random():
  error = math.hypot(3.0, 4.0)
  for mean, verdict in ((20.0 + 2.9 * error, "poor"), (20.0 + 3.1 * error, "usable")):
    assert _controller(score(mean, 16.0, 16), random=_RANDOM).verdict == verdict


@pytest.mark.parametrize(
  ("scripted", "threshold", "verdict", "target"),
  [
    (100.0, None, "good", "the scripted policy's return of 100"),
    (100.0, 300.0, "poor", "the reward threshold of 300"),
    (300.0, 100.0, "poor", "the scripted policy's return of 300"),
    (10.0, None, "usable", "no target is known"),  # Worse than random: no target.
    (10.0, 100.0, "good", "the reward threshold of 100"),
  ],
)
def test_the_target_is_the_highest_that_is_known(scripted, threshold, verdict, target):
  check = _controller(
    score(110.0, 4.0, 16),
    random=_RANDOM,
    heuristic=score(scripted, 1.0, 16),
    reward_threshold=threshold,
  )
  assert check.verdict == verdict and check.reference.endswith(target)
  assert "scripted policy" in check.value


def test_without_a_target_no_return_is_good():
  check = _controller(score(1e6, 4.0, 16), random=_RANDOM, reward_threshold=None)
  assert check.verdict == "usable" and "not known" in check.words
  assert "scripted" not in check.value
  many = score(30.0, 40.0, 10_000)
  check = _controller(many, random=score(20.0, 40.0, 10_000))
  assert check.verdict == "poor" and "less than one standard deviation" in check.words


def test_without_random_actions_only_a_target_that_is_reached_is_judged():
  assert _controller(score(480.0, 8.0, 16), reward_threshold=475).verdict == "good"
  assert _controller(score(470.0, 8.0, 16), reward_threshold=475).verdict == "no verdict"
  assert _controller(score(470.0, 8.0, 16)).verdict == "no verdict"


def test_every_agent_that_was_evaluated_is_judged():
  results = {**RESULTS, "finished_controller_in_environment": score(640.0, 20.0, 16)}
  found = {check.name: check.verdict for check in return_checks(results)}
  assert found == {
    "return of the controller": "usable",
    "return of the served planner": "usable",
    "return of the finished controller": "good",
  }
  assert [check.verdict for check in return_checks({})] == ["not run", "not run"]


def test_half_of_what_is_possible_comes_first_and_does_not_read_as_good():
  results = RESULTS | {"reward_threshold": 1100.0}  # All figures of the model are as they were.
  summary = verdicts.summary(report.checks(results))
  for text in (summary, report.in_words(results)):
    assert text.startswith("Return of the controller: poor. Covers only 49% of the way")
    assert "Return of the served planner: poor." in text
  assert "8 good" in summary
  page = report.render_page(results, {})
  head = page[page.index("<header>") : page.index("</header>")]
  assert head.index('verdict poor">poor') < head.index("world model of CarRacing-v3 was learned")
  assert "return of the controller: poor." in report.terminal_table(results)
  assert return_in_words([]) == "The return in the environment was not measured."
