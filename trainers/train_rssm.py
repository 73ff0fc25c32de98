"""Trains the recurrent state-space model on the rollouts collected so far: stage 2 of its runs.

Prints held-out figures and fails if the model has not learned (--force goes on).

    python -m trainers.train_rssm --preset=dreamer --workdir=runs/pendulum
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
    figures = run.train_fit("rssm", _ITERATION.value)
  for section, values in figures.items():
    print(f"{section}, held out:\n{report.figures_text(values)}")


if __name__ == "__main__":
  common.run(main)
