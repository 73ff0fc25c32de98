"""Collects rollouts from the environment into TFRecords: stage 1 of a run.

Iteration 0 explores (uniform, held, Brownian, scripted; see `collect` in the configuration). Later
iterations use the controller of the previous iteration with noise. Repeat the command to continue
after the last complete shard.

    python -m trainers.collect --preset=quickstart --workdir=runs/car
    python -m trainers.collect --workdir=runs/car --override=collect.num_episodes=300
"""

from __future__ import annotations

from absl import flags

from trainers import common

_ITERATION = flags.DEFINE_integer(
  "iteration",
  0,
  "Iteration to collect; above 0 it needs the controller of the previous one.",
  lower_bound=0,
)


def main() -> None:
  with common.open_run(create=_ITERATION.value == 0) as run:
    run.collect(_ITERATION.value)


if __name__ == "__main__":
  common.run(main)
