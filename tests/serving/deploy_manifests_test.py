"""The manifests are held to their schemas, and to each other."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from google.protobuf import text_format
from tensorflow_serving.config import model_server_config_pb2

from serving import config as config_lib
from tests.serving import deploy_files
from tests.serving.deploy_files import DEPLOY, KUBERNETES, ROOT


def _validate(document: dict, version: str) -> None:
  kubernetes_validate = pytest.importorskip(
    "kubernetes_validate", reason="pip install kubernetes-validate"
  )
  kubernetes_validate.validate(document, version, strict=True)


@pytest.mark.parametrize("version", ["1.30", "1.34"])
@pytest.mark.parametrize("path", KUBERNETES, ids=lambda path: path.stem)
def test_kubernetes_manifests_are_valid(path, version):
  for document in deploy_files.documents(path):
    _validate(document, version)


def test_the_validator_would_notice():
  document = deploy_files.deployment()
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
  (service,) = deploy_files.documents(DEPLOY / "kserve.yaml")
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
  assert model["runtimeVersion"] == deploy_files.container()["image"].split(":")[1]


def test_kustomization_names_files_that_exist():
  (kustomization,) = deploy_files.documents(DEPLOY / "kustomization.yaml")
  assert sorted(kustomization["resources"]) == [f"kubernetes/{p.name}" for p in KUBERNETES]
  (config_map,) = kustomization["configMapGenerator"]
  assert all((DEPLOY / name).is_file() for name in config_map["files"])
  volumes = {v["name"]: v for v in deploy_files.deployment()["spec"]["template"]["spec"]["volumes"]}
  assert volumes["config"]["configMap"]["name"] == config_map["name"]
  mounted = {
    Path(word).name for word in _words(deploy_files.container()) if word.startswith("/etc/planner/")
  }
  assert mounted <= set(config_map["files"])


def _words(container: dict) -> list[str]:
  """Every argument, and every value of a flag."""
  words = container["args"] + container["readinessProbe"]["exec"]["command"]
  return [part for word in words for part in word.split("=", 1)]


def test_what_a_deployment_promises():
  pod, container = deploy_files.deployment()["spec"]["template"]["spec"], deploy_files.container()
  assert pod["securityContext"]["runAsNonRoot"] and pod["securityContext"]["runAsUser"] > 0
  security = container["securityContext"]
  assert security["readOnlyRootFilesystem"] and not security["allowPrivilegeEscalation"]
  assert set(container["resources"]["limits"]) == {"cpu", "memory"}
  assert "probe.sh" in container["readinessProbe"]["exec"]["command"][1]
  pause = int(container["lifecycle"]["preStop"]["exec"]["command"][1])
  assert 5 <= pause < pod["terminationGracePeriodSeconds"]
  objects = deploy_files.all_kubernetes()
  assert objects["Service/planner"]["spec"]["clusterIP"] == "None"
  labels = deploy_files.deployment()["spec"]["template"]["metadata"]["labels"]
  ports = {port["name"]: port["containerPort"] for port in container["ports"]}
  for name in ("Service/planner", "Service/planner-rest"):
    assert objects[name]["spec"]["selector"].items() <= labels.items()
    assert all(ports[p["targetPort"]] == p["port"] for p in objects[name]["spec"]["ports"])
  hpa = objects["HorizontalPodAutoscaler/planner"]["spec"]
  assert hpa["scaleTargetRef"]["name"] == deploy_files.deployment()["metadata"]["name"]
  assert 1 < hpa["minReplicas"] < hpa["maxReplicas"]
  assert (
    "replicas" not in deploy_files.deployment()["spec"]
  )  # Else each apply undoes the autoscaler.


def test_images_are_pinned_and_not_older_than_the_exporter():
  (compose,) = deploy_files.documents(DEPLOY / "compose.yaml")
  images = [service["image"] for service in compose["services"].values()]
  for image in [*images, deploy_files.container()["image"]]:
    assert re.fullmatch(r"[\w./-]+:v?\d+\.\d+\.\d+", image), image
  serving = compose["services"]["serving"]["image"]
  assert serving == deploy_files.container()["image"]
  pins = (ROOT / "requirements.txt").read_text()
  tensorflow = re.search(r"^tensorflow==([\d.]+)", pins, re.M)[1]

  def number(text):
    return tuple(map(int, text.split(".")[:2]))

  assert number(serving.split(":")[1]) >= number(tensorflow)


@pytest.mark.parametrize("where", ["kubernetes", "compose"])
def test_the_server_takes_every_flag(where):
  if where == "compose":
    (compose,) = deploy_files.documents(DEPLOY / "compose.yaml")
    arguments = compose["services"]["serving"]["command"]
  else:
    arguments = deploy_files.container()["args"]
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
  (prometheus,) = deploy_files.documents(DEPLOY / "monitoring" / "prometheus.yaml")
  (job,) = prometheus["scrape_configs"]
  assert job["metrics_path"] == monitoring.prometheus_config.path
  annotations = deploy_files.deployment()["spec"]["template"]["metadata"]["annotations"]
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
