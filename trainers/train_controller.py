"""Trains a controller in the learned world model: stage 4 of a run.

The method is evolution (`--method=es`: a linear controller), gradients of dreamed returns
(`--method=actor_critic`: a multilayer perceptron and a critic), or policy gradients with TF-Agents
(`--method=ppo`, `ppo_clip` or `reinforce`: the same kinds of networks). The controller is then
evaluated on validation seeds, in the model and in the environment. The method may be changed until
the run has a controller; after that, give every trainer of the run the same method.

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
