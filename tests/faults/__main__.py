"""Breaks things on purpose, for about twenty minutes: `make faults`.

    python -m tests.faults                     # all of it, at moments of its own choosing
    python -m tests.faults --seed=7            # at those of an earlier run
    python -m tests.faults --only=kills,disks

Ends with 1 if anything was not as it must be.
"""

from __future__ import annotations

import argparse
import logging
import os
import random
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from pathlib import Path

from tests.faults import damage, disks, kills, memory, troubles
from tests.faults.suite import Suite

_ROOT = Path(__file__).resolve().parents[2]


def fuzz(suite: Suite) -> None:
  """The property tests with their long profile."""
  done = subprocess.run(
    [sys.executable, "-m", "pytest", "-q", "tests/fuzz", "--timeout=1200"],
    cwd=_ROOT,
    env={**os.environ, "FUZZ_PROFILE": "long", "FUZZ_SEED": str(suite.random.randrange(2**31))},
    capture_output=True,
    text=True,
  )
  suite.expect(done.returncode == 0, f"fuzzing:\n{done.stdout[-6000:]}")
  suite.say(f"fuzzing: {done.stdout.strip().splitlines()[-1]}")


_PARTS = {
  "kills": kills.run,
  "damage": damage.run,
  "disks": disks.run,
  "troubles": troubles.run,
  "memory": memory.run,
  "fuzz": fuzz,
}
_NEED_REFERENCE = ("kills", "damage", "disks", "troubles")


def main() -> int:
  parser = argparse.ArgumentParser(description=__doc__)
  default = int(os.environ.get("FAULTS_SEED") or random.randrange(2**31))
  parser.add_argument("--seed", type=int, default=default, help="of the moments and places")
  parser.add_argument("--only", default=",".join(_PARTS), help="parts, with commas between them")
  parser.add_argument("--folder", help="where to keep the undisturbed run, for the next time")
  args = parser.parse_args()
  parts = args.only.split(",")
  if unknown := set(parts) - set(_PARTS):
    parser.error(f"unknown parts {sorted(unknown)}; there are {', '.join(_PARTS)}")
  for name in ("tensorflow", "wm_tf"):
    logging.getLogger(name).setLevel(logging.ERROR)
  warnings.filterwarnings("ignore")
  began = time.monotonic()
  with tempfile.TemporaryDirectory(prefix="faults_") as folder:
    suite = Suite(Path(args.folder or folder), args.seed)
    suite.say(f"FAULTS_SEED={args.seed}, load {os.getloadavg()[0]:.1f}, in {suite.folder}")
    if set(parts) & set(_NEED_REFERENCE):
      suite.make_reference()
    for part in parts:
      suite.random.seed(f"{args.seed} {part}")  # The same moments whichever parts run.
      started = time.monotonic()
      try:
        _PARTS[part](suite)
      except Exception:
        suite.fail(f"{part} came to an end:\n{traceback.format_exc()}")
      suite.say(f"{part} took {time.monotonic() - started:.0f} s")
  counts = ", ".join(f"{number} {kind}" for kind, number in suite.counts.items())
  print(f"\n{counts or 'done'}; {time.monotonic() - began:.0f} s; FAULTS_SEED={args.seed}")
  for failure in suite.failures:
    print(f"FAILED {failure}")
  print(f"{len(suite.failures)} failures" if suite.failures else "No failure.")
  return 1 if suite.failures else 0


if __name__ == "__main__":
  sys.exit(main())
