"""Trains a controller inside the learned model: stage 4 of a run.

By evolution (`--method=es`: a linear controller), by imagination (`--method=actor_critic`: a
multilayer perceptron and its critic, by the gradient of dreamed returns), or by policy gradients
with TF-Agents (`--method=ppo`, `ppo_clip` or `reinforce`: networks as imagination's). Then plays it
on validation seeds, in the model and in the environment. The method may be chosen until a run has a
controller; from then on give every trainer of the run the same.

    python -m trainers.train_controller --preset=quickstart --workdir=runs/car
    python -m trainers.train_controller --preset=quickstart --workdir=runs/car_ppo --method=ppo
"""

from __future__ import annotations

from absl import flags

from trainers import common
from wm_tf import report

_ITERATION = flags.DEFINE_integer(
  "iteration", 0, "Trains in the dream of this iteration.", lower_bound=0
)


def main() -> None:
  with common.open_run(create=False) as run:
    run.train_controller(_ITERATION.value)
    print(report.scores_text(run.validate(_ITERATION.value)))


if __name__ == "__main__":
  common.run(main)
