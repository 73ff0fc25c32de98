"""The folder of a run: whose it is, where its parts lie, and how long they took.

workdir/
  run.json               configuration and seed; another configuration is refused
  seconds.json           time spent, by stage, over all restarts
  data/000, 000_random   rollouts of iteration 0, from official and from random starts
  vae/, dynamics/, ...   fits of the world model: see its family, such as `two_stage`
  controller/000         trained in the dream of iteration 0, and its validation returns
  finish/000             the same one, finished in the real environment (trainers.finish)
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

_SECONDS_BETWEEN_RECORDS = 30.0  # What a killed stage at most loses of its time.


class Description(NamedTuple):
  """What makes a run what it is; a `run.json`."""

  config: config_lib.ExperimentConfig
  seed: int

  def to_dict(self) -> dict[str, Any]:
    return {"config": config_lib.to_dict(self.config), "seed": self.seed}


def read_description(path: Path) -> Description | None:
  """Reads a `run.json`, also one of an older version; None if there is no such file.

  Raises:
    WorkdirError: if it is damaged, or no `run.json`.
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
  """Makes way for a run of another seed: moves the one in `workdir` to `WORKDIR.seedN`.

  If `WORKDIR.seedN` holds the run of this seed, set aside before, it moves back.

  Args:
    workdir: the folder of the run.
    mine: the run that is to be in it.

  Raises:
    WorkdirError: if there is a run in both places.
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
  """A run's configuration, seed and workdir.

  Use as a context manager: two processes on one workdir would overwrite each other, so the second
  one is refused with the pid of the first.
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
      config: must equal the one the workdir was made with.
      seed: of everything that is random; likewise.
      create: whether the workdir may be a new one.
    """
    self.workdir, self.config, self.seed = Path(workdir).expanduser(), config, seed
    self._create = create
    self._lock = contextlib.ExitStack()
    self._entered = 0

  def __enter__(self) -> RunFolder:
    """Opens or creates the workdir. May be entered again inside.

    Raises:
      WorkdirError: if the workdir belongs to another run, or another process is at it.
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
      later = {"finish": self.config.finish}  # Asked later, and kept where it is done.
      if not (self.workdir / "controller").exists():
        later["controller"] = self.config.controller  # To be chosen until there is one.
      there = there._replace(config=dataclasses.replace(there.config, **later))
    if there is None:
      write_json(path, mine.to_dict())
      if (self.workdir / "data").exists():
        say(f"{path} was missing. It is written anew, as what these flags describe.")
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

  # --- Places -------------------------------------------------------------------------------

  def path(self, stage: str, iteration: int) -> Path:
    """Returns the folder of a stage of an iteration."""
    return self.workdir / stage / f"{iteration:03d}"

  def data_folders(self, iteration: int) -> list[Path]:
    """All rollout folders up to an iteration; the newest last.

    Raises:
      WorkdirError: if there is none, or one has lost its manifest.
    """
    folders = []
    for i in range(iteration + 1):
      for folder in (self.path("data", i), self.workdir / "data" / f"{i:03d}_random"):
        if (folder / rollouts.MANIFEST).exists():
          folders.append(folder)
        elif any(folder.glob("shard-*.tfrecord")):  # Learning without it would be silent.
          lost = folder / rollouts.MANIFEST
          raise WorkdirError(f"{lost} is missing beside shards; trainers.collect makes both anew.")
    if not folders:
      raise WorkdirError(f"{self.workdir}/data holds no rollouts; run trainers.collect first.")
    return folders

  # --- What it says of itself ---------------------------------------------------------------

  def num_episodes(self, iteration: int) -> int:
    """Returns the number of episodes that were collected up to an iteration."""
    folders = self.data_folders(iteration)
    return sum(len(rollouts.load_manifest(folder).episodes) for folder in folders)

  def quality(self, stage: str, iteration: int) -> dict[str, Any]:
    """The held-out figures of a finished fit, of stage `vae` or `dynamics`."""
    return read_json(self.path(stage, iteration) / "quality.json")

  def validations(self) -> list[dict[str, Any]]:
    """Every iteration's validation so far."""
    paths = sorted((self.workdir / "controller").glob("*/validation.json"))
    for path in sorted((self.workdir / "controller").glob("*/controller.npz")):
      if not path.with_name("validation.json").exists():
        say(f"{path.parent} has no validation.json: this controller is passed over.")
    return [read_json(path) for path in paths]

  def best_iteration(self, last: int | None = None) -> int:
    """The iteration whose controller did best on the validation seeds.

    Args:
      last: if not None, later ones do not count.
    """
    validations = [v for v in self.validations() if last is None or v["iteration"] <= last]
    if not validations:
      raise WorkdirError(f"{self.workdir} has no validated controller; run trainers.iterate first.")
    best = max(validations, key=lambda v: v["controller_in_environment"]["mean"])
    return best["iteration"]

  # --- Time ---------------------------------------------------------------------------------

  @contextlib.contextmanager
  def timing(self, name: str) -> Iterator[None]:
    """Adds the time inside to what the run has spent on `name`, over all its restarts.

    It is written down as it goes by, so that a stage that is killed has taken time too.
    """
    before, started = self.seconds().get(name, 0.0), time.monotonic()
    over = threading.Event()

    def record() -> None:
      spent = round(before + time.monotonic() - started, 2)
      write_json(self.workdir / "seconds.json", self.seconds() | {name: spent})

    def keep_recording() -> None:
      while not over.wait(_SECONDS_BETWEEN_RECORDS):
        with contextlib.suppress(OSError):  # The stage says so, if it is of consequence.
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
    """Runs a stage of an iteration, `timing` it under its name; returns what it returns."""
    with self.timing(stage.__name__):
      return stage(iteration)

  def seconds(self) -> dict[str, float]:
    """The time spent so far, by stage."""
    path = self.workdir / "seconds.json"
    return read_json(path) if path.exists() else {}


def no_run(workdir: Path) -> WorkdirError:
  """What to say where a run is looked for in vain."""
  return WorkdirError(
    f"{workdir} holds no run; name its folder by --workdir, or run trainers.collect first."
  )
