"""Runs the quickstart on several seeds and makes one table of what it gives.

    python -m benchmarks.quickstart_seeds --seeds=0,1,2,3,4
    python -m benchmarks.quickstart_seeds --seeds=0,1,2 --override=collect.heuristic=0.0

Each row is a run of `trainers.quickstart`, and `trainers.evaluate` of its planner on the tracks of
its controller, so that the two are compared in pairs. The minutes are those of the quickstart, with
all of its stages and evaluations, but without this second evaluation. A killed call is repeated:
finished rows are kept, and the interrupted run goes on, without minutes in the table. Rows of
another commit are refused.
"""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks._runs import add_row, call, minutes_text, results_of_commit, timed_call
from wm_tf.files import read_json


def _arguments() -> argparse.Namespace:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--seeds", default="0,1,2,3,4", help="seeds of the runs; or with spaces")
  parser.add_argument("--environment", default="car_racing")
  parser.add_argument("--preset", default="quickstart")
  parser.add_argument("--override", action="append", default=[], help="for every run")
  parser.add_argument("--output", default="runs/quickstart_seeds", help="folder of runs and table")
  return parser.parse_args()


def measure(seed: int, folder: Path, flags: Sequence[str]) -> dict[str, Any]:
  """Runs one quickstart, or goes on with it, and drives its planner on its controller's tracks.

  Args:
    seed: seed of the run.
    folder: workdir of the run.
    flags: environment, preset and overrides, as flags.

  Returns:
    The row.
  """
  flags = [*flags, f"--seed={seed}"]
  minutes = timed_call("trainers.quickstart", folder, *flags)
  results = read_json(folder / "results.json")
  controller, output = results["controller_in_environment"], folder / "planner_pairs.json"
  tracks = ",".join(map(str, controller["seeds"]))
  evaluation = ("--agent=planner", "--noin_model", f"--seeds={tracks}", f"--output={output}")
  call("trainers.evaluate", *flags, f"--workdir={folder}", *evaluation)
  planner = read_json(output)["planner_in_environment"]
  return {
    "command": f"python -m trainers.quickstart {shlex.join(flags)}",
    "seed": seed,
    **minutes,
    "rounds": [row["controller_in_environment"]["mean"] for row in results["iterations"]],
    "chosen": results["chosen_iteration"],
    "data": results["data"],
    "tracks": controller["seeds"],
    "controller": controller["returns"],
    "in_the_model": results["controller_in_model"]["mean"],
    "planner": planner["returns"],
  }


def _with_spread(values: Sequence[float]) -> str:
  spread = np.std(values, ddof=1) if len(values) > 1 else 0.0
  return f"{np.mean(values):.0f} ± {spread:.0f}"


def _difference(row: dict[str, Any]) -> np.ndarray:
  return np.subtract(row["planner"], row["controller"])


def table(rows: Sequence[dict[str, Any]]) -> str:
  """Makes a Markdown table.

  Args:
    rows: results of `measure`.

  Returns:
    One line for each run, with the standard deviation over episodes and the standard error of the
    paired difference, and one line with the mean of all runs and the standard deviation over them.
  """
  lines = [
    "| seed | controller | planner | planner minus controller | n | in the model | minutes "
    "| CPU minutes |",
    "| --- | --- | --- | --- | --- | --- | --- | --- |",
  ]
  for row in rows:
    difference, n = _difference(row), len(row["controller"])
    error = np.std(difference, ddof=1) / np.sqrt(n) if n > 1 else 0.0
    lines.append(
      f"| {row['seed']} | {_with_spread(row['controller'])} | {_with_spread(row['planner'])} "
      f"| {np.mean(difference):+.0f} ± {error:.0f} | {n} | {row['in_the_model']:.0f} "
      f"| {minutes_text(row['minutes'])} | {minutes_text(row['cpu_minutes'])} |"
    )
  if len(rows) > 1:
    controller, planner = (
      [np.mean(row[agent]) for row in rows] for agent in ("controller", "planner")
    )
    difference = [np.mean(_difference(row)) for row in rows]
    in_model = np.mean([row["in_the_model"] for row in rows])
    lines.append(
      f"| **{len(rows)} seeds** | **{_with_spread(controller)}** | **{_with_spread(planner)}** "
      f"| {np.mean(difference):+.0f} ± {np.std(difference, ddof=1) / np.sqrt(len(rows)):.0f} | "
      f"| {in_model:.0f} | {minutes_text(*(row['minutes'] for row in rows))} "
      f"| {minutes_text(*(row['cpu_minutes'] for row in rows))} |"
    )
  return "\n".join(lines)


def main() -> None:
  options = _arguments()
  folder = Path(options.output).expanduser().resolve()
  flags = [f"--environment={options.environment}", f"--preset={options.preset}"]
  flags += [f"--override={text}" for text in options.override]
  results, found = results_of_commit(folder)
  for seed in map(int, options.seeds.replace(",", " ").split()):
    if seed in [row["seed"] for row in found["rows"]]:
      continue
    add_row(results, found, measure(seed, folder / f"seed_{seed}", flags))
    print(table(found["rows"]), flush=True)
  (folder / "table.md").write_text(table(found["rows"]) + "\n")


if __name__ == "__main__":
  main()
