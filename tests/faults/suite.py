"""What the parts of the fault suite share: commands, moments, what was found."""

from __future__ import annotations

import dataclasses
import os
import random
import re
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from tests.trainers.launcher import Launcher, Trainer
from tests.trainers.workdirs import contents, differences
from trainers import check
from trainers.run_folder import Description
from wm_tf import config, files

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


@dataclasses.dataclass
class Stage:
  """A command that was run to its end, undisturbed.

  Attributes:
    name: of the trainer.
    before: a workdir as it was before it; None if there was none.
    contents: of the workdir after it.
    seconds: that it took.
    writes: the files it wrote, in order; see `tests.trainers.launcher`.
  """

  name: str
  before: Path | None
  contents: dict[str, object]
  seconds: float
  writes: list[str]


class Suite:
  """A run of the suite.

  Attributes:
    folder: for workdirs.
    launcher: of trainers.
    random: chooses the moments and the places.
    failures: what was not as it must be, one text each.
    counts: of what was done, by kind.
  """

  def __init__(self, folder: Path, seed: int):
    self.folder, self.random = folder, random.Random(seed)
    (folder / "logs").mkdir(parents=True, exist_ok=True)
    self.launcher = Launcher(folder / "logs")
    self.failures: list[str] = []
    self.counts: dict[str, int] = {}
    self._began = time.monotonic()
    self.stages: list[Stage] = []
    self.finished = folder / "reference"

  def say(self, text: str) -> None:
    print(f"[{time.monotonic() - self._began:6.0f} s] {text}", flush=True)

  def fail(self, text: str) -> None:
    self.failures.append(text)
    self.say(f"FAILED {text}")

  def expect(self, condition: object, text: str) -> bool:
    """Notes a failure unless a condition holds; returns whether it does."""
    if not condition:
      self.fail(text)
    return bool(condition)

  def count(self, kind: str, number: int = 1) -> None:
    self.counts[kind] = self.counts.get(kind, 0) + number

  # --- Runs ---------------------------------------------------------------------------------

  def make_reference(self) -> None:
    """Runs every stage undisturbed, and keeps the workdir as it was after each.

    In a folder that holds all that, from an earlier run of the suite, it is taken from there.
    """
    there = self.folder / "seconds.json"
    seconds = files.read_json(there) if there.exists() else {}
    before = None
    for name in STAGES:
      writes, after = self.folder / f"{name}.writes", self.folder / f"after_{name}"
      if name not in seconds:
        writes.unlink(missing_ok=True)
        workdir = self.copy(before, "reference")
        started = time.monotonic()
        self.run(name, workdir, writes=writes)
        seconds[name] = time.monotonic() - started
        self.copy(workdir, after.name)
        files.write_json(there, seconds)
        self.say(f"reference: {name} took {seconds[name]:.1f} s")
      lines = writes.read_text().splitlines()
      self.stages.append(Stage(name, before, contents(after), seconds[name], lines))
      before = after
    self.finished = self.copy(before, "reference")
    self.expect(not list(check.problems(self.finished)), "the reference run is damaged")

  def stage(self, name: str) -> Stage:
    return next(stage for stage in self.stages if stage.name == name)

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
    return self.launcher.start(f"trainers.{name}", *FLAGS, *flags, workdir=workdir, **options)

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

  def is_clear(self, output: str, names: Iterator[str] | list[str]) -> bool:
    """Whether a command that failed said so in one message that names one of the files."""
    _, error, message = output.rpartition("error: ")
    return bool(error) and "Traceback" not in output and any(name in message for name in names)

  def no_survivors(self, trainer: Trainer, what: str, patience: float = 20.0) -> None:
    """Notes a failure if processes outlive a trainer that was killed."""
    end = time.monotonic() + patience
    while (left := trainer.survivors()) and time.monotonic() < end:
      time.sleep(0.05)
    self.expect(not left, f"{what}: processes {left} outlive the one that was killed")


def is_root() -> bool:
  """Whether file systems can be mounted, which two parts of the suite need."""
  return sys.platform == "linux" and os.geteuid() == 0


def numbers_after(text: str, pattern: str) -> list[float]:
  return [float(number) for number in re.findall(pattern, text)]
