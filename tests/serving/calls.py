"""Requests for the model of `tests/serving/models.py`, and what a refusal must look like."""

import contextlib
import http.client
import json
import os
import shutil
import threading
import time
from typing import Any, NamedTuple

import grpc
import numpy as np
import pytest
import tensorflow as tf
from google.protobuf import text_format
from tensorflow.core.framework.tensor_pb2 import TensorProto
from tensorflow_serving.apis import (
  get_model_metadata_pb2,
  get_model_status_pb2,
  model_management_pb2,
  predict_pb2,
)

from serving import protos

Code = grpc.StatusCode
FRAME = np.arange(2 * 8 * 8 * 3, dtype=np.uint8).reshape(2, 8, 8, 3)


def act_inputs(batch=2):
  return {
    "frame": FRAME[:batch],
    "seed": np.array([[1, 2], [3, 4]], np.int32)[:batch],
    "h": np.zeros((batch, 4), np.float32),
    "c": np.zeros((batch, 4), np.float32),
  }


def request_of(inputs, signature="", name="triv", version=None, label=None, output_filter=()):
  request = predict_pb2.PredictRequest(output_filter=output_filter)
  request.model_spec.name = name
  request.model_spec.signature_name = signature
  if version is not None:
    request.model_spec.version.value = version
  if label is not None:
    request.model_spec.version_label = label
  for key, value in inputs.items():
    is_proto = isinstance(value, TensorProto)
    request.inputs[key].CopyFrom(value if is_proto else tf.make_tensor_proto(value))
  return request


def expect(call, request, code, message=None, prefix=None, timeout=20):
  with pytest.raises(grpc.RpcError) as caught:
    call(request, timeout=timeout)
  assert caught.value.code() == code, caught.value
  if message is not None:
    assert caught.value.details() == message
  if prefix is not None:
    assert caught.value.details().startswith(prefix), caught.value.details()
  return caught.value.details()


def metadata_request(name="triv", fields=("signature_def",), version=None):
  request = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=fields)
  request.model_spec.name = name
  if version is not None:
    request.model_spec.version.value = version
  return request


def status_request(name="triv", version=None, label=None):
  request = get_model_status_pb2.GetModelStatusRequest()
  request.model_spec.name = name
  if version is not None:
    request.model_spec.version.value = version
  if label is not None:
    request.model_spec.version_label = label
  return request


def statuses(stubs, name="triv"):
  """`[(version, state name, error)]`, in the server's order."""
  response = stubs.model.GetModelStatus(status_request(name), timeout=20)
  state = get_model_status_pb2.ModelVersionStatus.State
  return [
    (s.version, state.Name(s.state), s.status.error_message) for s in response.model_version_status
  ]


def states(stubs, name="triv"):
  """`[(version, state name)]`, in the server's order."""
  return [(version, state) for version, state, _ in statuses(stubs, name)]


def reload_request(*configs, **models):
  """A HandleReloadConfigRequest of text protos, or of `name=base path`."""
  request = model_management_pb2.ReloadConfigRequest()
  request.config.model_config_list.SetInParent()
  texts = [*configs, *(f'name: "{name}" base_path: "{path}"' for name, path in models.items())]
  for text in texts:
    config = request.config.model_config_list.config.add(model_platform="tensorflow")
    text_format.Merge(text, config)
  return request


def echo(stubs, name="triv", **which):
  """(version, answer) of a model's `echo` for 1.0."""
  response = stubs.prediction.Predict(request_of({"x": [1.0]}, "echo", name, **which), timeout=20)
  return response.model_spec.version.value, response.outputs["x"].float_val[0]


def flood(stubs, count, milliseconds):
  """(code, text) of so many calls at once of a signature that is busy for a while."""
  request = request_of({"milliseconds": np.array([milliseconds], np.int32)}, "slow")
  calls = [stubs.prediction.Predict.future(request, timeout=60) for _ in range(count)]
  for call in calls:
    with contextlib.suppress(grpc.RpcError):
      call.result()
  return [(call.code(), call.details()) for call in calls]


class Answer(NamedTuple):
  """An HTTP answer; `json` is None if the body is not JSON."""

  status: int
  headers: dict[str, str]
  text: str
  json: Any

  @property
  def error(self):
    return self.json["error"]


def http_call(target, method, path, body=None, headers=()):
  """Sends one request: bytes as they are, anything else as JSON."""
  if body is not None and not isinstance(body, bytes | str):
    body = json.dumps(body)
  connection = http.client.HTTPConnection(target, timeout=60)
  try:
    connection.request(method, path, body, dict(headers))
    response = connection.getresponse()
    text = response.read().decode()
  finally:
    connection.close()
  try:
    value = json.loads(text)
  except ValueError:
    value = None
  found = {name.lower(): value for name, value in response.getheaders()}
  return Answer(response.status, found, text, value)


def in_threads(function, count):
  """Runs `function(i)` in so many threads, and raises what one of them raised."""
  errors = []

  def run(i):
    try:
      function(i)
    except BaseException as error:
      errors.append(error)

  threads = [threading.Thread(target=run, args=(i,)) for i in range(count)]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  if errors:
    raise errors[0]


def add_version(base, source, number):
  """Adds a version as an exporter should: by a rename."""
  shutil.copytree(source, base / ".part")
  os.rename(base / ".part", base / str(number))


def wait_until(condition, seconds=30):
  """Waits for something that a server does by itself."""
  end = time.monotonic() + seconds
  while not condition():
    assert time.monotonic() < end, "it did not happen"
    time.sleep(0.02)


class Failing(grpc.GenericRpcHandler):
  """Fails the first calls with the given codes, then answers with no outputs."""

  def __init__(self, *codes):
    self.codes, self.calls, self.text = list(codes), 0, "on purpose"

  def service(self, details):
    return grpc.unary_unary_rpc_method_handler(
      self.answer, response_serializer=protos.PredictResponse.SerializeToString
    )

  def answer(self, request, context):
    self.calls += 1
    if self.codes:
      context.abort(self.codes.pop(0), self.text)
    return protos.PredictResponse()
