"""The property tests with their long profile."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from pathlib import Path

from tests.faults.suite import Suite, Task, numbers_after

_ROOT = Path(__file__).resolve().parents[2]


def _run(suite: Suite, name: str) -> None:
  done = subprocess.run(
    [sys.executable, "-m", "pytest", "-q", f"tests/fuzz/{name}_test.py", "--timeout=1200"],
    cwd=_ROOT,
    env={**os.environ, "FUZZ_PROFILE": "long", "FUZZ_SEED": str(suite.random.randrange(2**31))},
    capture_output=True,
    text=True,
  )
  last = done.stdout.strip().splitlines()[-1]
  if suite.expect(done.returncode == 0, done.stdout[-6000:]):
    suite.count("properties", int(numbers_after(last, r"(\d+) passed")[0]))
    suite.say(last)


TASKS = {name: Task(functools.partial(_run, name=name), 100, None) for name in ("config", "files")}
