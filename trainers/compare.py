"""Compares methods of training a controller in the same dream, with equal wall-clock time each.

World model, starts and data are those of an iteration of the run in --workdir, which is only read.
The methods take turns, so that load from other processes affects all of them alike. The first step
of each method, which compiles it, is not timed. Noise on dreamed actions decays over the training
time. Each controller is then evaluated in the model, and in the environment on seeds that are not
used in training or validation. Writes compare.json, the table compare.md, and each controller with
its export to WORKDIR/compare (or --output). Repeat the command to continue after it was killed.

    python -m trainers.compare --workdir=runs/quickstart
    python -m trainers.compare --workdir=runs/quickstart --methods=ppo,actor_critic --seconds=120
    python -m trainers.compare --workdir=runs/quickstart --controller=ppo.horizon=40
"""

from __future__ import annotations

import dataclasses
import os

from absl import flags

from trainers import common
from trainers.errors import FlagError
from wm_tf import config as config_lib
from wm_tf.files import atomic_open, user_path
from wm_tf.runs.comparison import compare, to_text
from wm_tf.runs.workdir import WorkdirError, locked, read_json, write_json

_METHODS = flags.DEFINE_list(
  "methods", ["es", "reinforce", "ppo"], f"Some of {', '.join(config_lib.METHODS)}."
)
_SECONDS = flags.DEFINE_float("seconds", 600.0, "Training time of each method.", lower_bound=0.0)
_TURN = flags.DEFINE_float(
  "turn", 30.0, "Seconds that a method trains before the next one's turn.", lower_bound=0.0
)
_EPISODES = flags.DEFINE_integer(
  "episodes", 32, "Real episodes, and dreams, to evaluate each method on.", lower_bound=1
)
_ITERATION = flags.DEFINE_integer(
  "iteration", None, "Iteration of the world model; by default the best one.", lower_bound=0
)
_CONTROLLER = flags.DEFINE_multi_string(
  "controller", [], "Changes one of the run's controller settings: --controller=start_anywhere=0.7"
)
_OUTPUT = flags.DEFINE_string("output", None, "Folder to write to; WORKDIR/compare by default.")


def _methods() -> list[str]:
  unknown = [name for name in _METHODS.value if name not in config_lib.METHODS]
  if unknown or not _METHODS.value:
    known = ", ".join(config_lib.METHODS)
    raise FlagError(f"--methods={','.join(_METHODS.value)}: it takes some of {known}.")
  return list(dict.fromkeys(_METHODS.value))


def main() -> None:
  methods = _methods()
  source = common.read_run()
  controller = config_lib.override(source.config.controller, _CONTROLLER.value)
  source.config = dataclasses.replace(source.config, controller=controller)
  iteration = source.best_iteration() if _ITERATION.value is None else _ITERATION.value
  folder = user_path(_OUTPUT.value or source.workdir / "compare")
  folder.mkdir(parents=True, exist_ok=True)
  settings = {
    "iteration": iteration,
    "seconds": _SECONDS.value,
    "turn": _TURN.value,
    "episodes": _EPISODES.value,
    "seed": common.seed(),
    "controller": _CONTROLLER.value,
  }
  with locked(folder):
    path, claim = folder / "compare.json", folder / "settings.json"
    before = read_json(claim) if claim.exists() else settings
    changed = [name for name in settings if before[name] != settings[name]]
    if changed:
      raise WorkdirError(
        f"{folder} holds a comparison with {changed[0]} = {before[changed[0]]!r}, and now it is "
        f"{settings[changed[0]]!r}. Use another --output, or remove the folder."
      )
    write_json(claim, settings)
    results = compare(source, iteration, methods, folder, settings)
    machine = {"processors": os.cpu_count(), "load_average": os.getloadavg()}
    write_json(path, {"settings": settings, "machine": machine, "methods": results})
    text = to_text(results)
    with atomic_open(path.with_suffix(".md")) as file:
      file.write(text.encode())
  print(text)
  print(f"Wrote {path} and {path.with_suffix('.md').name}.")


if __name__ == "__main__":
  common.run(main)
