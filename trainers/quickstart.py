"""From nothing to a served planner that drives CarRacing-v3, in one command.

Collects rollouts, trains the world model, trains a controller inside it (several rounds, each on
data of the last controller), exports everything, serves it, and evaluates it on tracks that
training never saw. Leaves `results.json` and `report.html` in the workdir. Killed and started again
it goes on.

    python -m trainers.quickstart --workdir=runs/quickstart --seed=0
"""

from __future__ import annotations

import shlex
import sys

from trainers import common
from wm_tf import report
from wm_tf.runs.results import run_evaluations


def main() -> None:
  common.set_aside_other_seed()
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
