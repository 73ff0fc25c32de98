"""The load tool tells the truth: about latencies, failures, versions and wrong answers."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

from benchmarks import _serving_load as load_lib
from benchmarks import _serving_soak as soak_lib
from benchmarks import serving as tool
from serving.client import CallError, PlannerClient
from serving.embedded import EmbeddedServer

FRAME = np.full((1, 64, 64, 3), 100, np.uint8)


def _load(target, **options):
  options = {"clients": 2, "seconds": 0.7, "frames": "noise", **options}
  return load_lib.Load(target, "triv", **options)


def test_clients_are_counted_and_timed(target):
  result = load_lib.run(_load(target, rows=3))
  summary = result.summary(rows=3)
  assert summary["calls"] == len(result.milliseconds) == result.versions[1] > 10
  assert summary["errors"] == {}
  assert 0.7 <= result.seconds < 5
  assert summary["actions_per_second"] == pytest.approx(3 * summary["calls_per_second"])
  assert 0 < summary["p50_ms"] <= summary["p95_ms"] <= summary["p99_ms"] <= summary["max_ms"]
  # Closed loops: two clients, each with one call at a time.
  assert result.milliseconds.sum() / 1000 <= 2 * result.seconds


def test_failures_are_counted_by_code(target):
  result = load_lib.run(_load(target, timeout=-1.0, clients=1, seconds=0.3))
  assert set(result.errors) == {"DEADLINE_EXCEEDED"}
  assert len(result.milliseconds) == 0
  assert result.summary()["p50_ms"] is None


def test_a_model_that_is_not_there_is_an_error(target):
  with pytest.raises(CallError, match="not found"):
    load_lib.run(load_lib.Load(target, "nope", clients=1, frames="noise"))


@pytest.fixture
def variants(triv, tmp_path):
  paths = [tmp_path / f"variant{i}" for i in range(2)]
  for i, path in enumerate(paths):
    soak_lib.write_variant(triv, 100 * i, path)
  return paths


def test_references_give_the_servers_numbers(variants, tmp_path):
  shutil.copytree(variants[1], tmp_path / "base" / "7")
  with EmbeddedServer() as server:
    target = server.start({"triv": tmp_path / "base"})
    with PlannerClient(target, "triv") as client:
      client.reset(seed=3)
      for _ in range(2):
        inputs = {"frame": FRAME, "seed": client.seed, **client.state}
        action = client.act(FRAME)
        found = soak_lib.Reference(variants[1]).act(inputs, ("action", "h", "c"))
        np.testing.assert_array_equal(found["action"], action)
        np.testing.assert_array_equal(found["h"], client.state["h"])


@pytest.mark.slow
def test_a_soak_passes(triv, capsys):
  options = {"clients": 2, "frames": "noise", "rows": 1, "timeout": 60.0, "attempts": 1}
  for seconds in (4, 12, 36):  # Loading a version takes a busy machine long.
    found = soak_lib.soak(triv, 0.7, {**options, "seconds": seconds})
    assert found["passed"]
    assert found["errors"] == {} and found["answers_wrong"] == 0
    assert found["answers_checked"] == found["calls"] > 0
    if len(found["versions"]) >= 2:
      break
  else:
    pytest.fail(f"only one version answered: {found['versions']}")
  assert "passed" in capsys.readouterr().out


def test_a_soak_notices_wrong_numbers(triv, monkeypatch):
  act = soak_lib.Reference.act

  def off(*args):
    return {name: value * 1.001 for name, value in act(*args).items()}

  monkeypatch.setattr(soak_lib.Reference, "act", off)
  options = {"clients": 1, "seconds": 0.5, "frames": "noise", "rows": 1, "timeout": 10.0}
  found = soak_lib.soak(triv, 10.0, {**options, "attempts": 1})
  assert not found["passed"]
  assert found["answers_wrong"] == found["answers_checked"] > 0


def test_the_command_says_where_no_server_is(monkeypatch, capsys):
  monkeypatch.setattr("sys.argv", ["serving", "--target=localhost:1", "--frames=noise"])
  assert tool.main() == 1
  assert "localhost:1: UNAVAILABLE" in capsys.readouterr().err
