"""What the parts of the fault suite share: tasks, commands, moments, the run that is left alone."""

from __future__ import annotations

import dataclasses
import functools
import os
import random
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

from tests.trainers.launcher import Launcher, Trainer
from tests.trainers.workdirs import contents, differences
from wm_tf import config, files
from wm_tf.runs import integrity
from wm_tf.runs.folder import Description

FLAGS = (
  "--preset=debug",
  "--force",
  "--override=collect.num_episodes=4",
  "--override=collect.episodes_per_shard=1",
  "--override=evaluate.num_episodes=1",
)

# What makes a whole run, in order; `quickstart` ends it.
STAGES = (
  "collect",
  "train_vae",
  "train_dynamics",
  "train_controller",
  "iterate",
  "export",
  "quickstart",
)


class Task(NamedTuple):
  """A part of the suite that stands alone, so that others can run beside it.

  Attributes:
    run: does it; it can be pickled.
    seconds: that it takes, roughly: the longest ones begin first.
    after: the name of a task that must have ended well before; None if any time will do.
  """

  run: Callable[[Suite], None]
  seconds: float
  after: str | None = "reference"


@dataclasses.dataclass(frozen=True)
class Stage:
  """A command that was run to its end, undisturbed.

  Attributes:
    name: of the trainer.
    before: a workdir as it was before it; None if there was none.
    after: a workdir as it was after it.
    seconds: that it took.
    writes: the files it wrote, in order; see `tests.trainers.launcher`.
  """

  name: str
  before: Path | None
  after: Path
  seconds: float
  writes: tuple[str, ...] = ()

  @functools.cached_property
  def contents(self) -> dict[str, object]:
    """Of the workdir after it."""
    return contents(self.after)


class Suite:
  """What a task is given to break things with.

  Attributes:
    folder: for its workdirs; there is nothing in it yet.
    reference: the folder of the undisturbed run, which all tasks read and only `make_reference`
      changes.
    launcher: of trainers.
    random: chooses the moments and the places.
    failures: what was not as it must be, one text each.
    xla: whether XLA compiles in its trainers; see `Launcher.start`.
  """

  def __init__(
    self, folder: Path, reference: Path, seed: str, report: Callable[[str, object], None]
  ):
    """Begins a task.

    Args:
      folder: see above.
      reference: see above.
      seed: of what it chooses.
      report: is told what is said ("say"), what failed ("fail") and what was done ("count").
    """
    self.folder, self.reference = folder, reference
    self.random = random.Random(seed)
    (folder / "logs").mkdir(parents=True)
    self.launcher = Launcher(folder / "logs")
    self.failures: list[str] = []
    self.xla = True
    self._report = report

  def say(self, text: str) -> None:
    self._report("say", text)

  def fail(self, text: str) -> None:
    self.failures.append(text)
    self._report("fail", text)

  def expect(self, condition: object, text: str) -> bool:
    """Notes a failure unless a condition holds; returns whether it does."""
    if not condition:
      self.fail(text)
    return bool(condition)

  def count(self, kind: str, number: int = 1) -> None:
    self._report("count", (kind, number))

  # --- The undisturbed run ------------------------------------------------------------------

  def stage(self, name: str) -> Stage:
    """A stage of the undisturbed run."""
    names = [None, *STAGES]
    previous = names[names.index(name) - 1]
    return Stage(
      name,
      before=previous and self.reference / previous,
      after=self.reference / name,
      seconds=files.read_json(self.reference / "seconds.json")[name],
      writes=tuple((self.reference / f"{name}.writes").read_text().splitlines()),
    )

  @property
  def finished(self) -> Path:
    """The workdir of the undisturbed run, at its end."""
    return self.reference / STAGES[-1]

  # --- Runs ---------------------------------------------------------------------------------

  def copy(self, source: Path | None, name: str) -> Path:
    """A workdir of its own, at `folder / name`; what was there is gone."""
    target = self.folder / name
    if target.exists():
      shutil.rmtree(target)
    if source is None:
      return target
    return Path(shutil.copytree(source, target))

  def describe(self, workdir: Path, *flags: str) -> None:
    """Makes a workdir that of the run which `start` with these flags is about."""
    overrides = [flag.partition("=")[2] for flag in (*FLAGS, *flags) if "--override=" in flag]
    described = Description(config.make_config("debug", overrides), seed=0)
    files.write_json(workdir / "run.json", described.to_dict())

  def start(self, name: str, workdir: Path, *flags: str, **options) -> Trainer:
    module = f"trainers.{name}"
    return self.launcher.start(module, *FLAGS, *flags, workdir=workdir, xla=self.xla, **options)

  def run(self, name: str, workdir: Path, *flags: str, expected: int = 0, **options) -> str:
    """Runs a trainer to its end; another exit code than the expected one is a failure."""
    trainer = self.start(name, workdir, *flags, **options)
    code = trainer.wait()
    self.expect(code == expected, f"{name} ended with {code}, not {expected}:\n{trainer.output}")
    return trainer.output

  def same(self, workdir: Path, expected: dict[str, object], what: str) -> bool:
    """Notes a failure unless a workdir holds what it must."""
    found = differences(contents(workdir), expected)
    return self.expect(not found, f"{what}: not as without the fault: {', '.join(found)}")

  def is_clear(self, output: str, names: Iterable[str]) -> bool:
    """Whether a command that failed said so in one message that names one of the files."""
    _, error, message = output.rpartition("error: ")
    return bool(error) and "Traceback" not in output and any(name in message for name in names)

  def no_survivors(self, trainer: Trainer, what: str, patience: float = 20.0) -> None:
    """Notes a failure if processes outlive a trainer that was killed."""
    end = time.monotonic() + patience
    while (left := trainer.survivors()) and time.monotonic() < end:
      time.sleep(0.05)
    self.expect(not left, f"{what}: processes {left} outlive the one that was killed")


def make_reference(suite: Suite) -> None:
  """Runs every stage undisturbed, and keeps the workdir as it was after each.

  What a folder of an earlier run of the suite holds of that is taken from there.
  """
  folder = suite.reference
  folder.mkdir(parents=True, exist_ok=True)
  there = folder / "seconds.json"
  seconds = files.read_json(there) if there.exists() else {}
  before = None
  for name in STAGES:
    if name not in seconds:
      writes = folder / f"{name}.writes"
      writes.unlink(missing_ok=True)
      shutil.rmtree(folder / name, ignore_errors=True)
      workdir = suite.copy(before, "run")
      started = time.monotonic()
      suite.run(name, workdir, writes=writes)
      seconds[name] = time.monotonic() - started
      workdir.rename(folder / name)
      files.write_json(there, seconds)
      suite.say(f"{name} took {seconds[name]:.1f} s")
    before = folder / name
  suite.expect(not list(integrity.problems(before)), "the undisturbed run is damaged")


def is_root() -> bool:
  """Whether file systems can be mounted, which a part of the suite needs."""
  return sys.platform == "linux" and os.geteuid() == 0


def numbers_after(text: str, pattern: str) -> list[float]:
  return [float(number) for number in re.findall(pattern, text)]
