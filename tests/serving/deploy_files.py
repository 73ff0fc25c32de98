"""The files of `serving/deploy`, read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "serving" / "deploy"
KUBERNETES = sorted((DEPLOY / "kubernetes").glob("*.yaml"))


def documents(path: Path) -> list[dict]:
  """The documents of a YAML file."""
  yaml = pytest.importorskip("yaml", reason="pip install pyyaml")
  return [document for document in yaml.safe_load_all(path.read_text()) if document]


def all_kubernetes() -> dict[str, dict]:
  """Every Kubernetes object, by `Kind/name`."""
  return {d["kind"] + "/" + d["metadata"]["name"]: d for p in KUBERNETES for d in documents(p)}


def deployment() -> dict:
  """The Deployment of the planner."""
  return all_kubernetes()["Deployment/planner"]


def container() -> dict:
  """Its one container."""
  (only,) = deployment()["spec"]["template"]["spec"]["containers"]
  return only


def expressions() -> dict[str, str]:
  """Every query of the dashboard and of the alerts, by panel or alert."""
  dashboard = json.loads((DEPLOY / "monitoring" / "dashboard.json").read_text())
  found = {p["title"] + t["refId"]: t["expr"] for p in dashboard["panels"] for t in p["targets"]}
  (alerts,) = documents(DEPLOY / "monitoring" / "alerts.yaml")
  rules = [rule for group in alerts["groups"] for rule in group["rules"]]
  return found | {rule["alert"]: rule["expr"] for rule in rules}
