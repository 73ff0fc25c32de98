"""Trains a world model and a controller online, while the controller collects data.

The preset `dreamer` trains a recurrent state-space model (RSSM) and an actor-critic from random
first actions, for any environment. Repeat the command with the same flags to continue after it was
killed; the results are those of an uninterrupted run.

    python -m trainers.train_agent --environment=gym:CartPole-v1 --workdir=runs/cartpole
    python -m trainers.train_agent --environment=car_racing --override=online.num_steps=50000

The folder of the run is that of `trainers.iterate`: `trainers.export`, `trainers.evaluate` and
`trainers.doctor` take it. `trainers.quickstart --preset=dreamer` runs all of them.
"""

from __future__ import annotations

from trainers import common
from trainers.errors import FlagError
from wm_tf import report


def main() -> None:
  run = common.open_run()
  if not run.config.online.num_steps:
    raise FlagError(
      "This configuration has online.num_steps=0, which is training by iterations. Use "
      "trainers.iterate, or --preset=dreamer."
    )
  with run:
    (validation,) = run.train()
    print(report.scores_text(validation))


if __name__ == "__main__":
  common.set_default(preset="dreamer", workdir="runs/dreamer")
  common.run(main)
