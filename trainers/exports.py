"""A run's exports: writing them, and serving them in a process of their own."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from trainers.stages import Run
from trainers.workdir import say
from wm_tf import config as config_lib
from wm_tf import export


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


@contextlib.contextmanager
def serve(exports: Path, timeout: float = 120.0) -> Iterator[str]:
  """Serves the exported models in a process of its own; yields `host:port`.

  Args:
    exports: folder with `planner`, `controller` and `world_model`.
    timeout: seconds that the server may take to end.

  Raises:
    RuntimeError: if the server does not come up; with what it said.
  """
  names = ("planner", "controller", "world_model")
  config = exports / "models.config"
  entries = "".join(
    f"  config {{ name: '{name}' base_path: '{(exports / name).resolve()}' "
    "model_platform: 'tensorflow' }\n"
    for name in names
  )
  config.write_text(f"model_config_list {{\n{entries}}}\n")
  log = exports / "server.log"
  with open(log, "w") as errors:
    process = subprocess.Popen(
      [
        *(sys.executable, "-m", "serving.server", "--port=0", f"--model_config_file={config}"),
        "--exit_with_stdin",  # It ends even if this process is killed.
      ],
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      stderr=errors,
      text=True,
      env={**os.environ, "PYTHONPATH": os.pathsep.join(p or os.getcwd() for p in sys.path)},
    )
  try:
    line = process.stdout.readline()
    if " at " not in line:
      raise RuntimeError(f"The model server did not start; it said: {log.read_text()[-2000:]}")
    yield line.split(" at ")[1].split()[0]
  finally:
    process.terminate()
    try:
      process.wait(timeout)
    except subprocess.TimeoutExpired:
      process.kill()
      process.wait()
