"""A contender's process: builds tasks and runs one repetition when told to.

    python -m benchmarks._worker MODULE FD

Reads a command a line from stdin as JSON, and answers each with a line of JSON to the file
descriptor FD: `make` (a task by name, with options), `run` (one repetition), `forget`, `memory`
(the largest resident set of the process so far, in bytes). MODULE has `TASKS`, a dictionary of
functions that take options and return a `Task`. Imports nothing but the standard library, since
each framework has an environment of its own.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any, NamedTuple


class Task(NamedTuple):
  """Something to time.

  Attributes:
    run: one repetition; whatever it computes is there when it returns.
    check: numbers by name that every contender must agree on, from weights and data as given.
  """

  run: Callable[[], Any]
  check: dict[str, Any]


def _handle(command: dict[str, Any], tasks: dict[str, Task], makers) -> dict[str, Any]:
  if command["do"] == "make":
    begun = time.perf_counter()
    task = tasks[command["key"]] = makers[command["task"]](**command["options"])
    task.run()
    compiled = time.perf_counter() - begun
    task.run()  # Some frameworks compile again when they are called again.
    return {"check": task.check, "compile_seconds": compiled}
  if command["do"] == "run":
    begun = time.perf_counter()
    tasks[command["key"]].run()
    return {"seconds": time.perf_counter() - begun}
  if command["do"] == "forget":
    del tasks[command["key"]]
    return {}
  if command["do"] == "memory":
    # Not getrusage, whose figure includes the memory of the process that started this one.
    with open("/proc/self/status") as status:
      (kibibytes,) = (line.split()[1] for line in status if line.startswith("VmHWM:"))
    return {"bytes": 1024 * int(kibibytes)}
  raise ValueError(f"Unknown command {command['do']!r}.")


def main() -> None:
  module, descriptor = sys.argv[1:]
  makers = importlib.import_module(module).TASKS
  tasks: dict[str, Task] = {}
  with os.fdopen(int(descriptor), "w") as answers:
    for line in sys.stdin:
      try:
        answer = _handle(json.loads(line), tasks, makers)
      except Exception:  # The other side raises it.
        answer = {"error": traceback.format_exc()}
      answers.write(json.dumps(answer) + "\n")
      answers.flush()


if __name__ == "__main__":
  main()
