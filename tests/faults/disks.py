"""Disks that are full, or read-only: small file systems in memory, which only root can mount."""

from __future__ import annotations

import contextlib
import functools
import operator
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.faults.suite import Stage, Suite, Task, is_root

_SIZE = 256 << 20


def run(suite: Suite, make_stage: Callable[[Suite], Stage], *flags: str) -> None:
  """Fills the disk under a command at a random place, then makes room; and read-only.

  Args:
    suite: the suite.
    make_stage: makes the command when it was left alone.
    *flags: of the command.
  """
  if not is_root():
    suite.count("skipped")
    suite.say("SKIPPED: mounting a file system takes root")
    return
  stage = make_stage(suite)
  with _mounted(suite) as disk:
    _fill(suite, disk, stage, flags)
    _lock_writes(suite, disk, stage, flags)


@contextlib.contextmanager
def _mounted(suite: Suite) -> Iterator[Path]:
  disk = suite.folder / "disk"
  disk.mkdir()
  subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={_SIZE}", "none", disk], check=True)
  try:
    yield disk
  finally:
    suite.launcher.end()  # What still writes there would keep it.
    if suite.failures:
      shutil.copytree(disk, suite.folder / "was_on_disk")
    subprocess.run(["umount", disk], check=True)


def _fill(suite: Suite, disk: Path, stage: Stage, flags: tuple[str, ...]) -> None:
  name = stage.name
  workdir, ballast = disk / "run", disk / "ballast"
  grows = _size(stage.after) - (_size(stage.before) if stage.before else 0)
  shutil.rmtree(workdir, ignore_errors=True)
  if stage.before:
    shutil.copytree(stage.before, workdir)
  room = suite.random.randrange(max(1, int(0.7 * grows)))
  with open(ballast, "wb") as file:
    file.truncate(0)
    free = shutil.disk_usage(disk).free
    chunk = bytes(1 << 16)
    while free > room:
      file.write(chunk[: min(len(chunk), free - room)])
      file.flush()
      free = shutil.disk_usage(disk).free
      if free < 4096:
        break
  trainer = suite.start(name, workdir, *flags)
  code = trainer.wait()
  ballast.unlink()
  what = f"{name} with room for {room >> 10} of {grows >> 10} KB"
  suite.count("full disks")
  suite.expect(code == 1, f"{what}: ended with {code}:\n{trainer.output}")
  suite.expect(
    "No space left" in trainer.output and suite.is_clear(trainer.output, ["Make room"]),
    f"{what}: {trainer.output[-3000:]}",
  )
  suite.run(name, workdir, *flags)
  if suite.same(workdir, stage.contents, f"{what}, then room for all"):
    suite.say(f"{what}: an error; with room for all it ends the same")


def _lock_writes(suite: Suite, disk: Path, stage: Stage, flags: tuple[str, ...]) -> None:
  name = stage.name
  workdir = disk / "run"
  shutil.rmtree(workdir, ignore_errors=True)
  if stage.before:
    shutil.copytree(stage.before, workdir)

  def remount(mode):
    return subprocess.run(["mount", "-o", f"remount,{mode}", disk], check=True)

  remount("ro")
  try:
    trainer = suite.start(name, workdir, *flags)
    code = trainer.wait()
  finally:
    remount("rw")
  suite.count("read-only disks")
  clear = code == 1 and suite.is_clear(trainer.output, ["Read-only file system"])
  suite.expect(clear, f"{name} on a read-only disk: {code} {trainer.output[-3000:]}")


def _size(folder: Path) -> int:
  return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


TASKS = {
  name: Task(functools.partial(run, make_stage=operator.methodcaller("stage", name)), 8)
  for name in ("collect", "train_vae", "train_dynamics", "train_controller", "export")
}
