"""Readiness, dashboard and alerts ask a running server for what it has."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import urllib.request

import pytest
from tensorflow_serving.config import model_server_config_pb2

from serving.embedded import EmbeddedServer
from tests.serving import deploy_files
from tests.serving.deploy_files import DEPLOY


def test_queries_parse():
  promql = pytest.importorskip("promql_parser", reason="pip install promql-parser")
  for expression in deploy_files.expressions().values():
    promql.parse(expression.replace("$__rate_interval", "1m").replace("$model", ".*"))
  with pytest.raises(ValueError):
    promql.parse("sum by (le (rate(x[5m]))")


def test_dashboard_is_consistent():
  dashboard = json.loads((DEPLOY / "monitoring" / "dashboard.json").read_text())
  (datasources,) = deploy_files.documents(DEPLOY / "monitoring" / "datasource.yaml")
  uid = datasources["datasources"][0]["uid"]
  panels = dashboard["panels"]
  assert len({panel["id"] for panel in panels}) == len(panels) >= 5
  assert {t["datasource"]["uid"] for p in panels for t in p["targets"]} == {uid}
  cells = [(p["gridPos"]["x"], p["gridPos"]["y"]) for p in panels]
  assert len(set(cells)) == len(cells)


@pytest.fixture(scope="module")
def rest(versions):
  """`host:port` of REST of a server that has a good version, labelled, and one that answers NaN."""
  config = model_server_config_pb2.ModelServerConfig()
  entry = config.model_config_list.config.add(
    name="planner", base_path=str(versions), model_platform="tensorflow"
  )
  entry.model_version_policy.specific.versions[:] = [1, 4]
  entry.version_labels["stable"] = 1
  path = "/monitoring/prometheus/metrics"
  with EmbeddedServer(rest_port=0, prometheus_path=path, labels_before_loading=True) as server:
    server.start(config)
    yield server.rest_target


def _probe(*arguments: str) -> subprocess.CompletedProcess:
  """Runs probe.sh, as the manifests do."""
  if shutil.which("bash") is None:
    pytest.skip("bash is not installed.")
  return subprocess.run(
    ["bash", DEPLOY / "probe.sh", *arguments], capture_output=True, text=True, timeout=240
  )


def test_the_readiness_probe(rest):
  port = rest.rpartition(":")[2]
  done = _probe("planner", port)
  assert done.returncode == 1 and "no action" in done.stderr  # The newest version answers NaN.
  command = deploy_files.container()["readinessProbe"]["exec"]["command"]
  assert command[0] == "bash" and command[2:] == ["planner", "8501", "labels/stable"]
  done = _probe("planner", port, "labels/stable")
  assert done.returncode == 0, done.stderr
  assert _probe("planner", port, "versions/1").returncode == 0
  done = _probe("nope", port)
  assert done.returncode == 1 and "not found" in done.stderr
  assert _probe("planner", "1").returncode == 1  # Nobody listens.


def test_dashboard_and_alerts_ask_for_what_there_is(rest):
  assert _probe("planner", rest.rpartition(":")[2], "labels/stable").returncode == 0
  with urllib.request.urlopen(f"http://{rest}/monitoring/prometheus/metrics") as page:
    text = page.read().decode()
  exported = set(re.findall(r"^([\w:]+)(?:\{| )", text, re.M))
  asked = {name for x in deploy_files.expressions().values() for name in re.findall(r":[\w:]+", x)}
  assert len(asked) >= 4
  assert asked <= exported
