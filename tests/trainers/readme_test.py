"""The README's "Your own environment", word for word, but with the preset for tests."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import nbclient
import nbformat
import pytest

from wm_tf.files import read_json

pytestmark = pytest.mark.timeout(600)  # A machine that is busy with other things needs its time.

_ROOT = Path(__file__).parents[2]
_SECTION = "## Your own environment\n"


def _blocks(language: str) -> list[str]:
  """The code blocks of the section that are in one language."""
  text = (_ROOT / "README.md").read_text()
  section = text[text.index(_SECTION) + len(_SECTION) :].split("\n## ")[0]
  return re.findall(rf"```{language}\n(.*?)```", section, re.DOTALL)


def _commands() -> list[list[str]]:
  lines = "".join(_blocks("sh")).replace("\\\n", " ").splitlines()
  return [shlex.split(line, comments=True) for line in lines if line.strip()]


@pytest.fixture(scope="module")
def folder(launcher, tmp_path_factory) -> Path:
  """Where the section's commands have been run."""
  folder = tmp_path_factory.mktemp("readme")
  for python, option, module, *flags in _commands():
    assert (python, option) == ("python", "-m")
    workdir = next(flag.removeprefix("--workdir=") for flag in flags if "--workdir=" in flag)
    flags = [flag for flag in flags if "--workdir=" not in flag]
    launcher.run(module, *flags, "--preset=debug", workdir=folder / workdir)
  return folder


@pytest.mark.slow
def test_the_commands_end_with_a_served_planner(folder):
  workdirs = [path.parent for path in folder.glob("runs/*/results.json")]
  assert len(workdirs) == len(_commands()) >= 2
  for workdir in workdirs:
    assert read_json(workdir / "results.json")["planner_in_environment"]["n"] == 1


@pytest.mark.slow
def test_the_python_lines_run_in_a_notebook(folder, monkeypatch):
  """In a Jupyter kernel, one cell a line, in the folder in which the first command was run."""
  monkeypatch.setenv("PYTHONPATH", str(_ROOT))
  cells = [line for block in _blocks("python") for line in block.splitlines() if line]
  assert any('preset="quickstart"' in cell for cell in cells)
  cells = [cell.replace('preset="quickstart"', 'preset="debug"') for cell in cells]
  cells.append("scores['mean'], run.workdir.resolve()")
  notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
  client = nbclient.NotebookClient(
    notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(folder)}}
  )
  client.execute()
  answer = notebook.cells[-1].outputs[-1]["data"]["text/plain"]
  assert re.match(r"\(-\d+\.\d+", answer) and str(folder / "runs/pendulum") in answer
