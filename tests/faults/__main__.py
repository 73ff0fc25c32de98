"""Breaks things on purpose: `make faults`.

    python -m tests.faults                     # all of it, at moments of its own choosing
    python -m tests.faults --seed=7            # at those of an earlier pass
    python -m tests.faults --only=kills,disks/export
    python -m tests.faults --passes=3 --output=faults.json

Ends with 1 if anything was not as it must be.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from tests.faults import damage, disks, fuzz, kills, memory, online, troubles
from tests.faults.pool import Outcome, Pool
from tests.faults.suite import Task, make_reference

_PARTS = {
  "kills": kills.TASKS,
  "damage": damage.TASKS,
  "disks": disks.TASKS,
  "troubles": troubles.TASKS,
  "memory": memory.TASKS,
  "online": online.TASKS,
  "fuzz": fuzz.TASKS,
}
_TASKS = {f"{part}/{name}": task for part, tasks in _PARTS.items() for name, task in tasks.items()}
# As urgent as all that waits for it.
_REFERENCE = Task(make_reference, seconds=3600, after=None)


def _chosen(only: str) -> dict[str, Task]:
  """The tasks that are named, or whose part is, and what they need."""
  names = only.split(",")
  if unknown := set(names) - set(_PARTS) - set(_TASKS):
    known = "; ".join(f"{part}: {', '.join(tasks)}" for part, tasks in _PARTS.items())
    raise SystemExit(f"No part or part/task is called {', '.join(sorted(unknown))}. {known}")
  tasks = {n: task for n, task in _TASKS.items() if n in names or n.partition("/")[0] in names}
  if any(task.after for task in tasks.values()):
    return {"reference": _REFERENCE, **tasks}
  return tasks


def _pass(pool: Pool, tasks: dict[str, Task], seed: int) -> dict[str, Any]:
  """Runs the tasks once; returns what is recorded of it."""
  load, began = os.getloadavg()[0], time.monotonic()
  outcomes: dict[str, Outcome] = pool.run(tasks, seed)
  counts = sum((outcome.counts for outcome in outcomes.values()), Counter())
  return {
    "seed": seed,
    "seconds": round(time.monotonic() - began),
    "load_before": round(load, 1),
    "load_after": round(os.getloadavg()[0], 1),
    "counts": dict(sorted(counts.items())),
    "task_seconds": {name: round(outcome.seconds, 1) for name, outcome in outcomes.items()},
    "failures": [text for outcome in outcomes.values() for text in outcome.failures],
  }


def _summary(done: dict[str, Any]) -> str:
  counts = ", ".join(f"{number} {kind}" for kind, number in done["counts"].items())
  return (
    f"{len(done['failures']) or 'no'} failures; {counts or 'nothing counted'}; "
    f"{done['seconds']} s; load {done['load_before']} before, {done['load_after']} after; "
    f"FAULTS_SEED={done['seed']}"
  )


def main() -> int:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  add = parser.add_argument
  default = int(os.environ.get("FAULTS_SEED") or random.randrange(2**31))
  add("--seed", type=int, default=default, help="of the moments and places; a pass more, one more")
  add("--only", default=",".join(_PARTS), help="parts, or part/task, with commas between them")
  add("--passes", type=int, default=1, help="how many times in a row")
  add("--jobs", type=int, default=len(os.sched_getaffinity(0)), help="tasks side by side")
  add("--folder", type=Path, help="where to keep the undisturbed run, for the next time")
  add("--output", type=Path, help="a JSON file for what came of each pass")
  args = parser.parse_args()
  if min(args.passes, args.jobs) < 1:
    parser.error("--passes and --jobs must be at least 1")
  tasks = _chosen(args.only)
  signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
  folder = args.folder or Path(tempfile.mkdtemp(prefix="faults_"))
  folder.mkdir(parents=True, exist_ok=True)
  began = time.monotonic()

  def say(name: str, text: str) -> None:
    print(f"[{time.monotonic() - began:6.0f} s] {name}: {text}", flush=True)

  passes: list[dict[str, Any]] = []
  try:
    with Pool(folder, args.jobs, say) as pool:
      for i in range(args.passes):
        say(f"pass {i + 1} of {args.passes}", f"FAULTS_SEED={args.seed + i}, in {folder}")
        passes.append(_pass(pool, tasks, args.seed + i))
        say(f"pass {i + 1} of {args.passes}", _summary(passes[-1]))
        if args.output:
          record = {
            "machine": {"processors": os.cpu_count()},
            "jobs": args.jobs,
            "parts": args.only.split(","),
            "passes": passes,
          }
          args.output.parent.mkdir(parents=True, exist_ok=True)
          args.output.write_text(json.dumps(record, indent=2) + "\n")
  except KeyboardInterrupt:
    print("Interrupted.")
    return 128 + signal.SIGINT
  finally:
    failed = any(done["failures"] for done in passes)
    if not args.folder and not failed:
      shutil.rmtree(folder, ignore_errors=True)
  print()
  for i, done in enumerate(passes):
    print(f"Pass {i + 1}: {_summary(done)}")
    for failure in done["failures"]:
      print(f"FAILED {failure.splitlines()[0]}")
  if failed:
    print(f"What failed has left its workdirs and logs in {folder}")
  return 1 if failed else 0


if __name__ == "__main__":
  sys.exit(main())
