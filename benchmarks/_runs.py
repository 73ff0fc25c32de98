"""What tables of whole runs share: commands, their processor time, and rows of one commit only."""

from __future__ import annotations

import os
import platform
import resource
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Any

from benchmarks._race import processor
from wm_tf.files import read_json, write_json

ROOT = Path(__file__).resolve().parents[1]
_LIBRARIES = ("tensorflow", "keras", "tensorflow-probability", "gymnasium", "numpy")


def commit() -> str:
  """Returns the short hash of the commit, with `+` if tracked files were changed since."""

  def git(*words: str) -> str:
    return subprocess.run(
      ["git", "-C", str(ROOT), *words], check=True, capture_output=True, text=True
    ).stdout.strip()

  return git("rev-parse", "--short", "HEAD") + (
    "+" if git("status", "--porcelain", "--untracked-files=no") else ""
  )


def call(module: str, *flags: str) -> None:
  """Runs a trainer, and exits if it fails.

  Args:
    module: its module.
    *flags: its flags.
  """
  done = subprocess.run([sys.executable, "-m", module, *flags], cwd=ROOT)
  if done.returncode:
    sys.exit(f"{module} {' '.join(flags)} failed; repeat the command when its cause is mended.")


def timed_call(module: str, folder: Path, *flags: str) -> dict[str, float | None]:
  """Trains a run, or goes on with it, as `call` does.

  Args:
    module: the trainer's module.
    folder: workdir of the run.
    *flags: other flags.

  Returns:
    `minutes` and `cpu_minutes`. They are None if the folder was there before, because what an
    earlier call took is not known.
  """
  resumed = folder.exists()
  begun, used = time.monotonic(), _cpu_seconds()
  call(module, *flags, f"--workdir={folder}")
  seconds = {"minutes": time.monotonic() - begun, "cpu_minutes": _cpu_seconds() - used}
  return {name: None if resumed else round(value / 60, 1) for name, value in seconds.items()}


def _cpu_seconds() -> float:
  """Returns the processor time of all commands that have ended."""
  used = resource.getrusage(resource.RUSAGE_CHILDREN)
  return used.ru_utime + used.ru_stime


def minutes_text(*minutes: float | None) -> str:
  """Writes the mean of results of `timed_call` that are known, or "resumed" if none is."""
  known = [number for number in minutes if number is not None]
  return f"{sum(known) / len(known):.0f}" if known else "resumed"


def results_of_commit(folder: Path) -> tuple[Path, dict[str, Any]]:
  """Reads or begins the results of a table, and exits if they are of another commit.

  Args:
    folder: the folder of the table.

  Returns:
    The path of `results.json`, and its content: `commit`, `rows`, the processor, and the versions
    of Python and libraries.
  """
  results, now = folder / "results.json", commit()
  found = read_json(results) if results.exists() else {"commit": now, "rows": []}
  if found["commit"] != now:
    sys.exit(f"{results} is of commit {found['commit']}, and this is {now}. Name another --output.")
  found.pop("sha256", None)
  versions = {"python": platform.python_version()}
  versions |= {name: metadata.version(name) for name in _LIBRARIES}
  machine = {"processor": processor(), "cores": os.cpu_count(), "versions": versions}
  return results, found | machine


def add_row(results: Path, found: dict[str, Any], row: dict[str, Any]) -> None:
  """Adds a row, and writes the results.

  Args:
    results: path of `results.json`.
    found: its content, which is changed.
    row: the row.
  """
  found["rows"].append(row)
  write_json(results, found)
