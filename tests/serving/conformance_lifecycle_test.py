"""The lifecycle of TensorFlow Serving, row by row: reloads, labels, versions that come and go.

Against the embedded server, or any other one whose base path is shared: see conftest.py. What needs
a server of its own (starts that fail, TLS, SIGTERM) is in server_test.py and security_test.py.
"""

import grpc
import pytest
from tensorflow_serving.apis import model_management_pb2

from tests.serving.calls import (
  Code,
  add_version,
  echo,
  expect,
  http_call,
  reload_request,
  request_of,
  states,
  wait_until,
)


def reload(stubs, *configs, **models):
  response = stubs.model.HandleReloadConfigRequest(reload_request(*configs, **models), timeout=60)
  assert response.status.error_code == 0


BOTH = "model_version_policy { specific { versions: 1 versions: 2 } }"


def test_a_reload_must_be_a_list(stubs):
  request = model_management_pb2.ReloadConfigRequest()
  message = (
    "ServerModelConfig type not supported by HandleReloadConfigRequest."
    " Only ModelConfigList is currently supported"
  )
  expect(stubs.model.HandleReloadConfigRequest, request, Code.INVALID_ARGUMENT, message)


REFUSED = {
  "relative path": (
    ['name: "triv" base_path: "models"'],
    Code.INVALID_ARGUMENT,
    "Expected model triv to have an absolute path or URI; got base_path()=models",
  ),
  "duplicate name": (
    ['name: "triv" base_path: "{base}"', 'name: "triv" base_path: "{base}"'],
    Code.INVALID_ARGUMENT,
    "Illegal to list model triv multiple times in config list",
  ),
  "label to an unloaded version": (
    ['name: "triv" base_path: "{base}" version_labels {{ key: "a" value: 55 }}'],
    Code.FAILED_PRECONDITION,
    "Request to assign label to version 55 of model triv, which is not currently available for"
    " inference",
  ),
}


@pytest.mark.parametrize("row", REFUSED)
def test_a_wrong_reload_is_refused_and_changes_nothing(stubs, served, row):
  configs, code, message = REFUSED[row]
  request = reload_request(*(text.format(base=served) for text in configs))
  expect(stubs.model.HandleReloadConfigRequest, request, code, message)
  assert echo(stubs) == (1, 1.0)


def test_an_empty_list_unloads_everything(stubs, served):
  reload(stubs)
  wait_until(lambda: states(stubs) == [(1, "END")])
  expect(
    stubs.prediction.Predict,
    request_of({"x": [1.0]}, "echo"),
    Code.NOT_FOUND,
    "Servable not found for request: Latest(triv)",
  )


def test_a_model_that_is_added_is_there_when_the_reload_returns(stubs, served):
  reload(stubs, triv=served, other=served)
  assert echo(stubs, "other") == (1, 1.0)
  reload(stubs, triv=served)
  wait_until(lambda: states(stubs, "other") == [(1, "END")])
  assert echo(stubs) == (1, 1.0)


def test_a_reload_tells_how_metrics_grew(stubs, served):
  request = reload_request(triv=served)
  request.metric_names.append("/tensorflow/serving/request_count")
  (metric,) = stubs.model.HandleReloadConfigRequest(request, timeout=60).metric
  assert metric.name == "/tensorflow/serving/request_count"


def test_a_new_version_takes_over_and_the_old_one_ends(stubs, served, triv2):
  add_version(served, triv2, 2)
  wait_until(lambda: states(stubs)[:2] == [(2, "AVAILABLE"), (1, "END")])
  assert echo(stubs) == (2, 2.0)
  message = "Servable not found for request: Specific(triv, 1)"
  expect(stubs.prediction.Predict, request_of({}, version=1), Code.NOT_FOUND, message)


def test_labels_are_assigned_promoted_and_rolled_back(stubs, served, rest, triv2):
  add_version(served, triv2, 2)
  both = f'name: "triv" base_path: "{served}" {BOTH}'

  def label(name, version):
    return f'version_labels {{ key: "{name}" value: {version} }}'

  reload(stubs, both)
  wait_until(lambda: states(stubs)[:2] == [(2, "AVAILABLE"), (1, "AVAILABLE")])
  reload(stubs, both + label("stable", 1) + label("canary", 2))
  assert echo(stubs, label="stable") == (1, 1.0)
  assert echo(stubs, label="canary") == (2, 2.0)
  path = "/v1/models/triv/labels/canary:predict"
  body = {"signature_name": "echo", "instances": [1.0]}
  assert http_call(rest, "POST", path, body).json == {"predictions": [2.0]}
  reload(stubs, both + label("stable", 2))
  assert echo(stubs, label="stable") == (2, 2.0)
  message = "Unrecognized servable version label: canary"
  expect(stubs.prediction.Predict, request_of({}, label="canary"), Code.INVALID_ARGUMENT, message)
  reload(stubs, both + label("stable", 1))
  assert echo(stubs, label="stable") == (1, 1.0)


def test_policies_change_while_it_runs(stubs, served, triv2):
  add_version(served, triv2, 2)
  wait_until(lambda: states(stubs)[:2] == [(2, "AVAILABLE"), (1, "END")])
  reload(stubs, f'name: "triv" base_path: "{served}" {BOTH}')
  wait_until(lambda: states(stubs)[:2] == [(2, "AVAILABLE"), (1, "AVAILABLE")])
  reload(
    stubs,
    f'name: "triv" base_path: "{served}" model_version_policy {{ specific {{ versions: 1 }} }}',
  )
  wait_until(lambda: states(stubs)[:2] == [(2, "END"), (1, "AVAILABLE")])
  assert echo(stubs) == (1, 1.0)


def test_calls_go_on_through_reloads(stubs, served, triv2):
  """Many changes of policy under calls: none may fail."""
  add_version(served, triv2, 2)
  only = 'name: "triv" base_path: "{}" model_version_policy {{ specific {{ versions: {} }} }}'
  for version in (1, 2, 1):
    reload(stubs, only.format(served, version))
    try:
      wait_until(lambda version=version: echo(stubs)[0] == version)
    except grpc.RpcError as error:
      pytest.fail(str(error))
