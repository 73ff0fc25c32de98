"""A run of an earlier version goes on, exports the same models, and is evaluated."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.golden import commands
from tests.golden.answers import agent_answers, describe, files, world_model_answers
from tests.golden.commands import METHODS, MODELS, PRETRAINED
from tests.golden.comparing import differences, read_json, snapshot

_EXPORTS = read_json(commands.GOLDEN / "exports.json")
_PRETRAINED = read_json(commands.GOLDEN / "pretrained.json")
_ATOL = 1e-4


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> dict[str, Path]:
  """A copy of the golden run of each method."""
  folder = tmp_path_factory.mktemp("runs")
  for method in METHODS:
    commands.restore_run(method, folder / method)
  return {method: folder / method for method in METHODS}


@pytest.fixture(scope="module")
def exports(launcher, runs) -> dict[str, Path]:
  return {method: commands.export(launcher, workdir) for method, workdir in runs.items()}


def test_an_old_run_is_whole_and_done(launcher, tmp_path):
  workdir = tmp_path / "run"
  commands.restore_run("es", workdir)
  before = snapshot(workdir)
  assert "every file is as it was written" in launcher.run("trainers.check", workdir=workdir)
  launcher.run("trainers.iterate", *commands.FLAGS, workdir=workdir)
  assert snapshot(workdir) == before


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("method", METHODS)
def test_signatures(exports, method, name):
  golden = _EXPORTS[method][name]
  path = exports[method] / name / "1"
  found = describe(path)
  assert found.keys() == golden["signatures"].keys()
  for key, signature in golden["signatures"].items():
    if key == "spec":  # May say more.
      assert not differences(found[key], signature, rtol=0.0)
    else:
      assert found[key] == signature, key
  assert set(golden["files"]) <= set(files(path))


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("method", METHODS)
def test_answers(exports, method, name):
  answer = world_model_answers if name == "world_model" else agent_answers
  found = answer(exports[method] / name / "1")
  assert not differences(found, _EXPORTS[method][name]["answers"], rtol=_ATOL, atol=_ATOL)


@pytest.mark.slow
@pytest.mark.parametrize("agent", ["controller", "planner"])
def test_an_old_run_is_evaluated(launcher, runs, agent, tmp_path):
  output = tmp_path / "scores.json"
  commands.evaluate(launcher, agent, output, *commands.FLAGS, workdir=runs["es"])
  found, golden = read_json(output), _EXPORTS["es"][agent]["scores"]
  # Rounding may bring a car that cannot drive over one tile more or less, each worth 4 points.
  for label, tolerance in ((f"{agent}_in_model", 0.1), (f"{agent}_in_environment", 15.0)):
    assert found[label]["seeds"] == golden[label]["seeds"]
    assert found[label]["mean"] == pytest.approx(golden[label]["mean"], abs=tolerance), label


@pytest.mark.parametrize("name", ["controller", "planner"])
def test_pretrained_answers(name):
  path = PRETRAINED / name / "1"
  golden = _PRETRAINED[name]
  assert describe(path) == golden["signatures"]
  assert not differences(agent_answers(path), golden["answers"], rtol=_ATOL, atol=_ATOL)


def test_the_pretrained_controller_drives(launcher, tmp_path):
  output = tmp_path / "scores.json"
  commands.evaluate(launcher, str(PRETRAINED / "controller"), output)
  found = read_json(output)["controller_in_environment"]
  golden = _PRETRAINED["controller"]["scores"]["controller_in_environment"]
  assert found["seeds"] == golden["seeds"]
  # It corrects itself, so that rounding changes the time it takes, and little else.
  assert found["mean"] == pytest.approx(golden["mean"], abs=40.0)
