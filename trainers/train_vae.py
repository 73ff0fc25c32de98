"""Trains the VAE on the frames collected so far: stage 2 of a run.

Prints held-out figures, and fails if the VAE has not learned (--force continues).

    python -m trainers.train_vae --preset=quickstart --workdir=runs/car
"""

from __future__ import annotations

from absl import flags

from trainers import common
from wm_tf import report

_ITERATION = flags.DEFINE_integer(
  "iteration", 0, "Fits to the rollouts up to this iteration.", lower_bound=0
)


def main() -> None:
  with common.open_run(create=False) as run:
    figures = run.train_fit("vae", _ITERATION.value)
  print(f"VAE, held out:\n{report.figures_text(figures)}")


if __name__ == "__main__":
  common.run(main)
