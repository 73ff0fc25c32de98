"""Canary, promotion and rollback on running servers."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from google.protobuf import text_format
from tensorflow_serving.config import model_server_config_pb2

from serving import config as config_lib
from serving.client import CallError, PlannerClient, Retry
from serving.deploy import rollout as rollout_lib
from serving.deploy import servers as servers_lib
from serving.deploy.rollout import Rollout, RolloutError
from serving.embedded import EmbeddedServer
from tests.serving.deploy_agent import CORRUPT, MISSING
from tests.serving.deploy_files import DEPLOY


@pytest.fixture
def config_file(versions, tmp_path):
  text = (DEPLOY / "models.config").read_text()
  config = text_format.Parse(text, model_server_config_pb2.ModelServerConfig())
  del config.model_config_list.config[1]  # The controller.
  config.model_config_list.config[0].base_path = str(versions)
  path = tmp_path / "models.config"
  path.write_text("# Whose file this is.\n" + text_format.MessageToString(config))
  return path


@pytest.fixture
def servers(config_file):
  """Two servers that have the same configuration, and their addresses."""
  config = config_lib.read(config_file, model_server_config_pb2.ModelServerConfig())
  running = [EmbeddedServer(poll_seconds=0.1, labels_before_loading=True) for _ in range(2)]
  yield [server.start(config) for server in running]
  for server in running:
    server.stop()


@pytest.fixture
def rollout(config_file, servers):
  lines = []
  rollout = Rollout(config_file, servers, timeout=20.0, say=lines.append)
  rollout.lines = lines
  yield rollout
  rollout.close()


def _gain(target: str, **which) -> float:
  """Which weights answer there."""
  with PlannerClient(target, "planner", retry=Retry(attempts=1), **which) as client:
    client.reset()
    return float(client.act(np.full((8, 8, 3), 255, np.uint8))[0])


def _labels(servers) -> list[dict[str, float]]:
  return [
    {label: round(_gain(target, label=label), 3) for label in ("stable", "canary")}
    for target in servers
  ]


def test_canary_promote_and_roll_back(rollout, servers, config_file):
  rollout.canary(2)
  assert _labels(servers) == [{"stable": 0.1, "canary": 0.2}] * 2
  rollout.promote()
  assert _labels(servers) == [{"stable": 0.2, "canary": 0.2}] * 2
  assert rollout.labels == {"stable": 2, "canary": 2, "previous": 1}
  rollout.rollback()
  assert _labels(servers) == [{"stable": 0.1, "canary": 0.1}] * 2
  assert sum("passes its probe" in line for line in rollout.lines) == 4
  # The file is what a server that starts now should read, and the only memory.
  assert config_file.read_text().startswith("# Whose file this is.\n")
  again = Rollout(config_file, servers)
  assert again.labels == {"stable": 1, "canary": 1}
  with pytest.raises(RolloutError, match="nothing to roll back to"):
    again.rollback()
  again.close()


def test_a_trial_can_end(rollout, servers):
  rollout.canary(2)
  rollout.promote()
  rollout.canary(3)
  rollout.rollback()  # The trial of 3, not the promotion of 2.
  assert rollout.labels == {"stable": 2, "canary": 2, "previous": 1}
  assert _labels(servers) == [{"stable": 0.2, "canary": 0.2}] * 2
  with pytest.raises(CallError, match=r"Specific\(planner, 3\)"):
    _gain(servers[0], version=3)


@pytest.mark.parametrize(
  ("version", "reason"),
  [
    (4, "action is not finite"),
    (5, "actions outside of"),
    (CORRUPT, f"cannot load planner version {CORRUPT}"),
    (MISSING, "not found in|Does the folder lie under"),
  ],
)
def test_a_bad_version_is_not_put_on_trial(rollout, servers, config_file, version, reason):
  before = config_file.read_text()
  with pytest.raises(RolloutError, match=reason) as caught:
    rollout.canary(version)
  assert "Nothing has changed: canary 1, stable 1" in str(caught.value)
  assert config_file.read_text() == before
  assert _labels(servers) == [{"stable": 0.1, "canary": 0.1}] * 2


def test_a_canary_that_fails_its_probe_is_not_promoted(rollout, servers, config_file):
  rollout.canary(2)
  before = config_file.read_text()
  for demand, reason in (
    ({"_max_latency_ms": 1e-6}, "over 1e-06 ms"),
    ({"_probe_command": "test {model}-{version} = planner-3"}, "the command's status is 1"),
  ):
    strict = Rollout(config_file, servers, timeout=20.0, say=lambda line: None)
    vars(strict).update(demand)
    with pytest.raises(RolloutError, match=reason):
      strict.promote()
    strict.close()
  assert config_file.read_text() == before
  assert _labels(servers) == [{"stable": 0.1, "canary": 0.2}] * 2
  rollout._probe_command = "test {model}-{version} = planner-2"
  rollout.promote()
  assert _labels(servers) == [{"stable": 0.2, "canary": 0.2}] * 2


def test_when_one_server_is_away_nothing_changes(servers, config_file):
  before = config_file.read_text()
  rollout = Rollout(config_file, [servers[0], "127.0.0.1:1"], timeout=5.0, say=print)
  with pytest.raises(RolloutError, match=r"127\.0\.0\.1:1 refuses the configuration: UNAVAILABLE"):
    rollout.canary(2)
  rollout.close()
  assert config_file.read_text() == before
  assert _labels(servers[:1]) == [{"stable": 0.1, "canary": 0.1}]


def test_stable_answers_all_the_while(rollout, servers):
  """Promotions and rollbacks under load: no call fails, and each answer is one of the versions'."""
  over, found, failures = threading.Event(), set(), []

  def call():
    while not over.is_set():
      try:
        found.add(round(_gain(servers[0], label="stable"), 3))
      except CallError as error:
        failures.append(error)

  thread = threading.Thread(target=call)
  thread.start()
  try:
    for _ in range(2):
      rollout.canary(2)
      rollout.promote()
      rollout.rollback()
  finally:
    over.set()
    thread.join()
  assert not failures
  assert found == {0.1, 0.2}


def test_the_command(servers, config_file, capsys):
  common = f"--config={config_file}", f"--targets={','.join(servers)}"

  def run(*arguments):
    return rollout_lib.main([*common, *arguments])

  assert run("canary", "--version=2") == 0
  assert run("status") == 0
  out = capsys.readouterr().out
  assert "canary 2, stable 1" in out
  for target in servers:
    assert f"{target} version 1: AVAILABLE stable" in out
    assert f"{target} version 2: AVAILABLE canary" in out
  assert run("rollback") == 0
  assert run("promote") == 1
  assert "there is no canary to promote" in capsys.readouterr().err


def test_names_stand_for_all_their_addresses(monkeypatch):
  addresses = [(2, 1, 6, "", (f"10.0.0.{i}", 8500)) for i in (1, 2)]
  addresses.append((10, 1, 6, "", ("fd00::1", 8500, 0, 0)))
  monkeypatch.setattr(servers_lib.socket, "getaddrinfo", lambda *args, **options: addresses)
  expected = ["10.0.0.1:8500", "10.0.0.2:8500", "[fd00::1]:8500"]
  assert servers_lib.resolve(["planner:8500", "planner:8500"]) == expected
  assert servers_lib.resolve(["localhost:8500"]) == ["localhost:8500"]
  with pytest.raises(RolloutError, match="'planner' is not host:port"):
    servers_lib.resolve(["planner"])
