"""Disks that are full, or read-only: small file systems in memory, which only root can mount."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tests.faults.suite import Suite, is_root

_SIZE = 256 << 20


def run(suite: Suite) -> None:
  """Fills the disk under every command at a random place, then makes room; and read-only."""
  if not is_root():
    suite.say("SKIPPED: full and read-only disks; mounting a file system takes root")
    return
  with _mounted(suite.folder / "disk") as disk:
    for name in ("collect", "train_vae", "train_dynamics", "train_controller", "export"):
      _fill(suite, disk, name)
      _lock_writes(suite, disk, name)


@contextlib.contextmanager
def _mounted(folder: Path) -> Iterator[Path]:
  folder.mkdir(exist_ok=True)
  subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={_SIZE}", "none", folder], check=True)
  try:
    yield folder
  finally:
    subprocess.run(["umount", folder], check=True)


def _fill(suite: Suite, disk: Path, name: str) -> None:
  stage = suite.stage(name)
  workdir, ballast = disk / "run", disk / "ballast"
  grows = _size(suite.folder / f"after_{name}") - (_size(stage.before) if stage.before else 0)
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
  trainer = suite.start(name, workdir)
  code = trainer.wait()
  ballast.unlink()
  what = f"{name} with room for {room >> 10} of {grows >> 10} KB"
  suite.count("full disks")
  suite.expect(code == 1, f"{what}: ended with {code}:\n{trainer.output}")
  suite.expect(
    "No space left" in trainer.output and suite.is_clear(trainer.output, ["Make room"]),
    f"{what}: {trainer.output[-3000:]}",
  )
  suite.run(name, workdir)
  if suite.same(workdir, stage.contents, f"{what}, then room for all"):
    suite.say(f"{what}: an error; with room for all it ends the same")


def _lock_writes(suite: Suite, disk: Path, name: str) -> None:
  stage = suite.stage(name)
  workdir = disk / "run"
  shutil.rmtree(workdir, ignore_errors=True)
  if stage.before:
    shutil.copytree(stage.before, workdir)
  remount = lambda mode: subprocess.run(["mount", "-o", f"remount,{mode}", disk], check=True)
  remount("ro")
  try:
    trainer = suite.start(name, workdir)
    code = trainer.wait()
  finally:
    remount("rw")
  suite.count("read-only disks")
  clear = code == 1 and suite.is_clear(trainer.output, ["Read-only file system"])
  suite.expect(clear, f"{name} on a read-only disk: {code} {trainer.output[-3000:]}")


def _size(folder: Path) -> int:
  return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
