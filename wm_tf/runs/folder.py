"""The folder of a run: its description, the paths of its parts, and the time that they took.

workdir/
  run.json               configuration and seed; a call with others is refused
  seconds.json           time spent, by stage, over all restarts
  data/000, 000_random   rollouts of iteration 0, from official and from random starts
  vae/, dynamics/, ...   fits of the world model: see its family, such as `two_stage`
  controller/000         trained in the dreams of iteration 0, and its validation returns
  finish/000             the same controller, finished in the real environment (trainers.finish)
  export/                SavedModels of the chosen controller, its planner, its world model
  results.json, report.html
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from wm_tf import config as config_lib
from wm_tf.data import rollouts
from wm_tf.files import DamagedFileError
from wm_tf.runs.workdir import WorkdirError, locked, read_json, say, write_json

_SECONDS_BETWEEN_RECORDS = 30.0  # Largest time that is not recorded if a stage is killed.


class Description(NamedTuple):
  """The configuration and the seed of a run, as in its `run.json`."""

  config: config_lib.ExperimentConfig
  seed: int

  def to_dict(self) -> dict[str, Any]:
    """Returns the content of `run.json`; JSON-able."""
    return {"config": config_lib.to_dict(self.config), "seed": self.seed}


def read_description(path: Path) -> Description | None:
  """Reads a `run.json`, which may be of an older version.

  Args:
    path: the file.

  Returns:
    The configuration and the seed; None if there is no such file.

  Raises:
    WorkdirError: if the file is damaged, or is not a `run.json`.
  """
  if not path.exists():
    return None
  try:
    values = read_json(path)
    config = config_lib.from_dict(config_lib.completed(values["config"]))
    return Description(config, values["seed"])
  except DamagedFileError as error:
    raise WorkdirError(str(error)) from error
  except (KeyError, TypeError, AttributeError) as error:
    raise WorkdirError(f"{path} is no run.json: it lacks configuration or seed.") from error
  except config_lib.ConfigError as error:
    raise WorkdirError(f"{path}: {error}") from error


def set_aside(workdir: Path, mine: Description) -> None:
  """Moves a run of another seed from `workdir` to `WORKDIR.seedN`, N being its seed.

  If `WORKDIR.seedN` of the requested seed holds the requested run, it is moved back to `workdir`.
  Runs of another configuration are left alone.

  Args:
    workdir: the folder of the run.
    mine: the requested run.

  Raises:
    WorkdirError: if the folder to move to exists.
  """
  there = read_description(workdir / "run.json")
  if there and there != mine and there.config == mine.config:
    aside = workdir.with_name(f"{workdir.name}.seed{there.seed}")
    if aside.exists():
      raise WorkdirError(
        f"{workdir} holds the run of seed {there.seed}, and {aside} exists already. Remove one "
        "of them, or use another --workdir."
      )
    with locked(workdir):
      workdir.rename(aside)
    say(f"The run of seed {there.seed} in {workdir} is now in {aside}.")
  back = workdir.with_name(f"{workdir.name}.seed{mine.seed}")
  if not workdir.exists() and read_description(back / "run.json") == mine:
    with locked(back):
      back.rename(workdir)
    say(f"The run of seed {mine.seed} in {back} is now in {workdir}.")


class RunFolder:
  """The configuration, the seed and the workdir of a run.

  Use it as a context manager, which locks the workdir: a second process would overwrite its files,
  and is refused with the process id of the first.
  """

  def __init__(
    self,
    workdir: str | os.PathLike,
    config: config_lib.ExperimentConfig,
    seed: int,
    create: bool = True,
  ):
    """Describes a run; entering the context opens its workdir.

    Args:
      workdir: the folder.
      config: must equal the configuration that the workdir was made with.
      seed: seed of all random numbers; must equal that of the workdir, too.
      create: whether the workdir may be created.
    """
    self.workdir, self.config, self.seed = Path(workdir).expanduser(), config, seed
    self._create = create
    self._lock = contextlib.ExitStack()
    self._entered = 0

  def __enter__(self) -> RunFolder:
    """Opens or creates the workdir. The context may be entered several times.

    Raises:
      WorkdirError: if the workdir belongs to another run, or another process uses it.
    """
    if self._entered:
      self._entered += 1
      return self
    if not self._create and not (self.workdir / "run.json").exists():
      raise no_run(self.workdir)
    self.workdir.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as lock:
      lock.enter_context(locked(self.workdir))
      self._claim()
      self._lock = lock.pop_all()
    self._entered = 1
    return self

  def __exit__(self, *_) -> None:
    self._entered -= 1
    if not self._entered:
      self._lock.close()

  def _claim(self) -> None:
    path, mine = self.workdir / "run.json", Description(self.config, self.seed)
    there = before = read_description(path)
    if there is not None:
      later = {"finish": self.config.finish}  # May change; `Finish` compares it itself.
      if not (self.workdir / "controller").exists():
        later["controller"] = self.config.controller  # May change until a controller exists.
      there = there._replace(config=dataclasses.replace(there.config, **later))
    if there is None:
      write_json(path, mine.to_dict())
      if (self.workdir / "data").exists():
        say(f"{path} was missing. It is written again from these flags.")
    elif there == mine:
      if before.config.controller != mine.config.controller:
        write_json(path, mine.to_dict())
    else:
      old, new = (
        dict(config_lib.flatten(run.config)) | {"seed": run.seed} for run in (there, mine)
      )
      changed = [name for name in old if old[name] != new[name]]
      raise WorkdirError(
        f"{self.workdir} holds a run with {changed[0]} = {old[changed[0]]!r}, and now it is "
        f"{new[changed[0]]!r}"
        + (f" ({len(changed) - 1} more differ)" if len(changed) > 1 else "")
        + ". Use another --workdir, the old settings, or remove the folder."
      )

  # --- Paths --------------------------------------------------------------------------------

  def path(self, stage: str, iteration: int) -> Path:
    """Returns the folder of a stage at an iteration.

    Args:
      stage: name of the stage, such as `data`, `vae` or `controller`.
      iteration: the iteration.

    Returns:
      The folder, which need not exist.
    """
    return self.workdir / stage / f"{iteration:03d}"

  def data_folders(self, iteration: int) -> list[Path]:
    """Returns all rollout folders up to an iteration.

    Args:
      iteration: the last iteration.

    Returns:
      The folders, the oldest first.

    Raises:
      WorkdirError: if there is none, or one has lost its manifest.
    """
    folders = []
    for i in range(iteration + 1):
      for folder in (self.path("data", i), self.workdir / "data" / f"{i:03d}_random"):
        if (folder / rollouts.MANIFEST).exists():
          folders.append(folder)
        elif any(folder.glob("shard-*.tfrecord")):  # Do not leave out its data silently.
          lost = folder / rollouts.MANIFEST
          raise WorkdirError(
            f"{lost} is missing, but its shards exist. Run trainers.collect to make both again."
          )
    if not folders:
      raise WorkdirError(f"{self.workdir}/data holds no rollouts; run trainers.collect first.")
    return folders

  # --- Results ------------------------------------------------------------------------------

  def num_episodes(self, iteration: int) -> int:
    """Returns the number of episodes collected up to an iteration.

    Args:
      iteration: the last iteration.

    Returns:
      The number of episodes.
    """
    folders = self.data_folders(iteration)
    return sum(len(rollouts.load_manifest(folder).episodes) for folder in folders)

  def quality(self, stage: str, iteration: int) -> dict[str, Any]:
    """Reads the held-out figures of a finished fit.

    Args:
      stage: name of the fit, such as `vae` or `dynamics`.
      iteration: iteration of the fit.

    Returns:
      The content of its `quality.json`.
    """
    return read_json(self.path(stage, iteration) / "quality.json")

  def controller_quality(self, iteration: int) -> dict[str, Any]:
    """Reads the figures of a controller's training; see `runs.controller.write_quality`.

    Args:
      iteration: iteration of the controller.

    Returns:
      `{"controller": figures}`; empty if the controller has no figures.
    """
    path = self.path("controller", iteration) / "quality.json"
    return {"controller": read_json(path)} if path.exists() else {}

  def validations(self) -> list[dict[str, Any]]:
    """Reads the validations of all controllers so far; controllers without one are skipped.

    Returns:
      The content of each `validation.json`, by ascending iteration.
    """
    paths = sorted((self.workdir / "controller").glob("*/validation.json"))
    for path in sorted((self.workdir / "controller").glob("*/controller.npz")):
      if not path.with_name("validation.json").exists():
        say(f"{path.parent} has no validation.json: this controller is passed over.")
    return [read_json(path) for path in paths]

  def best_iteration(self, last: int | None = None) -> int:
    """Returns the iteration whose controller has the best mean return on the validation seeds.

    Args:
      last: the last iteration that counts; None for all.

    Returns:
      The iteration.

    Raises:
      WorkdirError: if no controller has been validated.
    """
    validations = [v for v in self.validations() if last is None or v["iteration"] <= last]
    if not validations:
      raise WorkdirError(f"{self.workdir} has no validated controller; run trainers.iterate first.")
    best = max(validations, key=lambda v: v["controller_in_environment"]["mean"])
    return best["iteration"]

  # --- Time ---------------------------------------------------------------------------------

  @contextlib.contextmanager
  def timing(self, name: str) -> Iterator[None]:
    """Adds the time of the block to the time that the run has spent on `name`, over all restarts.

    The time is saved every 30 seconds, so that the time of a killed stage counts.

    Args:
      name: name of the stage.
    """
    before, started = self.seconds().get(name, 0.0), time.monotonic()
    over = threading.Event()

    def record() -> None:
      spent = round(before + time.monotonic() - started, 2)
      write_json(self.workdir / "seconds.json", self.seconds() | {name: spent})

    def keep_recording() -> None:
      while not over.wait(_SECONDS_BETWEEN_RECORDS):
        with contextlib.suppress(OSError):  # A full disk makes the stage itself fail.
          record()

    recorder = threading.Thread(target=keep_recording, daemon=True)
    recorder.start()
    try:
      yield
    finally:
      over.set()
      recorder.join()
      record()

  def timed(self, stage, iteration: int) -> Any:
    """Runs a stage of an iteration, and records its time under the stage's name.

    Args:
      stage: a function of the iteration.
      iteration: the iteration.

    Returns:
      The result of `stage`.
    """
    with self.timing(stage.__name__):
      return stage(iteration)

  def seconds(self) -> dict[str, float]:
    """Returns the time spent so far in seconds, by stage."""
    path = self.workdir / "seconds.json"
    return read_json(path) if path.exists() else {}


def no_run(workdir: Path) -> WorkdirError:
  """Returns the error to raise if a folder holds no run.

  Args:
    workdir: the folder.

  Returns:
    The error, with the remedy.
  """
  return WorkdirError(
    f"{workdir} holds no run; name its folder by --workdir, or run trainers.collect first."
  )
