"""The Makefile's promises, and that the pins, the ranges and what is installed agree."""

from __future__ import annotations

import importlib.metadata
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

_ROOT = Path(__file__).resolve().parents[1]


def _requirements(lines) -> list[Requirement]:
  return [Requirement(line) for line in lines if line and not line.startswith("#")]


def _pins(file: str = "requirements.txt") -> dict[str, str]:
  """`{name: version}` of a requirements file."""
  pins = {}
  for requirement in _requirements((_ROOT / file).read_text().splitlines()):
    (specifier,) = requirement.specifier
    assert specifier.operator == "==", f"{requirement} is not pinned"
    pins[canonicalize_name(requirement.name)] = specifier.version
  return pins


def _ranges(file: str = "requirements.txt") -> list[Requirement]:
  """The requirements in pyproject.toml that a file pins: all but `bench`, or that extra's."""
  tomllib = pytest.importorskip("tomllib")  # Python 3.11.
  project = tomllib.loads((_ROOT / "pyproject.toml").read_text())["project"]
  extras = project["optional-dependencies"]
  bench = extras.pop("bench")
  if file == "requirements-bench.txt":
    return _requirements(bench)
  return _requirements(sum(extras.values(), project["dependencies"]))


@pytest.mark.parametrize("file", ["requirements.txt", "requirements-bench.txt"])
def test_pins_lie_within_the_ranges(file):
  pins, ranges = _pins(file), _ranges(file)
  assert ranges
  for requirement in ranges:
    version = pins[canonicalize_name(requirement.name)]
    assert version in requirement.specifier, f"{requirement} excludes the pinned {version}"


def test_whatever_a_pinned_package_requires_is_pinned():
  if not any(importlib.metadata.distributions(name="tf-agents")):
    pytest.skip("This is not the set of requirements.txt.")
  pins = _pins()
  for name, version in pins.items():
    assert importlib.metadata.version(name) == version, f"{name} is not installed as pinned"
    for text in importlib.metadata.requires(name) or ():
      requirement = Requirement(text)
      if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
        assert canonicalize_name(requirement.name) in pins, f"{name} brings {requirement}"


def _make(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess:
  inherited = {k: v for k, v in os.environ.items() if not k.startswith(("MAKE", "MFLAGS"))}
  return subprocess.run(
    ["make", *arguments],
    cwd=folder,
    env=inherited | environment,
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
  )


@pytest.fixture
def checkout(tmp_path):
  """A folder, with spaces in its name, that holds the Makefile and no requirement."""
  folder = tmp_path / "a check out"
  folder.mkdir()
  shutil.copy(_ROOT / "Makefile", folder)
  (folder / "requirements.txt").write_text("")
  return folder


def test_help_is_the_default_and_lists_every_target(checkout):
  text = (checkout / "Makefile").read_text()
  (targets,) = re.findall(r"^\.PHONY: (.*)$", text, re.MULTILINE)
  answer = _make(checkout).stdout
  for target in targets.split():
    assert f"make {target} " in answer


# Makes a virtual environment of itself, and its pip fails on a requirement called broken.
_PYTHON = """#!/bin/sh
case "$*" in
  "-m venv --clear .venv") rm -rf .venv && mkdir -p .venv/bin && cp "$0" .venv/bin/python ;;
  "-m pip install"*) ! grep broken requirements.txt ;;
esac
"""


def test_setup_runs_when_the_requirements_change_and_is_redone_if_it_failed(checkout):
  (checkout / "python").write_text(_PYTHON)
  (checkout / "python").chmod(0o755)
  requirements = checkout / "requirements.txt"

  def setup():
    answer = _make(checkout, "setup", "PYTHON=no-such-python ./python")
    return answer.returncode, "Installing" in answer.stdout

  assert setup() == (0, True)
  assert setup() == (0, False)
  requirements.touch()
  assert setup() == (0, False)  # Newer, but the same.

  requirements.write_text("broken")
  for _ in range(2):
    code, installed = setup()
    assert code != 0 and installed
  leftover = checkout / ".venv/leftover"
  leftover.touch()
  requirements.write_text("numpy")
  assert setup() == (0, True)
  assert not leftover.exists()


def test_setup_without_python_3_11_says_what_to_do(checkout):
  other = checkout / "python3.99"
  other.write_text("#!/bin/sh\nexit 1\n")
  other.chmod(0o755)
  answer = _make(checkout, "setup", "PYTHON=./python3.99 no-such-python")
  assert answer.returncode != 0
  assert "none of these is a Python 3.11" in answer.stdout
  assert "make setup PYTHON=" in answer.stdout
  assert not (checkout / ".venv").exists()


def test_quickstart_passes_its_variables_on(checkout):
  (checkout / ".venv").mkdir()
  (checkout / ".venv/requirements.txt").write_text("")
  answer = _make(checkout, "-n", "quickstart", "WORKDIR=my runs/a", "SEED=7")
  assert '-m trainers.quickstart --workdir="my runs/a" --seed=7' in answer.stdout


def test_serve_without_an_export_says_what_to_do(checkout):
  (checkout / ".venv").mkdir()
  (checkout / ".venv/requirements.txt").write_text("")
  answer = _make(checkout, "serve", "WORKDIR=nowhere")
  assert answer.returncode != 0 and "make quickstart" in answer.stdout


@pytest.mark.parametrize("pretrained", [False, True])
def test_serve_configures_the_models_there_are(checkout, pretrained):
  base = checkout / ("pretrained/car_racing" if pretrained else "runs/a/export")
  shutil.rmtree(checkout / "pretrained", ignore_errors=True)
  for name in ("planner", "controller"):
    (base / name).mkdir(parents=True)
  (base / "server.log").touch()
  (checkout / ".venv/bin").mkdir(parents=True)
  (checkout / ".venv/requirements.txt").write_text("")
  (checkout / ".venv/bin/python").symlink_to("/bin/echo")
  workdir = () if pretrained else ("WORKDIR=runs/a",)
  answer = _make(checkout, "serve", *workdir, "PORT=8501")
  config = checkout / "build/models.config"
  assert "-m serving.server --port=8501 --model_config_file=build/models.config" in answer.stdout
  assert "-m trainers.evaluate --agent=grpc://localhost:8501/planner" in answer.stdout
  text_format = pytest.importorskip("google.protobuf.text_format")
  pb2 = pytest.importorskip("tensorflow_serving.config.model_server_config_pb2")
  models = text_format.Parse(config.read_text(), pb2.ModelServerConfig()).model_config_list.config
  assert {m.name: m.base_path for m in models} == {
    name: str(base / name) for name in ("planner", "controller")
  }
