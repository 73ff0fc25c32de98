"""Runs the suite's tasks in processes, several at a time; one that fails or dies stops no other.

A process serves one task after the other. TensorFlow takes seconds to import, so these processes
and the trainers that they start are all forked from one that has imported it; see
`tests.trainers.launcher`.
"""

from __future__ import annotations

import dataclasses
import multiprocessing
import os
import shutil
import signal
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Mapping
from multiprocessing import connection
from pathlib import Path

from tests.faults.suite import Suite, Task

_CONTEXT = multiprocessing.get_context("forkserver")
_DEADLINE = 3600.0  # Seconds after which a task counts as hung.
_PATIENCE = 60.0  # Seconds to clear up in.


@dataclasses.dataclass
class Outcome:
  """What came of a task.

  Attributes:
    seconds: that it took.
    failures: what was not as it must be.
    counts: of what was done, by kind.
  """

  seconds: float = 0.0
  failures: list[str] = dataclasses.field(default_factory=list)
  counts: Counter[str] = dataclasses.field(default_factory=Counter)


class _Worker:
  """A process, and the task that it is busy with."""

  def __init__(self, log: Path):
    self.connection, theirs = _CONTEXT.Pipe()
    with theirs:
      self.process = _CONTEXT.Process(target=_serve, args=(theirs, log))
      self.process.start()
    self.name: str | None = None
    self.folder: Path | None = None
    self.began = 0.0

  def begin(self, name: str, task: Task, folder: Path, reference: Path, seed: str) -> None:
    self.name, self.folder, self.began = name, folder, time.monotonic()
    self.connection.send((task, folder, reference, seed))

  def end(self) -> None:
    """Ends the process, and with it what its task has started."""
    self.process.terminate()
    self.process.join(_PATIENCE)
    self.process.kill()
    self.process.join()


class Pool:
  """Processes that run tasks. A context manager: nothing it started outlives it.

  Args:
    folder: for the tasks' folders, which stay if they fail, and for `reference`, the
      undisturbed run.
    jobs: how many tasks run side by side.
    say: is called with the name of a task and a line about it.
  """

  def __init__(self, folder: Path, jobs: int, say: Callable[[str, str], None]):
    self._folder, self._say = folder, say
    self._log = folder / "processes.log"
    self._workers = [_Worker(self._log) for _ in range(jobs)]

  def run(self, tasks: Mapping[str, Task], seed: int) -> dict[str, Outcome]:
    """Runs tasks, the longest first; returns what came of each.

    Args:
      tasks: by name.
      seed: what a task does depends on it and on the task's name, and on nothing that runs beside.
    """
    waiting = sorted(tasks, key=lambda name: -tasks[name].seconds)
    outcomes: dict[str, Outcome] = {}
    while waiting or any(worker.name for worker in self._workers):
      for worker in self._workers:
        name = None if worker.name else self._next(waiting, tasks, outcomes)
        if name:
          folder = self._folder / f"seed_{seed}" / name
          shutil.rmtree(folder, ignore_errors=True)
          worker.begin(name, tasks[name], folder, self._folder / "reference", f"{seed} {name}")
      self._listen(outcomes)
    return outcomes

  def _next(self, waiting: list[str], tasks, outcomes: dict[str, Outcome]) -> str | None:
    """Takes the first task that may begin; what can never begin has failed."""
    running = {worker.name for worker in self._workers}
    for name in list(waiting):
      after = tasks[name].after if tasks[name].after in tasks else None
      if after is None or (after in outcomes and after not in running):
        waiting.remove(name)
        if after is None or not outcomes[after].failures:
          outcomes[name] = Outcome()
          return name
        outcomes[name] = Outcome(failures=[f"{name}: left out, since {after} failed"])
    return None

  def _listen(self, outcomes: dict[str, Outcome]) -> None:
    """Waits for news of the tasks, and notes them."""
    busy = {worker.connection: worker for worker in self._workers if worker.name}
    for ready in connection.wait(list(busy), timeout=1.0):
      worker = busy[ready]
      outcome = outcomes[worker.name]
      try:
        kind, value = ready.recv()
      except (EOFError, ConnectionResetError):
        worker.process.join()
        self._abandon(worker, outcome, f"its process ended with {worker.process.exitcode}")
        continue
      if kind == "say":
        self._say(worker.name, value)
      elif kind == "count":
        outcome.counts[value[0]] += value[1]
      elif kind == "fail":
        self._fail(worker, outcome, value)
      else:
        self._finish(worker, outcome)
    for worker in busy.values():
      if worker.name and time.monotonic() - worker.began > _DEADLINE:
        self._abandon(worker, outcomes[worker.name], f"it did not end within {_DEADLINE:.0f} s")

  def _fail(self, worker: _Worker, outcome: Outcome, text: str) -> None:
    outcome.failures.append(f"{worker.name}: {text}")
    self._say(worker.name, f"FAILED {text}")

  def _finish(self, worker: _Worker, outcome: Outcome) -> None:
    outcome.seconds = time.monotonic() - worker.began
    if outcome.failures:
      self._say(
        worker.name, f"failed after {outcome.seconds:.0f} s; what it did is in {worker.folder}"
      )
    else:
      shutil.rmtree(worker.folder, ignore_errors=True)
      self._say(worker.name, f"took {outcome.seconds:.0f} s")
    worker.name = None

  def _abandon(self, worker: _Worker, outcome: Outcome, why: str) -> None:
    """Gives up a task and its process; another process takes its place."""
    self._fail(worker, outcome, f"{why}; see {self._log}")
    self._finish(worker, outcome)
    worker.end()
    self._workers[self._workers.index(worker)] = _Worker(self._log)

  def __enter__(self) -> Pool:
    return self

  def __exit__(self, *_) -> None:
    for worker in self._workers:
      worker.process.terminate()  # All at once: each needs a moment to clear up.
    for worker in self._workers:
      worker.end()


def _serve(orders: connection.Connection, log: Path) -> None:
  """Runs tasks until it is ended."""
  os.setsid()  # Ctrl-C is the suite's, which then ends its processes in order.
  with open(log, "ab", buffering=0) as file:
    for number in (1, 2):  # One process alone writes to the terminal.
      os.dup2(file.fileno(), number)
  signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
  threading.Thread(target=_end_with_parent, daemon=True).start()
  while True:
    task, *where = orders.recv()
    suite = Suite(*where, report=lambda *news: orders.send(news))
    try:
      task.run(suite)
    except Exception:
      suite.fail(f"it came to an end:\n{traceback.format_exc()}")
    finally:
      suite.launcher.end()
    orders.send(("done", None))


def _end_with_parent() -> None:
  """Ends this process if the suite is killed."""
  connection.wait([multiprocessing.parent_process().sentinel])
  os.kill(os.getpid(), signal.SIGTERM)
