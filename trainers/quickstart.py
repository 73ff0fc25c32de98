"""Trains, serves and evaluates a planner for an environment, in one command.

Collects rollouts, trains the world model, and trains a controller in it (several iterations, each
on data of the previous controller). Then exports and serves the models, and evaluates them on seeds
that are not used in training. Writes `results.json` and `report.html` to the workdir. Repeat the
command to continue after it was killed. The default environment is CarRacing-v3.

    python -m trainers.quickstart --workdir=runs/quickstart --seed=0
    python -m trainers.quickstart --environment=gym:Pendulum-v1 --workdir=runs/pendulum
"""

from __future__ import annotations

import shlex
import sys

from trainers import common
from wm_tf import report
from wm_tf.runs.folder import Description, set_aside
from wm_tf.runs.results import run_evaluations


def main() -> None:
  set_aside(common.workdir(), Description(common.config(), common.seed()))
  with common.open_run() as run:
    run.train()
    results = run_evaluations(
      run, shlex.join(["python", "-m", "trainers.quickstart", *sys.argv[1:]])
    )
    print(report.terminal_table(results))
    print(f"\n{run.workdir / 'results.json'}\n{run.workdir / 'report.html'}")


if __name__ == "__main__":
  common.set_default(preset="quickstart", workdir="runs/quickstart")
  common.run(main)
