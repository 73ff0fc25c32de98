"""Exports a run's best controller, its planner and its world model as SavedModels.

They go to `export/{controller,planner,world_model}/VERSION` in the workdir, complete with warmup
requests, ready for TensorFlow Serving or `make serve`.

    python -m trainers.export --preset=quickstart --workdir=runs/quickstart
"""

from __future__ import annotations

from absl import flags

from trainers import common
from trainers.exports import export_run

_VERSION = flags.DEFINE_integer("version", 1, "Version folder to write.", lower_bound=1)


def main() -> None:
  with common.open_run(create=False) as run:
    export_run(run, _VERSION.value)
    print(f"Exported to {run.workdir / 'export'}; serve it with make serve WORKDIR={run.workdir}")


if __name__ == "__main__":
  common.run(main)
