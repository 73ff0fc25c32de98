"""Trainers as processes, forked from one that has imported TensorFlow: it saves seconds each time.

A trainer can be killed at a moment of its own: what it has done is what it has written, so every
write is a moment. They are told apart by what happens to which file: `"rename vae/000/fit.json"`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import multiprocessing
import os
import resource
import runpy
import signal
import sys
from pathlib import Path

_CONTEXT = multiprocessing.get_context("forkserver")
# Nothing of these runs an operation when imported, so that no thread of TensorFlow's is lost.
_CONTEXT.set_forkserver_preload(
  [__name__, "trainers.common", "wm_tf.runs.summary", "serving.client"]
)
_TIMEOUT = 600.0  # seconds


@dataclasses.dataclass
class Trainer:
  """A trainer that was started."""

  process: multiprocessing.Process
  log: Path

  @property
  def output(self) -> str:
    """What it has printed so far."""
    return self.log.read_text()

  def wait(self) -> int:
    """Returns its exit code, negative if a signal ended it."""
    self.process.join(_TIMEOUT)
    if self.process.exitcode is None:
      self.process.kill()
      self.process.join()
      raise TimeoutError(f"It did not end:\n{self.output}")
    return self.process.exitcode

  @property
  def exited(self) -> bool:
    return self.process.exitcode is not None

  def kill(self) -> None:
    self.process.kill()
    self.process.join()

  def survivors(self) -> list[int]:
    """Processes that it started, or they, and that are still there."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
      with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        state, _, _, session = stat.read_text().rpartition(")")[2].split()[:4]
        if int(session) == self.process.pid and state != "Z":
          found.append(int(stat.parent.name))
    return found


class Launcher:
  """Starts modules as `python -m` does. Threads may share one.

  Args:
    folder: for the logs.
  """

  def __init__(self, folder: Path):
    self._folder, self._count = folder, itertools.count(1)
    self._started: list[Trainer] = []

  def start(
    self,
    module: str,
    *flags: str,
    workdir: Path | None = None,
    kill_at: str | None = None,
    writes: Path | None = None,
    xla: bool = True,
  ) -> Trainer:
    """Starts a trainer.

    Args:
      module: such as `trainers.collect`.
      *flags: its flags, but for the workdir.
      workdir: its workdir; None for a module that has none.
      kill_at: the write, as `writes` would list it, just before which it kills itself.
      writes: a file to list its writes in.
      xla: whether XLA compiles what it would compile, which takes half a minute in some trainers.
    """
    log = self._folder / f"{next(self._count):03d}.log"
    log.touch()
    argv = [module, *([f"--workdir={workdir}"] if workdir else []), *flags]
    process = _CONTEXT.Process(target=_main, args=(argv, log, workdir, kill_at, writes, xla))
    process.start()
    trainer = Trainer(process, log)
    self._started.append(trainer)
    return trainer

  def run(self, module: str, *flags: str, expected: int = 0, **options) -> str:
    """Runs a trainer; returns what it printed."""
    trainer = self.start(module, *flags, **options)
    code = trainer.wait()
    assert code == expected, f"{module} ended with {code}:\n{trainer.output}"
    return trainer.output

  def end(self) -> None:
    """Ends the trainers that are still running, and what they have started."""
    for trainer in self._started:
      if not trainer.exited:
        trainer.kill()
        for pid in trainer.survivors():
          with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    self._started = []


def _main(
  argv: list[str],
  log: Path,
  workdir: Path | None,
  kill_at: str | None,
  writes: Path | None,
  xla: bool,
):
  """Becomes `python -m MODULE FLAGS`, with its output in a file."""
  with open(log, "wb", buffering=0) as file, open(os.devnull, "rb") as nothing:
    for number, target in ((0, nothing), (1, file), (2, file)):
      os.dup2(target.fileno(), number)
  os.setsid()  # So that what it leaves behind can be told.
  if writes is not None or kill_at is not None:
    listing = None if writes is None else open(writes, "a", buffering=1)  # noqa: SIM115
    sys.addaudithook(_watch(str(workdir), kill_at, listing))
  sys.argv = argv
  try:
    with contextlib.nullcontext() if xla else _without_xla():
      runpy.run_module(argv[0], run_name="__main__", alter_sys=True)
  finally:
    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(f"peak memory: {kilobytes >> 10} MB", flush=True)


def _without_xla():
  from tests.no_xla import no_xla  # It imports TensorFlow, which what starts trainers need not.

  return no_xla()


def _watch(workdir: str, kill_at: str | None, listing):
  """An audit hook that sees every file that Python opens to write, renames or removes."""

  def hook(event: str, args: tuple) -> None:
    if event == "open" and isinstance(args[0], (str, os.PathLike)):
      kind = "write" if args[2] & (os.O_WRONLY | os.O_RDWR) else ""
    else:
      kind = {"os.rename": "rename", "os.remove": "remove"}.get(event, "")
    if not kind:
      return
    path = os.path.relpath(os.fsdecode(args[1 if kind == "rename" else 0]), workdir)
    if path.startswith("..") or path == ".lock":
      return
    if listing is not None:
      listing.write(f"{kind} {path}\n")
    if f"{kind} {path}" == kill_at:
      print(f"killed beside {_children()}", flush=True)
      os.kill(os.getpid(), signal.SIGKILL)

  return hook


def _children() -> list[int]:
  """This process's child processes."""
  tasks = Path("/proc/self/task").glob("*/children")
  return [int(pid) for task in tasks for pid in task.read_text().split()]
