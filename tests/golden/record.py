"""Records the goldens with the present code: `python -m tests.golden.record [presets|run|...]`."""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

from tests.golden import commands
from tests.golden.commands import ACTOR_CRITIC, GOLDEN, METHODS, MODELS, PRETRAINED, RUN
from tests.golden.comparing import read_json
from tests.trainers.launcher import Launcher
from wm_tf import config as config_lib

_PARTS = ("presets", "run", "exports", "pretrained")


def record_presets() -> None:
  presets = {
    name: dict(config_lib.flatten(config_lib.make_config(name)))
    for name in config_lib.preset_names()
  }
  _write("presets.json", presets)


def record_run(launcher: Launcher, folder: Path) -> None:
  """Makes `run/` and `actor_critic/`; the exports have to be recorded after it."""
  workdirs = {method: folder / method for method in METHODS}
  commands.collect(launcher, workdirs["es"])
  commands.fit(launcher, workdirs["es"])
  shutil.copytree(workdirs["es"], workdirs["actor_critic"])
  for method, workdir in workdirs.items():
    commands.train_controller(launcher, workdir, method)
  for golden in (RUN, ACTOR_CRITIC):
    shutil.rmtree(golden, ignore_errors=True)
  commands.copy_run(workdirs["es"], RUN)
  commands.copy_run(workdirs["actor_critic"] / "controller", ACTOR_CRITIC / "controller")
  shutil.copy(workdirs["actor_critic"] / "run.json", ACTOR_CRITIC)


def record_exports(launcher: Launcher, folder: Path) -> None:
  golden: dict[str, Any] = {}
  for method in METHODS:
    workdir = folder / f"exported_{method}"
    commands.restore_run(method, workdir)
    exports = commands.export(launcher, workdir)
    golden[method] = {name: _model(exports / name / "1") for name in MODELS}
    for name in ("controller", "planner") if method == "es" else ():
      output = folder / "scores.json"
      commands.evaluate(launcher, name, output, *commands.FLAGS, workdir=workdir)
      golden[method][name]["scores"] = read_json(output)
  _write("exports.json", golden)


def record_pretrained(launcher: Launcher, folder: Path) -> None:
  golden = {name: _model(PRETRAINED / name / "1") for name in ("controller", "planner")}
  output = folder / "scores.json"
  commands.evaluate(launcher, str(PRETRAINED / "controller"), output)
  golden["controller"]["scores"] = read_json(output)
  _write("pretrained.json", golden)


def _model(path: Path) -> dict[str, Any]:
  from tests.golden import answers  # TensorFlow takes seconds to load; presets need none of it.

  answer = answers.world_model_answers if path.parent.name == "world_model" else None
  return {
    "files": answers.files(path),
    "signatures": answers.describe(path),
    "answers": (answer or answers.agent_answers)(path),
  }


def _write(name: str, values: dict[str, Any]) -> None:
  (GOLDEN / name).write_text(json.dumps(values, indent=1, sort_keys=True) + "\n")
  print(f"Wrote {GOLDEN / name}.")


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("parts", nargs="*", choices=[*_PARTS, []], help="by default all")
  parts = parser.parse_args().parts or _PARTS
  with tempfile.TemporaryDirectory() as temporary:
    folder = Path(temporary)
    launcher = Launcher(folder)
    if "presets" in parts:
      record_presets()
    for name, record in (
      ("run", record_run),
      ("exports", record_exports),
      ("pretrained", record_pretrained),
    ):
      if name in parts:
        record(launcher, folder)


if __name__ == "__main__":
  main()
