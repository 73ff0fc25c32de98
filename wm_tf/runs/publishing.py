"""Exports the models of a run, and serves them in a separate process."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from wm_tf import config as config_lib
from wm_tf import export
from wm_tf.runs.run import Run
from wm_tf.runs.workdir import WorkdirError, read_json, say


def export_run(run: Run, version: int = 1, finished: bool = False) -> None:
  """Exports the models of a run that are not yet exported under a version.

  Args:
    run: the run.
    version: version folder of the controller, the planner and the world model.
    finished: whether to export the controller as it was finished in the real environment.

  Raises:
    WorkdirError: if the version exists with the other setting of `finished`, or is incomplete.
    DamagedFileError: if a file of an existing version has changed.
  """
  best = run.best_iteration()
  folder = run.workdir / "export"
  details = {"config": config_lib.to_dict(run.config), "seed": run.seed, "iteration": best}
  details["finished"] = finished
  for name in ("controller", "planner"):
    there = folder / name / str(version)
    if there.exists():
      if _config(there).get("finished", False) != finished:
        raise WorkdirError(
          f"{there} is {'not ' if finished else ''}of the finished controller; choose another "
          "--version."
        )
    else:
      agent = run.agent(name, best, finished)
      path = export.export_agent(agent, folder / name, version, config=details)
      say(f"Exported {path}.")
  if (there := folder / "world_model" / str(version)).exists():
    _config(there)
  else:
    path = export.export_world_model(
      run.world_model(best), run.spec, folder / "world_model", version, config=details
    )
    say(f"Exported {path}.")


def _config(there: Path) -> dict[str, Any]:
  """Returns the `config.json` of an existing version, after checking all of its files."""
  remedy = f"Remove {there}; the same command exports it again."
  for path in (there / "saved_model.pb", there / "config.json"):
    if not path.exists():
      raise WorkdirError(f"{path} is missing. {remedy}")
  export.version_folder(there)
  return read_json(there / "config.json")


@contextlib.contextmanager
def serve(exports: Path) -> Iterator[str]:
  """Serves exported models in a separate process.

  Args:
    exports: folder with `planner`, `controller` and `world_model`.

  Yields:
    The address, `host:port`.

  Raises:
    WorkdirError: if the server does not start; the message has the server's output.
  """
  from serving import process  # Serving is an extra.

  names = ("planner", "controller", "world_model")
  config = exports / "models.config"
  entries = "".join(
    f"  config {{ name: '{name}' base_path: '{(exports / name).resolve()}' "
    "model_platform: 'tensorflow' }\n"
    for name in names
  )
  config.write_text(f"model_config_list {{\n{entries}}}\n")
  log = exports / "server.log"
  with contextlib.ExitStack() as stack:
    try:
      serving = process.serve(f"--model_config_file={config}", log=log, timeout=120.0)
      server = stack.enter_context(serving)
    except RuntimeError as error:
      raise WorkdirError(str(error)) from error
    yield server.target
