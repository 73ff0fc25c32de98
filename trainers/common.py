"""Shared by the trainers: flags, opening of runs, and error messages."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

from absl import app, flags
from absl import logging as absl_logging

from trainers.errors import one_line_errors
from wm_tf import config as config_lib
from wm_tf.files import user_path
from wm_tf.runs.folder import Description, no_run, read_description
from wm_tf.runs.run import Run
from wm_tf.runs.workdir import WorkdirError

_PRESET = flags.DEFINE_enum(
  "preset", "default", config_lib.preset_names(), "Configuration to start from."
)
_CONFIG = flags.DEFINE_string(
  "config", None, "A run.json whose configuration is used instead of a preset."
)
_WORKDIR = flags.DEFINE_string(
  "workdir", "runs/default", "Folder of the run. Repeat a command to continue a killed run."
)
_SEED = flags.DEFINE_integer("seed", 0, "Seed of all random numbers.", lower_bound=0)
_ENVIRONMENT = flags.DEFINE_string(
  "environment",
  None,
  "A registered name (car_racing, car_racing_3d), gym:ID (such as gym:Pendulum-v1), "
  "dmc:cartpole_swingup, or package.module:Factory. The default is car_racing.",
)
_OVERRIDE = flags.DEFINE_multi_string(
  "override",
  [],
  "Changes one field: --override=dynamics.num_mixtures=8. The run.json of a run has all fields.",
)
_FAMILY = flags.DEFINE_string(
  "family", None, "The kind of world model, such as rssm (without --preset: --preset=dreamer)."
)
_METHOD = flags.DEFINE_enum(
  "method", None, config_lib.METHODS, "The same as --override=controller.method=..."
)
_FORCE = flags.DEFINE_bool("force", False, "Continue past a failed quality gate, with a warning.")
_DESCRIBING = (_PRESET, _CONFIG, _ENVIRONMENT, _OVERRIDE, _FAMILY, _METHOD)  # A configuration.


def set_default(**values) -> None:
  """Sets the defaults of shared flags for one trainer.

  Args:
    **values: name of the flag to its default.
  """
  for name, value in values.items():
    flags.FLAGS.set_default(name, value)


def config() -> config_lib.ExperimentConfig:
  """Returns the configuration that the flags describe.

  Raises:
    ConfigError: if a flag's value is invalid.
  """
  overrides, preset = list(_OVERRIDE.value), _PRESET.value
  if _FAMILY.value is not None:
    overrides.insert(0, f"family={_FAMILY.value}")
    preset = "dreamer" if _FAMILY.value == "rssm" and not _PRESET.present else preset
  if _METHOD.value is not None:
    overrides.append(f"controller.method={_METHOD.value}")
  if _CONFIG.value is None:
    return config_lib.make_config(preset, overrides, _ENVIRONMENT.value)
  described = read_description(user_path(_CONFIG.value))
  if described is None:
    raise config_lib.ConfigError(f"--config={_CONFIG.value} is no run.json.")
  if _ENVIRONMENT.value is not None:
    overrides.insert(0, f"environment={_ENVIRONMENT.value}")
  return config_lib.override(described.config, overrides)


def workdir() -> Path:
  """Returns the value of `--workdir`."""
  return user_path(_WORKDIR.value)


def seed() -> int:
  """Returns the value of `--seed`."""
  return _SEED.value


def open_run(create: bool = True) -> Run:
  """Returns the run that the flags describe, a context manager.

  Args:
    create: whether the workdir may be created; if not, a run's own settings are the defaults.
  """
  there = None if create or _is_described() else read_description(workdir() / "run.json")
  mine = there or Description(config(), seed())
  chosen = seed() if _SEED.present else mine.seed
  return Run(_WORKDIR.value, config=mine.config, seed=chosen, force=_FORCE.value, create=create)


def _is_described() -> bool:
  return any(flag.present for flag in _DESCRIBING)


def read_run() -> Run:
  """Returns the run in --workdir with its own configuration and seed, for reading only.

  Do not enter it as a context.

  Raises:
    WorkdirError: if there is no run, or the flags describe another configuration.
  """
  folder = workdir()
  if (there := read_description(folder / "run.json")) is None:
    raise no_run(folder)
  if _is_described() and config() != there.config:
    raise WorkdirError(
      f"{folder} holds a run of another configuration. Leave out --preset, --config, --family, "
      "--environment, --method and --override: they are taken from the run."
    )
  return Run(folder, config=there.config, seed=there.seed)


def run(main: Callable[[], None]) -> None:
  """Runs the `main` function of a trainer. An expected error ends it with one line and exit code 1.

  Args:
    main: the function, called when the flags are parsed.
  """
  # Makes --help show them.
  for flag in (*_DESCRIBING, _WORKDIR, _SEED, _FORCE):
    flags.FLAGS.register_key_flag_for_module(sys.argv[0], flags.FLAGS[flag.name])
  sys.stdout.reconfigure(line_buffering=True)  # Keeps the order of stdout and stderr in a log.

  def wrapped(argv: list[str]) -> None:
    if len(argv) > 1:
      raise app.UsageError(f"Unexpected arguments {argv[1:]}; flags look like --workdir=PATH.")
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    absl_logging.set_verbosity(absl_logging.WARNING)
    warnings.filterwarnings("ignore", module="tensorflow_probability")
    with one_line_errors():
      main()

  app.run(wrapped)
