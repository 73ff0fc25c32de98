"""Trains agents on several environments and seeds, and makes one table of their returns.

    python -m benchmarks.learning --environments=gym:CartPole-v1,gym:Pendulum-v1 --seeds=0,1,2
    python -m benchmarks.learning --environments=car_racing --seeds=0,1,2,3,4 --episodes=32

Each row is a run of `trainers.train_agent` in a folder of its own, and `trainers.evaluate` of its
controller on seeds that training never used. A killed call is repeated: finished rows are kept, and
the interrupted run goes on, without minutes in the table. Rows of another commit are refused.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks._optimum import pendulum_returns
from benchmarks._runs import add_row, call, minutes_text, results_of_commit, timed_call
from wm_tf.envs import env_spec
from wm_tf.files import read_json

# Decisions of a run; others have those of the preset.
_STEPS = {
  "gym:CartPole-v1": 3_000,
  "gym:Pendulum-v1": 5_000,
  "gym:Acrobot-v1": 10_000,
  "gym:MountainCarContinuous-v0": 10_000,
}


def _arguments() -> argparse.Namespace:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--environments", required=True, help="names, separated by commas")
  parser.add_argument("--seeds", default="0,1,2", help="seeds of the runs, separated by commas")
  parser.add_argument("--preset", default="dreamer")
  parser.add_argument("--override", action="append", default=[], help="for every run")
  parser.add_argument("--episodes", type=int, default=20, help="of the evaluation of each run")
  parser.add_argument("--output", default="runs/learning", help="folder of the runs and the table")
  return parser.parse_args()


def measure(
  environment: str, seed: int, folder: Path, preset: str, overrides: Sequence[str], episodes: int
) -> dict[str, Any]:
  """Trains and evaluates one run, or goes on with it.

  Args:
    environment: name of the environment.
    seed: seed of the run.
    folder: workdir of the run.
    preset: name of the preset.
    overrides: changes of its settings.
    episodes: number of episodes of the evaluation.

  Returns:
    The row.
  """
  steps = [f"online.num_steps={_STEPS[environment]}"] if environment in _STEPS else []
  flags = [f"--environment={environment}", f"--preset={preset}", f"--seed={seed}"]
  flags += [f"--override={text}" for text in (*steps, *overrides)]
  minutes = timed_call("trainers.train_agent", folder, *flags)
  output = folder / "learning.json"
  evaluation = (f"--episodes={episodes}", "--noin_model", f"--output={output}")
  call("trainers.evaluate", *flags, f"--workdir={folder}", "--agent=controller", *evaluation)
  scores = read_json(output)["controller_in_environment"]
  steps_done = max(
    json.loads(line)["step"] for line in (folder / "online/metrics.jsonl").read_text().splitlines()
  )
  options = read_json(folder / "run.json")["config"]["environment_options"]
  row = {
    "command": f"python -m trainers.train_agent {' '.join(flags)}",
    "environment": environment,
    "seed": seed,
    "steps": steps_done,
    "frames": steps_done * env_spec(environment, **options).action_repeat,
    **minutes,
    **{key: scores[key] for key in ("mean", "std", "n", "returns", "seeds")},
  }
  if environment == "gym:Pendulum-v1":
    row["optimum"] = pendulum_returns(scores["seeds"])
  return row


def table(rows: Sequence[dict[str, Any]]) -> str:
  """Makes a Markdown table: one line for each run, and one for each environment.

  Args:
    rows: results of `measure`.

  Returns:
    The text.
  """
  lines = [
    "| environment | seed | steps | frames | return | n | minutes | CPU minutes |",
    "| --- | --- | --- | --- | --- | --- | --- | --- |",
  ]
  for environment in dict.fromkeys(row["environment"] for row in rows):
    mine = [row for row in rows if row["environment"] == environment]
    for row in mine:
      best = f" (optimum {np.mean(row['optimum']):.0f})" if "optimum" in row else ""
      lines.append(
        f"| {environment} | {row['seed']} | {row['steps']:,} | {row['frames']:,} "
        f"| {row['mean']:.0f} ± {row['std']:.0f}{best} | {row['n']} "
        f"| {minutes_text(row['minutes'])} | {minutes_text(row['cpu_minutes'])} |"
      )
    if len(mine) > 1:
      means = [row["mean"] for row in mine]
      lines.append(
        f"| **{environment}** | {len(mine)} seeds | | "
        f"| **{np.mean(means):.0f} ± {np.std(means):.0f}** over seeds | | | |"
      )
  return "\n".join(lines)


def main() -> None:
  options = _arguments()
  folder = Path(options.output).expanduser().resolve()
  results, found = results_of_commit(folder)
  for environment in options.environments.split(","):
    for seed in map(int, options.seeds.split(",")):
      done = [(row["environment"], row["seed"]) for row in found["rows"]]
      if (environment, seed) in done:
        continue
      name = "".join(c if c.isalnum() else "_" for c in environment)
      row = measure(
        environment,
        seed,
        folder / f"{name}_{seed}",
        options.preset,
        options.override,
        options.episodes,
      )
      add_row(results, found, row)
      print(table(found["rows"]), flush=True)
  (folder / "table.md").write_text(table(found["rows"]) + "\n")


if __name__ == "__main__":
  main()
