"""Exports a run's best controller, its planner and its world model as SavedModels.

They are written to `export/{controller,planner,world_model}/VERSION` in the workdir, with warmup
requests, for TensorFlow Serving or `make serve`.

    python -m trainers.export --workdir=runs/quickstart
    python -m trainers.export --workdir=runs/quickstart --finished --version=2
"""

from __future__ import annotations

from absl import flags

from trainers import common
from wm_tf.runs.publishing import export_run

_VERSION = flags.DEFINE_integer("version", 1, "Version folder to write.", lower_bound=1)
_FINISHED = flags.DEFINE_bool(
  "finished",
  False,
  "Export the result of trainers.finish as the controller, and as the planner's proposal.",
)


def main() -> None:
  with common.open_run(create=False) as run:
    export_run(run, _VERSION.value, _FINISHED.value)
    print(f"Exported to {run.workdir / 'export'}; serve it with make serve WORKDIR={run.workdir}")


if __name__ == "__main__":
  common.run(main)
