"""A new run of the golden flags equals the golden one, stage by stage."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.golden import commands
from tests.golden.commands import ACTOR_CRITIC, RUN
from tests.golden.comparing import differences, read_episodes, read_json, read_lines

_RTOL = 1e-3  # Of losses and weights; other processors add in another order.


@pytest.fixture(scope="module")
def collected(launcher, tmp_path_factory) -> Path:
  workdir = tmp_path_factory.mktemp("new") / "run"
  commands.collect(launcher, workdir)
  return workdir


@pytest.fixture(scope="module")
def fitted(launcher, collected) -> Path:
  commands.fit(launcher, collected)
  return collected


@pytest.fixture(scope="module")
def trained(launcher, fitted) -> dict[str, Path]:
  """The run, and a copy of it, with a controller of each method."""
  workdirs = {"es": fitted, "actor_critic": fitted.with_name("actor_critic")}
  shutil.copytree(fitted, workdirs["actor_critic"])
  for method, workdir in workdirs.items():
    commands.train_controller(launcher, workdir, method)
  return workdirs


def test_run_json(collected):
  assert not differences(read_json(collected / "run.json"), read_json(RUN / "run.json"), rtol=0.0)


@pytest.mark.parametrize("name", ["000", "000_random"])
def test_collected_episodes_are_equal_bit_for_bit(collected, name):
  golden = dict(read_episodes(RUN / "data" / name))
  found = dict(read_episodes(collected / "data" / name))
  assert golden.keys() <= found.keys()
  for field, value in golden.items():
    np.testing.assert_array_equal(found[field], value, err_msg=field, strict=True)
  manifests = [read_json(folder / "data" / name / "manifest.json") for folder in (collected, RUN)]
  for manifest in manifests:
    for shard in manifest["shards"]:
      del shard["bytes"]  # Of what zlib makes of it, as the checksum.
  assert not differences(*manifests, rtol=0.0)


@pytest.mark.parametrize("stage", ["vae", "dynamics"])
def test_fits(fitted, stage):
  folder, golden = fitted / stage / "000", RUN / stage / "000"
  assert not _differences(folder, golden, "fit.json", "quality.json", "run.json")
  _assert_weights_close(folder / "weights.npz", golden / "weights.npz")


@pytest.mark.slow
@pytest.mark.parametrize(("method", "golden"), [("es", RUN), ("actor_critic", ACTOR_CRITIC)])
def test_controllers(trained, method, golden):
  folder, golden = trained[method] / "controller/000", golden / "controller/000"
  assert not _differences(folder, golden)
  for weights in golden.glob("*.npz"):
    _assert_weights_close(folder / weights.name, weights)
  found, expected = (read_json(path / "validation.json") for path in (folder, golden))
  assert found.keys() == expected.keys()
  for agent in ("controller_in_model", "controller_in_environment"):
    assert found[agent]["seeds"] == expected[agent]["seeds"]


def _differences(folder: Path, golden: Path, *names: str) -> list[str]:
  """What differs in the metrics of a stage, and in those JSON files."""
  found = {"metrics": read_lines(folder / "metrics.jsonl")}
  found |= {name: read_json(folder / name) for name in names}
  expected = {"metrics": read_lines(golden / "metrics.jsonl")}
  expected |= {name: read_json(golden / name) for name in names}
  for run in (found.get("run.json"), expected.get("run.json")):
    if run is not None:
      # Of all bytes of the shards, whose compression is not held; episodes are compared above.
      del run["fingerprint"]["data"]
  return differences(found, expected, _RTOL, atol=1e-5)


def _assert_weights_close(path: Path, golden: Path) -> None:
  """Names, order, shapes and dtypes must be equal, and each array near the golden one."""
  with np.load(path) as found, np.load(golden) as expected:
    assert found.files == expected.files
    for name in expected.files:
      assert found[name].shape == expected[name].shape, name
      assert found[name].dtype == expected[name].dtype, name
      if np.issubdtype(expected[name].dtype, np.floating):
        distance = np.linalg.norm(found[name] - expected[name])
        assert distance <= _RTOL * np.linalg.norm(expected[name]) + 1e-6, name
      else:
        np.testing.assert_array_equal(found[name], expected[name], err_msg=name)
