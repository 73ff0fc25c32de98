"""Exports a run's best controller, its planner and its world model as SavedModels.

They go to `export/{controller,planner,world_model}/VERSION` in the workdir, complete with warmup
requests, ready for TensorFlow Serving or `make serve`.

    python -m trainers.export --preset=quickstart --workdir=runs/quickstart
"""

from __future__ import annotations

from absl import flags

from trainers import common
from trainers.stages import Run, say
from wm_tf import config as config_lib
from wm_tf import export

_VERSION = flags.DEFINE_integer("version", 1, "Version folder to write.", lower_bound=1)


def export_run(run: Run, version: int = 1) -> None:
  """Exports what is not exported yet under this version."""
  best = run.best_iteration()
  folder = run.workdir / "export"
  details = {"config": config_lib.to_dict(run.config), "seed": run.seed, "iteration": best}
  for name in ("controller", "planner"):
    if not (folder / name / str(version)).exists():
      path = export.export_agent(run.agent(name, best), folder / name, version, config=details)
      say(f"Exported {path}.")
  if not (folder / "world_model" / str(version)).exists():
    path = export.export_world_model(
      run.world_model(best), run.spec, folder / "world_model", version, config=details
    )
    say(f"Exported {path}.")


def main() -> None:
  with common.open_run(create=False) as run:
    export_run(run, _VERSION.value)
    print(f"Exported to {run.workdir / 'export'}; serve it with make serve WORKDIR={run.workdir}")


if __name__ == "__main__":
  common.run(main)
