"""Runs the whole loop: collect, fit, dream; then collect with the controller, refit, dream again.

What it has done it keeps: killed and started again with the same flags it goes on, and ends as it
would have.

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
