"""The manifests are held to their schemas, the scripts to a running server."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import threading
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from google.protobuf import text_format
from tensorflow_serving.config import model_server_config_pb2

from serving import config as config_lib
from serving.client import CallError, PlannerClient, Retry
from serving.deploy import rollout as rollout_lib
from serving.deploy.rollout import Rollout, RolloutError
from serving.embedded import EmbeddedServer

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "serving" / "deploy"
KUBERNETES = sorted((DEPLOY / "kubernetes").glob("*.yaml"))


# --- Manifests --------------------------------------------------------------------------------


def _documents(path: Path) -> list[dict]:
  yaml = pytest.importorskip("yaml", reason="pip install pyyaml")
  return [document for document in yaml.safe_load_all(path.read_text()) if document]


def _all_kubernetes() -> dict[str, dict]:
  return {d["kind"] + "/" + d["metadata"]["name"]: d for p in KUBERNETES for d in _documents(p)}


def _deployment() -> dict:
  return _all_kubernetes()["Deployment/planner"]


def _container() -> dict:
  (container,) = _deployment()["spec"]["template"]["spec"]["containers"]
  return container


def _validate(document: dict, version: str) -> None:
  kubernetes_validate = pytest.importorskip(
    "kubernetes_validate", reason="pip install kubernetes-validate"
  )
  kubernetes_validate.validate(document, version, strict=True)


@pytest.mark.parametrize("version", ["1.30", "1.34"])
@pytest.mark.parametrize("path", KUBERNETES, ids=lambda path: path.stem)
def test_kubernetes_manifests_are_valid(path, version):
  for document in _documents(path):
    _validate(document, version)


def test_the_validator_would_notice():
  document = _deployment()
  document["spec"]["template"]["spec"]["containers"][0]["imagePulPolicy"] = "Always"
  with pytest.raises(Exception, match="imagePulPolicy"):
    _validate(document, "1.34")


def test_compose_is_valid():
  check = pytest.importorskip("check_jsonschema", reason="pip install check-jsonschema")
  command = [sys.executable, "-m", check.__name__, "--builtin-schema", "vendor.compose-spec"]
  done = subprocess.run([*command, DEPLOY / "compose.yaml"], capture_output=True, text=True)
  assert done.returncode == 0, done.stdout


# KServe's own fields beside those of a pod and of a container, after the reference of v1beta1.
_KSERVE_PREDICTOR = {
  "minReplicas": int,
  "maxReplicas": int,
  "scaleTarget": int,
  "scaleMetric": str,
  "timeout": int,
  "model": dict,
}
_KSERVE_MODEL = {
  "modelFormat": dict,
  "protocolVersion": str,
  "runtimeVersion": str,
  "storageUri": str,
}


def test_the_inference_service_is_a_pod_with_kserves_fields():
  (service,) = _documents(DEPLOY / "kserve.yaml")
  assert (service["apiVersion"], service["kind"]) == (
    "serving.kserve.io/v1beta1",
    "InferenceService",
  )
  assert list(service["spec"]) == ["predictor"]
  predictor = service["spec"]["predictor"]
  model = predictor["model"]
  for fields, known in ((predictor, _KSERVE_PREDICTOR), (model, _KSERVE_MODEL)):
    assert all(isinstance(fields[name], kind) for name, kind in known.items() if name in fields)
  pod = {k: v for k, v in predictor.items() if k not in _KSERVE_PREDICTOR}
  container = {k: v for k, v in model.items() if k not in _KSERVE_MODEL}
  container |= {"name": "kserve-container", "image": "tensorflow/serving"}
  _validate(
    {
      "apiVersion": "v1",
      "kind": "Pod",
      "metadata": service["metadata"],
      "spec": {**pod, "containers": [container]},
    },
    "1.34",
  )
  assert model["runtimeVersion"] == _container()["image"].split(":")[1]


def test_kustomization_names_files_that_exist():
  (kustomization,) = _documents(DEPLOY / "kustomization.yaml")
  assert sorted(kustomization["resources"]) == [f"kubernetes/{p.name}" for p in KUBERNETES]
  (config_map,) = kustomization["configMapGenerator"]
  assert all((DEPLOY / name).is_file() for name in config_map["files"])
  volumes = {v["name"]: v for v in _deployment()["spec"]["template"]["spec"]["volumes"]}
  assert volumes["config"]["configMap"]["name"] == config_map["name"]
  mounted = {Path(word).name for word in _words(_container()) if word.startswith("/etc/planner/")}
  assert mounted <= set(config_map["files"])


def _words(container: dict) -> list[str]:
  """Every argument, and every value of a flag."""
  words = container["args"] + container["readinessProbe"]["exec"]["command"]
  return [part for word in words for part in word.split("=", 1)]


def test_what_a_deployment_promises():
  pod, container = _deployment()["spec"]["template"]["spec"], _container()
  assert pod["securityContext"]["runAsNonRoot"] and pod["securityContext"]["runAsUser"] > 0
  security = container["securityContext"]
  assert security["readOnlyRootFilesystem"] and not security["allowPrivilegeEscalation"]
  assert set(container["resources"]["limits"]) == {"cpu", "memory"}
  assert "probe.sh" in container["readinessProbe"]["exec"]["command"][1]
  pause = int(container["lifecycle"]["preStop"]["exec"]["command"][1])
  assert 5 <= pause < pod["terminationGracePeriodSeconds"]
  objects = _all_kubernetes()
  assert objects["Service/planner"]["spec"]["clusterIP"] == "None"
  labels = _deployment()["spec"]["template"]["metadata"]["labels"]
  ports = {port["name"]: port["containerPort"] for port in container["ports"]}
  for name in ("Service/planner", "Service/planner-rest"):
    assert objects[name]["spec"]["selector"].items() <= labels.items()
    assert all(ports[p["targetPort"]] == p["port"] for p in objects[name]["spec"]["ports"])
  hpa = objects["HorizontalPodAutoscaler/planner"]["spec"]
  assert hpa["scaleTargetRef"]["name"] == _deployment()["metadata"]["name"]
  assert 1 < hpa["minReplicas"] < hpa["maxReplicas"]
  assert "replicas" not in _deployment()["spec"]  # Else each apply undoes the autoscaler.


def test_images_are_pinned_and_not_older_than_the_exporter():
  (compose,) = _documents(DEPLOY / "compose.yaml")
  images = [service["image"] for service in compose["services"].values()]
  for image in [*images, _container()["image"]]:
    assert re.fullmatch(r"[\w./-]+:v?\d+\.\d+\.\d+", image), image
  serving = compose["services"]["serving"]["image"]
  assert serving == _container()["image"]
  pins = (ROOT / "requirements.txt").read_text()
  tensorflow = re.search(r"^tensorflow==([\d.]+)", pins, re.M)[1]
  number = lambda text: tuple(map(int, text.split(".")[:2]))
  assert number(serving.split(":")[1]) >= number(tensorflow)


@pytest.mark.parametrize("where", ["kubernetes", "compose"])
def test_the_server_takes_every_flag(where):
  if where == "compose":
    (compose,) = _documents(DEPLOY / "compose.yaml")
    arguments = compose["services"]["serving"]["command"]
  else:
    arguments = _container()["args"]
  known = (ROOT / "serving" / "flags.py").read_text()
  for argument in arguments:
    assert f'"{argument.split("=")[0].removeprefix("--")}"' in known, argument


def test_text_protos():
  config = text_format.Parse(
    (DEPLOY / "models.config").read_text(), model_server_config_pb2.ModelServerConfig()
  )
  (planner,) = (c for c in config.model_config_list.config if c.name == "planner")
  assert set(planner.version_labels) == {"stable", "canary"}
  assert set(planner.version_labels.values()) <= set(planner.model_version_policy.specific.versions)
  batching = config_lib.read(DEPLOY / "batching.config", config_lib.BatchingParameters())
  # What the official server checks when it starts.
  sizes = list(batching.allowed_batch_sizes)
  assert sizes == sorted(set(sizes)) and sizes[-1] == batching.max_batch_size.value
  monitoring = config_lib.read(DEPLOY / "monitoring.config", config_lib.MonitoringConfig())
  assert monitoring.prometheus_config.enable
  (prometheus,) = _documents(DEPLOY / "monitoring" / "prometheus.yaml")
  (job,) = prometheus["scrape_configs"]
  assert job["metrics_path"] == monitoring.prometheus_config.path
  annotations = _deployment()["spec"]["template"]["metadata"]["annotations"]
  assert annotations["prometheus.io/path"] == monitoring.prometheus_config.path


@pytest.mark.parametrize("mutual", [False, True])
def test_ssl_config(tmp_path, mutual):
  pem = "-----BEGIN {0}-----\nQUJD+/=\nREVG\n-----END {0}-----\n"
  names = ["PRIVATE KEY", "CERTIFICATE", "CA"][: 2 + mutual]
  for name in names:
    (tmp_path / name).write_text(pem.format(name))
  command = ["sh", DEPLOY / "ssl_config.sh", *(tmp_path / name for name in names)]
  (tmp_path / "ssl.config").write_bytes(subprocess.run(command, capture_output=True).stdout)
  config = config_lib.read(tmp_path / "ssl.config", config_lib.SSLConfig())
  assert config.server_key == pem.format("PRIVATE KEY")
  assert config.server_cert == pem.format("CERTIFICATE")
  assert config.custom_ca == (pem.format("CA") if mutual else "")
  assert config.client_verify == mutual


def test_ssl_config_refuses_what_is_not_pem(tmp_path):
  (tmp_path / "text").write_text("hello")
  command = ["sh", DEPLOY / "ssl_config.sh", tmp_path / "text", tmp_path / "text"]
  done = subprocess.run(command, capture_output=True, text=True)
  assert done.returncode == 1 and "not in PEM form" in done.stderr


# --- Monitoring -------------------------------------------------------------------------------


def _expressions() -> dict[str, str]:
  dashboard = json.loads((DEPLOY / "monitoring" / "dashboard.json").read_text())
  found = {p["title"] + t["refId"]: t["expr"] for p in dashboard["panels"] for t in p["targets"]}
  (alerts,) = _documents(DEPLOY / "monitoring" / "alerts.yaml")
  rules = [rule for group in alerts["groups"] for rule in group["rules"]]
  return found | {rule["alert"]: rule["expr"] for rule in rules}


def test_queries_parse():
  promql = pytest.importorskip("promql_parser", reason="pip install promql-parser")
  for expression in _expressions().values():
    promql.parse(expression.replace("$__rate_interval", "1m").replace("$model", ".*"))
  with pytest.raises(ValueError):
    promql.parse("sum by (le (rate(x[5m]))")


def test_dashboard_is_consistent():
  dashboard = json.loads((DEPLOY / "monitoring" / "dashboard.json").read_text())
  (datasources,) = _documents(DEPLOY / "monitoring" / "datasource.yaml")
  uid = datasources["datasources"][0]["uid"]
  panels = dashboard["panels"]
  assert len({panel["id"] for panel in panels}) == len(panels) >= 5
  assert {t["datasource"]["uid"] for p in panels for t in p["targets"]} == {uid}
  cells = [(p["gridPos"]["x"], p["gridPos"]["y"]) for p in panels]
  assert len(set(cells)) == len(cells)


# --- A running server -------------------------------------------------------------------------


class _Agent(tf.Module):
  """What a client must find in an exported agent: `gain` is the brightness's weight."""

  def __init__(self, gain: float):
    super().__init__()
    self.gain = tf.Variable(gain)

  @tf.function(
    input_signature=[
      tf.TensorSpec([None, None, None, 3], tf.uint8, "frame"),
      tf.TensorSpec([None, 2], tf.int32, "seed"),
      tf.TensorSpec([None, 2], tf.float32, "h"),
      tf.TensorSpec([None], tf.bool, "is_first"),
    ]
  )
  def act(self, frame, seed, h, is_first):
    del is_first
    x = self.gain * tf.reduce_mean(tf.cast(frame, tf.float32) / 255, [1, 2, 3])[:, None]
    return {
      "action": tf.tile(x, [1, 3]) + 0 * tf.cast(seed[:, :1], tf.float32),
      "h": h + 1,
      "is_first": tf.zeros_like(seed[:, 0], tf.bool),
    }

  @tf.function(input_signature=[tf.TensorSpec([None, 2], tf.int32, "seed")])
  def initial_state(self, seed):
    rows = tf.shape(seed)[0]
    return {"h": tf.zeros([rows, 2]), "is_first": tf.ones([rows], tf.bool)}

  @tf.function(input_signature=[tf.TensorSpec([None, 2], tf.int32, "seed")])
  def spec(self, seed):
    answer = {
      "name": "car_racing",
      "env_id": "CarRacing-v3",
      "frame_size": [96, 96],
      "observation_size": [64, 64],
      "action_repeat": 4,
      "frames_to_skip": 50,
      "idle_action": [0.0, 0.0, 0.0],
      "max_steps": 1000,
      "action_names": ["steer", "gas", "brake"],
      "action_low": [-1.0, 0.0, 0.0],
      "action_high": [1.0, 1.0, 1.0],
      "discrete": False,
      "state_names": ["h", "is_first"],
      "json": "{}",
    }
    rows = tf.shape(seed)[0]
    tile = lambda x: tf.tile(x[None], [rows] + [1] * x.shape.rank)
    return {name: tile(tf.constant(value)) for name, value in answer.items()}


def _write(path: Path, gain: float) -> None:
  model = _Agent(gain)
  names = ("act", "initial_state", "spec")
  part = path.parent / f".{path.name}"
  tf.saved_model.save(model, str(part), {name: getattr(model, name) for name in names})
  part.rename(path)


# What lies in the base path: good versions, and each way in which one can be bad.
_GAINS = {1: 0.1, 2: 0.2, 3: 0.3, 4: float("nan"), 5: 2.0}
_CORRUPT, _MISSING = 6, 77


@pytest.fixture(scope="module")
def versions(tmp_path_factory):
  base = tmp_path_factory.mktemp("models") / "planner"
  base.mkdir()
  for version, gain in _GAINS.items():
    _write(base / str(version), gain)
  shutil.copytree(base / "1", base / str(_CORRUPT))
  (base / str(_CORRUPT) / "variables" / "variables.index").unlink()
  return base


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
    (_CORRUPT, f"cannot load planner version {_CORRUPT}"),
    (_MISSING, "not found in|Does the folder lie under"),
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
  run = lambda *arguments: rollout_lib.main([*common, *arguments])
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
  monkeypatch.setattr(rollout_lib.socket, "getaddrinfo", lambda *args, **options: addresses)
  expected = ["10.0.0.1:8500", "10.0.0.2:8500", "[fd00::1]:8500"]
  assert rollout_lib.resolve(["planner:8500", "planner:8500"]) == expected
  assert rollout_lib.resolve(["localhost:8500"]) == ["localhost:8500"]
  with pytest.raises(RolloutError, match="'planner' is not host:port"):
    rollout_lib.resolve(["planner"])


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
  command = _container()["readinessProbe"]["exec"]["command"]
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
  asked = {name for x in _expressions().values() for name in re.findall(r":[\w:]+", x)}
  assert len(asked) >= 4
  assert asked <= exported
