"""Trains the MDN-RNN on latent sequences: stage 3 of a run.

Encodes the frames first. Prints held-out figures, and fails if the dynamics predict no better than
persistence (--force continues).

    python -m trainers.train_dynamics --preset=quickstart --workdir=runs/car
    python -m trainers.train_dynamics --preset=quickstart --workdir=runs/joint \\
        --override=dynamics.mixture_kind=joint
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
    figures = run.train_fit("dynamics", _ITERATION.value)
  print(f"dynamics, held out:\n{report.figures_text(figures)}")


if __name__ == "__main__":
  common.run(main)
