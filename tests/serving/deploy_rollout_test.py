"""Canary, promotion and rollback on running servers."""

from __future__ import annotations

import threading

import grpc
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
    (MISSING, "not found in|Is the folder in"),
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


class _Server:
  """A server in memory: it has the labels that it was sent last; `fails` is raised for canary 2."""

  target, tls = "host:1", None

  def __init__(self, fails: Exception | None = None):
    self.fails, self.labels, self.closed = fails, None, False

  def reload(self, config, timeout):
    labels = dict(config.model_config_list.config[0].version_labels)
    if self.fails and labels["canary"] == 2:
      raise self.fails
    self.labels = labels

  def wait_available(self, model, version, timeout):
    pass

  def close(self):
    self.closed = True


_TEXT = """model_config_list { config { name: "planner" base_path: "/models" version_labels {
key: "stable" value: 1 } version_labels { key: "canary" value: 1 } } }"""
_OLD = {"stable": 1, "canary": 1}


@pytest.fixture
def small_file(tmp_path, monkeypatch):
  monkeypatch.setattr(rollout_lib, "probe", lambda *arguments: "passes")
  path = tmp_path / "models.config"
  path.write_text(_TEXT)
  return path


@pytest.mark.parametrize(
  "error", [OSError("x"), ValueError("x"), KeyError("x"), grpc.RpcError("x")]
)
def test_any_error_restores_every_server(small_file, error):
  rollout = Rollout(small_file, [], say=print)
  rollout.servers = [_Server(), _Server(fails=error)]
  with pytest.raises(RolloutError, match=r"Error: '?x'?\nNothing has changed: canary 1, stable 1"):
    rollout.canary(2)
  assert [server.labels for server in rollout.servers] == [_OLD, _OLD]
  assert small_file.read_text() == _TEXT


def test_an_interrupt_and_a_file_that_cannot_be_written_restore_every_server(
  small_file, monkeypatch
):
  lines = []
  rollout = Rollout(small_file, [], say=lines.append)
  rollout.servers = [_Server(), _Server(fails=KeyboardInterrupt())]
  with pytest.raises(KeyboardInterrupt):
    rollout.canary(2)
  assert [server.labels for server in rollout.servers] == [_OLD, _OLD]
  assert lines[-1] == "Nothing has changed: canary 1, stable 1"

  def fail(*paths):
    raise OSError("disk full")

  rollout.servers = [_Server()]
  monkeypatch.setattr(rollout_lib.os, "replace", fail)
  with pytest.raises(RolloutError, match="OSError: disk full\nNothing has changed"):
    rollout.canary(2)
  assert rollout.servers[0].labels == _OLD and rollout.labels == _OLD
  assert [path.name for path in small_file.parent.iterdir()] == ["models.config"]


def test_a_server_that_cannot_be_restored_does_not_keep_the_others_from_it(small_file):
  rollout = Rollout(small_file, [], say=print)
  broken, last = _Server(), _Server(fails=OSError("x"))
  rollout.servers = [broken, last]
  reload = broken.reload

  def fail_to_restore(config, timeout):
    if broken.labels:
      raise ValueError("closed")
    reload(config, timeout)

  broken.reload = fail_to_restore
  with pytest.raises(RolloutError, match="Restoring the old configuration failed: closed"):
    rollout.canary(2)
  assert last.labels == _OLD


@pytest.mark.parametrize("command", ["echo {targets}", "echo '", "echo {}", "echo {model.x}"])
def test_a_probe_command_is_checked_first(small_file, command):
  with pytest.raises(RolloutError, match=r"--probe_command=echo .* the fields are \{target\}"):
    Rollout(small_file, [], probe_command=command)


def test_the_command_refuses_server_name_without_tls_and_closes_its_connections(
  small_file, monkeypatch, capsys
):
  common = f"--config={small_file}", "--targets=localhost:1"
  assert rollout_lib.main([*common, "--server_name=planner", "status"]) == 1
  (line,) = capsys.readouterr().err.splitlines()
  assert line.startswith("rollout status: --server_name is the name in a TLS certificate")
  server = _Server()
  monkeypatch.setattr(rollout_lib, "Server", lambda target, tls: server)
  assert rollout_lib.main([*common, "promote"]) == 1
  assert server.closed
