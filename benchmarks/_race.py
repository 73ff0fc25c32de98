"""Contenders that take turns, each in a process of its own that is idle unless it is its turn.

A process is asked for one repetition at a time, so that whatever else the machine does meets all
contenders alike; ratios are medians over the rounds. What a contender needs before its first
repetition (compilation) is measured apart. Contenders must agree on numbers before they race: see
`check_agreement`.

PyTorch and JAX live in an environment of their own (`make bench-setup`). Without it, ours is timed
alone.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

_ROOT = Path(__file__).resolve().parents[1]
_PEERS = _ROOT / ".venv-bench" / "bin" / "python"
_SETTLE = 0.25  # Seconds: threads of the one before may still wait busily for more work.


class BenchmarkError(RuntimeError):
  """A contender broke, or contenders do not compute the same."""


class Worker:
  """A process that holds tasks of one framework; see `_worker.py` for what it is told."""

  def __init__(self, interpreter: str | Path, module: str):
    self.name = module
    # Libraries write to stdout as they like; answers have a pipe of their own.
    read, write = os.pipe()
    self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115 (closed with the worker)
    self._process = subprocess.Popen(
      [str(interpreter), "-m", "benchmarks._worker", module, str(write)],
      cwd=_ROOT,
      stdin=subprocess.PIPE,
      stdout=self._log,
      stderr=self._log,
      pass_fds=[write],
      text=True,
      env=os.environ | {"TF_CPP_MIN_LOG_LEVEL": "2", "JAX_PLATFORMS": "cpu"},
    )
    os.close(write)
    self._answers = os.fdopen(read)

  def ask(self, **command: Any) -> dict[str, Any]:
    """Sends a command and waits for its answer.

    Raises:
      BenchmarkError: if the process failed; with what it said.
    """
    try:
      self._process.stdin.write(json.dumps(command) + "\n")
      self._process.stdin.flush()
      line = self._answers.readline()
    except BrokenPipeError:
      line = ""
    if not line:
      self._log.seek(0)
      raise BenchmarkError(f"{self.name} died; it said: {self._log.read()[-4000:]}")
    answer = json.loads(line)
    if "error" in answer:
      raise BenchmarkError(f"{self.name}: {answer['error']}")
    return answer

  def close(self) -> None:
    self._process.stdin.close()
    self._process.wait()
    self._answers.close()
    self._log.close()


class Workers:
  """The processes of a benchmark, started when first asked for; a context manager."""

  def __init__(self):
    self._workers: dict[str, Worker | None] = {}
    self._keys = itertools.count()

  def __enter__(self) -> Workers:
    return self

  def __exit__(self, *_) -> None:
    for worker in self._workers.values():
      if worker is not None:
        worker.close()

  def get(self, framework: str) -> Worker | None:
    """The process of `tensorflow`, `torch` or `jax`; None if that is not installed."""
    if framework not in self._workers:
      interpreter = sys.executable if framework == "tensorflow" else _peer_interpreter(framework)
      if interpreter is None:
        print(f"{framework} is not installed (make bench-setup): ours is timed without it.")
        self._workers[framework] = None
      else:
        self._workers[framework] = Worker(interpreter, f"benchmarks._{framework}_tasks")
    return self._workers[framework]

  def make(self, label: str, framework: str, task: str, **options: Any) -> Contender | None:
    """Builds a task; None if its framework is not installed."""
    worker = self.get(framework)
    if worker is None:
      return None
    key = f"{task} {next(self._keys)}"
    made = worker.ask(do="make", key=key, task=task, options=options)
    return Contender(label, worker, key, made["check"], made["compile_seconds"])


def peak_memory(framework: str, task: str, **options: Any) -> int | None:
  """Runs a task twice in a process of its own; returns its largest resident set in bytes.

  The imports and the compiler are part of it, as in a program that does nothing else. None if the
  framework is not installed.
  """
  with Workers() as workers:
    contender = workers.make(task, framework, task, **options)
    return contender and contender.worker.ask(do="memory")["bytes"]


def _peer_interpreter(framework: str) -> str | None:
  for interpreter in (_PEERS, sys.executable):
    if Path(interpreter).exists():
      found = subprocess.run(
        [
          str(interpreter),
          "-c",
          f"from importlib.util import find_spec as f; f('{framework}') or 1/0",
        ],
        capture_output=True,
      )
      if found.returncode == 0:
        return str(interpreter)
  return None


@dataclasses.dataclass
class Contender:
  """A task in a process.

  Attributes:
    label: how it is printed.
    worker, key: where it is.
    check: the numbers it computed from what all contenders were given.
    compile_seconds: what its first repetition took, with whatever is done once.
    seconds: of the repetitions so far.
  """

  label: str
  worker: Worker
  key: str
  check: dict[str, Any]
  compile_seconds: float
  seconds: list[float] = dataclasses.field(default_factory=list)

  def turn(self) -> None:
    time.sleep(_SETTLE)
    self.seconds.append(self.worker.ask(do="run", key=self.key)["seconds"])

  def forget(self) -> None:
    """Frees the task's memory."""
    self.worker.ask(do="forget", key=self.key)


def check_agreement(contenders: Sequence[Contender], tolerance: float) -> dict[str, Any]:
  """Compares each number of `check` with the first contender's; returns the largest differences.

  Raises:
    BenchmarkError: if one differs by more than `tolerance` of the largest number of its kind.
  """
  first, worst = contenders[0], {}
  for other, (name, expected) in itertools.product(contenders[1:], first.check.items()):
    expected, found = np.asarray(expected, np.float64), np.asarray(other.check[name], np.float64)
    difference = np.abs(found - expected).max() / max(np.abs(expected).max(), 1e-12)
    worst[name] = max(worst.get(name, 0.0), float(difference))
    if not difference <= tolerance:
      raise BenchmarkError(
        f"{first.label} and {other.label} do not compute the same: {name} is {expected.tolist()} "
        f"and {found.tolist()} (relative difference {difference:.2g}, allowed {tolerance:g})."
      )
  return worst


def race(contenders: Sequence[Contender | None], rounds: int) -> list[Contender]:
  """Lets the contenders take turns; who begins changes from round to round."""
  contenders = [contender for contender in contenders if contender is not None]
  for i in range(rounds):
    shift = i % len(contenders)
    for contender in [*contenders[shift:], *contenders[:shift]]:
      contender.turn()
  return contenders


def quartiles(values) -> dict[str, float]:
  """Median and quartiles, rounded to what a measurement is worth."""
  low, median, high = np.percentile(values, [25, 50, 75])
  return {"median": _round(median), "q25": _round(low), "q75": _round(high)}


def _round(value: float) -> float:
  return float(f"{value:.4g}")


def standings(contenders: Sequence[Contender], work: float) -> dict[str, Any]:
  """What a race found: rates of `work` per repetition, and the first contender's ratio to others.

  A ratio is the median over the rounds of that of one round.
  """
  first = contenders[0]
  found = {}
  for contender in contenders:
    row = quartiles(work / np.array(contender.seconds))
    row["compile_seconds"] = round(contender.compile_seconds, 2)
    row["rounds"] = len(contender.seconds)
    if contender is not first:
      row["ours_is_times"] = quartiles(np.divide(contender.seconds, first.seconds))
    found[contender.label] = row
  return found


def print_standings(title: str, found: dict[str, Any], unit: str) -> None:
  print(f"\n{title}")
  for label, row in found.items():
    ratio = row.get("ours_is_times")
    against = f"  ours is {ratio['median']:.2f} times that" if ratio else ""
    print(
      f"  {label:34} {row['median']:>12,.6g} {unit} ({row['q25']:,.6g} to {row['q75']:,.6g}), "
      f"compiled in {row['compile_seconds']:.1f} s{against}",
      flush=True,
    )


def best_alternative(found: dict[str, Any]) -> dict[str, Any] | None:
  """The alternative that comes nearest: `{"name", "ours_is_times"}`; None without any."""
  others = {name: row for name, row in found.items() if not name.startswith("ours")}
  ratios = {name: row["ours_is_times"]["median"] for name, row in others.items()}
  if not ratios:
    return None
  name = min(ratios, key=ratios.get)
  return {"name": name, "ours_is_times": ratios[name]}


def compare(
  title: str,
  contenders: Sequence[Contender | None],
  rounds: int,
  work: float,
  unit: str,
  *,
  others: Sequence[Contender | None] = (),
  tolerance: float = 2e-3,
) -> dict[str, Any]:
  """Checks, races and prints; returns what is worth writing down.

  Args:
    title: printed above.
    contenders: ours first; None is one that is not installed.
    rounds: turns of each.
    work: units that one repetition does.
    unit: what is counted.
    others: take turns too, but are not compared.
    tolerance: see `check_agreement`; those under bfloat16 may differ by fifty times as much.

  Raises:
    BenchmarkError: if the contenders do not compute the same.
  """
  present = [contender for contender in contenders if contender is not None]
  rough = [c for c in present if "bfloat16" in c.label]
  exact = [c for c in present if "bfloat16" not in c.label]
  differences = check_agreement(exact, tolerance)
  check_agreement([present[0], *rough], 50 * tolerance)
  everyone = race([*present, *others], rounds)
  found = standings(present, work)
  print_standings(title, found, unit)
  best = best_alternative(found)
  if best:
    print(f"  ours is {best['ours_is_times']:.2f} times the best alternative, {best['name']}")
  for contender in everyone:
    contender.forget()
  return {
    "unit": unit,
    "contenders": found,
    "best_alternative": best,
    "largest_difference": differences,
  }


def processor() -> str:
  """Returns the name of the processor, as far as the system tells it."""
  for line in Path("/proc/cpuinfo").read_text().splitlines() if os.path.exists("/proc") else ():
    if line.startswith("model name"):
      return line.split(":", 1)[1].strip()
  return platform.processor() or platform.machine()


def machine() -> dict[str, Any]:
  """Where and when a result was found."""
  return {
    "processor": processor(),
    "cores": os.cpu_count(),
    "load_average": round(os.getloadavg()[0], 2),
    "date": time.strftime("%Y-%m-%d %H:%M", time.gmtime()),
  }


def parser(doc: str, rounds: int) -> argparse.ArgumentParser:
  """Flags that every benchmark has."""
  made = argparse.ArgumentParser(
    description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  made.add_argument("--rounds", type=int, default=rounds, help="turns of each contender")
  made.add_argument("--output", type=Path, help="JSON file for the numbers")
  return made


def write(path: Path | None, command: str, results: dict[str, Any]) -> None:
  """Writes results with the machine they are of, whole or not at all."""
  if path is None:
    return
  path.parent.mkdir(parents=True, exist_ok=True)
  text = json.dumps({"command": command, "machine": machine(), **results}, indent=1) + "\n"
  part = path.with_name(path.name + ".part")
  part.write_text(text)
  part.replace(path)


def timed(call: Callable[[], Any]) -> float:
  """Seconds of a call."""
  begun = time.perf_counter()
  call()
  return time.perf_counter() - begun
