"""What the fault suite says of itself: it misses no failure, and leaves nothing behind."""

from __future__ import annotations

import functools
import os
import time

import pytest

from tests.faults.pool import Pool
from tests.faults.suite import Suite, Task

pytestmark = pytest.mark.timeout(600)


def _draw(suite: Suite) -> None:
  (suite.folder / "workdir").mkdir()
  suite.count("numbers", 2)
  suite.say(f"{suite.random.random()} {suite.random.random()}")


def _raise(suite: Suite) -> None:
  suite.count("numbers")
  suite.expect(False, "as planned")
  raise ValueError("and more")


def _die(suite: Suite) -> None:
  suite.count("numbers")
  os._exit(3)


def _wait(suite: Suite, file: str) -> None:
  server = suite.launcher.start("http.server", "0")  # As a trainer that goes on for ever.
  with open(file, "w") as pids:
    pids.write(f"{os.getpid()} {server.process.pid}")
  server.wait()


_TASKS = {
  "a/draws": Task(_draw, 1, after=None),
  "b/raises": Task(_raise, 9, after=None),
  "b/dies": Task(_die, 8, after=None),
  "b/waits": Task(_draw, 7, after="b/dies"),
  "c/draws": Task(_draw, 2, after="a/draws"),
}


def _run(folder, jobs: int, names=tuple(_TASKS)):
  folder.mkdir()
  lines = []
  with Pool(folder, jobs, lambda *line: lines.append(line)) as pool:
    outcomes = pool.run({name: _TASKS[name] for name in names}, seed=5)
  return outcomes, {name: text for name, text in lines if text.startswith("0.")}


def test_failures_are_gathered_and_all_else_goes_on(tmp_path):
  outcomes, drawn = _run(tmp_path / "two", jobs=2)
  failures = {name: outcome.failures for name, outcome in outcomes.items() if outcome.failures}
  assert list(sorted(failures)) == ["b/dies", "b/raises", "b/waits"]
  assert failures["b/raises"][0] == "b/raises: as planned"
  assert failures["b/raises"][1].endswith("ValueError: and more\n")
  assert "ended with 3" in failures["b/dies"][0] and "b/dies failed" in failures["b/waits"][0]
  assert sum(outcome.counts["numbers"] for outcome in outcomes.values()) == 6
  # The folders of those that failed stay, for a look.
  left = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.glob("two/seed_5/*/*"))
  assert left == ["two/seed_5/b/dies", "two/seed_5/b/raises"]
  # What is drawn depends on the seed and the task, not on what runs beside it.
  assert drawn.keys() == {"a/draws", "c/draws"} and drawn["a/draws"] != drawn["c/draws"]
  assert _run(tmp_path / "one", jobs=1, names=drawn)[1] == drawn


def test_an_interruption_ends_what_tasks_have_started(tmp_path):
  file = tmp_path / "pids"

  def interrupt(_, text: str):
    raise KeyboardInterrupt

  tasks = {
    "waits": Task(functools.partial(_wait, file=str(file)), 2, after=None),
    "says": Task(functools.partial(_say_when, file=str(file)), 1, after=None),
  }
  with pytest.raises(KeyboardInterrupt), Pool(tmp_path, 2, interrupt) as pool:
    pool.run(tasks, seed=0)
  for pid in map(int, file.read_text().split()):
    assert not os.path.exists(f"/proc/{pid}"), f"process {pid} is still there"


def _say_when(suite: Suite, file: str) -> None:
  while not os.path.exists(file) or len(open(file).read().split()) < 2:  # noqa: SIM115
    time.sleep(0.05)
  suite.say("it is there")


def test_enough_is_killed():
  from tests.faults import kills  # Not above: the pool's processes would import TensorFlow.

  kills_of = [task.run.keywords["number"] for task in kills.TASKS.values()]
  assert sum(kills_of) >= 50
