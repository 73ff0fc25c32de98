"""Runs all iterations: collects rollouts, fits the world model, and trains a controller in it.

Iterations after the first collect rollouts with the previous controller. Finished stages are kept.
Repeat the command with the same flags to continue after it was killed; the results are those of an
uninterrupted run.

    python -m trainers.iterate --preset=quickstart --workdir=runs/car
"""

from __future__ import annotations

from trainers import common
from wm_tf import report


def main() -> None:
  with common.open_run() as run:
    for validation in run.train():
      print(report.scores_text(validation))
    print(f"Best on validation seeds: iteration {run.best_iteration()}.")


if __name__ == "__main__":
  common.run(main)
