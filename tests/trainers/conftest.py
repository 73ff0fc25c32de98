"""What the tests of the trainers share: processes, and one small run, real and whole."""

from __future__ import annotations

import fcntl
import os
import shutil
from pathlib import Path

import pytest

from tests.trainers.launcher import Launcher
from tests.trainers.workdirs import RUN


@pytest.fixture(scope="session")
def launcher(tmp_path_factory) -> Launcher:
  return Launcher(tmp_path_factory.mktemp("logs"))


@pytest.fixture(scope="session")
def finished(launcher, tmp_path_factory) -> Path:
  """The workdir of a quickstart that nothing interrupted; not to be changed.

  Beside it are `writes`, what it wrote in which order, and `output`, what it printed. The worker
  processes of a test run share it.
  """
  folder = tmp_path_factory.getbasetemp()
  if "PYTEST_XDIST_WORKER" in os.environ:
    folder = folder.parent
  workdir = folder / "finished" / "run"
  workdir.parent.mkdir(exist_ok=True)
  with open(folder / "finished.lock", "w") as lock:
    fcntl.flock(lock, fcntl.LOCK_EX)  # Another worker may be making it.
    if not workdir.with_name("output").exists():
      shutil.rmtree(workdir, ignore_errors=True)
      writes = workdir.with_name("writes")
      output = launcher.run("trainers.quickstart", *RUN, workdir=workdir, writes=writes)
      workdir.with_name("output").write_text(output)
  return workdir


@pytest.fixture
def copy(finished, tmp_path) -> Path:
  """A finished workdir of the test's own."""
  return Path(shutil.copytree(finished, tmp_path / "run"))
