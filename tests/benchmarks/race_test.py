"""Contenders that take turns: real processes, and times that are known."""

import json
import sys

import numpy as np
import pytest

from benchmarks import _race as race_lib


@pytest.fixture
def make(monkeypatch):
  """Builds a task of `slow_tasks` as if it were of a framework of ours."""
  with race_lib.Workers() as workers:
    worker = race_lib.Worker(sys.executable, "tests.benchmarks.slow_tasks")
    monkeypatch.setattr(workers, "get", lambda framework: worker)
    yield workers.make
    worker.close()


def test_a_race_finds_who_is_faster_and_by_how_much(make, capsys):
  contenders = [
    make("ours", "any", "sleep", seconds=0.02, loss=1.0),
    None,  # Not installed.
    make("twice as slow", "any", "sleep", seconds=0.04, loss=1.0001),
    make("slow", "any", "sleep", seconds=0.1, loss=0.9999),
  ]
  found = race_lib.compare("A race", contenders, 3, 10, "steps/s")
  assert list(found["contenders"]) == ["ours", "twice as slow", "slow"]
  ours, twice, _ = found["contenders"].values()
  assert 250 < ours["median"] <= 500 and ours["rounds"] == 3
  assert 1.4 < twice["ours_is_times"]["median"] < 2.2
  assert found["best_alternative"]["name"] == "twice as slow"
  assert found["largest_difference"]["loss"] == pytest.approx(1e-4)
  assert "times the best alternative, twice as slow" in capsys.readouterr().out


@pytest.mark.parametrize("value", [1.1, float("nan")])
def test_contenders_that_compute_something_else_may_not_race(make, value):
  contenders = [
    make("ours", "any", "sleep", seconds=0.0, loss=1.0),
    make("other", "any", "sleep", seconds=0.0, loss=value),
  ]
  with pytest.raises(race_lib.BenchmarkError, match="ours and other do not compute the same: loss"):
    race_lib.compare("A race", contenders, 1, 1, "steps/s")


def test_a_contender_that_breaks_says_why(make):
  with pytest.raises(race_lib.BenchmarkError, match="out of order"):
    make("ours", "any", "broken")


def test_a_contender_that_dies_says_why():
  worker = race_lib.Worker(sys.executable, "tests.benchmarks.no_such_module")
  with pytest.raises(race_lib.BenchmarkError, match="no_such_module"):
    worker.ask(do="make")
  worker.close()


def test_memory_is_that_of_a_process_of_its_own(monkeypatch):
  workers = []

  def get(self, framework):
    workers.append(race_lib.Worker(sys.executable, "tests.benchmarks.slow_tasks"))
    return workers[-1]

  monkeypatch.setattr(race_lib.Workers, "get", get)
  large, small = (race_lib.peak_memory("any", "hold", size=size) for size in (2**28, 1))
  assert 2**28 - 2**24 < large - small < 2**28 + 2**24
  for worker in workers:
    worker.close()
  monkeypatch.setattr(race_lib.Workers, "get", lambda self, framework: None)
  assert race_lib.peak_memory("any", "hold", size=1) is None


def test_ours_alone_has_no_ratio():
  contender = race_lib.Contender("ours", None, "", {}, 1.0, [0.5, 0.5])
  found = race_lib.standings([contender], 10)
  assert found["ours"]["median"] == 20
  assert race_lib.best_alternative(found) is None


def test_results_say_where_they_are_from(tmp_path):
  path = tmp_path / "new" / "vae.json"
  race_lib.write(path, "python -m benchmarks.vae", {"unit": "images/s"})
  found = json.loads(path.read_text())
  assert found["unit"] == "images/s" and found["machine"]["cores"] >= 1
  assert [p.name for p in path.parent.iterdir()] == ["vae.json"]


def test_quartiles():
  assert race_lib.quartiles(np.arange(5.0)) == {"median": 2.0, "q25": 1.0, "q75": 3.0}
