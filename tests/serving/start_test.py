"""Starting a server: configurations, labels, missing and broken models, ports and threads."""

import contextlib
import threading
import time

import grpc
import numpy as np
import pytest
import tensorflow as tf
from google.protobuf import text_format
from tensorflow_serving.apis import predict_pb2
from tensorflow_serving.config import model_server_config_pb2

from serving.embedded import EmbeddedServer
from serving.errors import ServingError
from tests.serving import calls
from tests.serving.calls import add_version

POLL = 0.05


@pytest.fixture
def server():
  with EmbeddedServer(poll_seconds=POLL) as server:
    yield server


def _labelled(base, version):
  return text_format.Parse(
    f"""model_config_list {{ config {{ name: "m" base_path: "{base}" model_platform: "tensorflow"
    version_labels {{ key: "stable" value: {version} }} }} }}""",
    model_server_config_pb2.ModelServerConfig(),
  )


def test_labels_before_their_versions_only_when_allowed(base, stubs_for):
  with EmbeddedServer(labels_before_loading=True) as server:
    stubs = stubs_for(server.start(_labelled(base, 1)))
    assert calls.echo(stubs, "m", label="stable") == (1, 1.0)
    # A label in use is not pointed at nothing.
    with pytest.raises(ServingError, match="Request to assign label to version 2 of model m"):
      server.reload(_labelled(base, 2))
    assert calls.echo(stubs, "m", label="stable") == (1, 1.0)
  with EmbeddedServer(labels_before_loading=True) as server:
    stubs = stubs_for(server.start(_labelled(base, 9)))
    calls.expect(
      stubs.prediction.Predict,
      calls.request_of({}, name="m", label="stable"),
      grpc.StatusCode.NOT_FOUND,
      "Servable not found for request: Specific(m, 9)",
    )


def test_a_broken_model_at_the_start_is_an_error(server, base):
  graph = base / "1" / "saved_model.pb"
  graph.write_bytes(graph.read_bytes()[: graph.stat().st_size // 2])
  with pytest.raises(ServingError) as caught:
    server.start({"m": base})
  assert caught.value.code == grpc.StatusCode.UNKNOWN
  assert caught.value.message.startswith(
    "1 servable(s) did not become available: {{{name: m version: 1} due to error: "
  )


def test_a_missing_base_path_is_an_error_or_waited_for(server, tmp_path, triv, stubs_for):
  base = tmp_path / "base"
  with pytest.raises(ServingError, match=r"Could not find base path .*base for servable m"):
    server.start({"m": base})
  found = []
  thread = threading.Thread(target=lambda: found.append(server.start({"m": base}, wait=True)))
  thread.start()
  time.sleep(5 * POLL)
  assert not found
  base.mkdir()
  add_version(base, triv, 1)
  thread.join(30)
  assert calls.echo(stubs_for(found[0]), "m") == (1, 1.0)


CONFIG_ERRORS = {
  'config { name: "a" base_path: "rel" model_platform: "tensorflow" }': (
    "Expected model a to have an absolute path or URI; got base_path()=rel"
  ),
  'config { name: "a" base_path: "/a" model_platform: "tensorflow" }'
  'config { name: "a" base_path: "/b" model_platform: "tensorflow" }': (
    "Illegal to list model a multiple times in config list"
  ),
  'config { name: "a" base_path: "/a" }': "Illegal setting neither ModelServerConfig::model_type",
  'config { name: "a" base_path: "/a" model_platform: "torch" }': "unsupported platform torch",
  'config { name: "a" base_path: "/a" model_platform: "tensorflow"'
  ' version_labels { key: "stable" value: 55 } }': (
    "Request to assign label to version 55 of model a, which is not currently available"
    " for inference"
  ),
}


@pytest.mark.parametrize("text", CONFIG_ERRORS)
def test_wrong_configurations(server, text):
  config = text_format.Parse(
    f"model_config_list {{ {text} }}", model_server_config_pb2.ModelServerConfig()
  )
  with pytest.raises(ServingError) as caught:
    server.start(config)
  assert CONFIG_ERRORS[text] in caught.value.message


def test_more_calls_than_threads_are_told_so(base, stubs_for):
  with EmbeddedServer(max_threads=2) as server:
    stubs = stubs_for(server.start({"m": base}))
    request = predict_pb2.PredictRequest()
    request.model_spec.name, request.model_spec.signature_name = "m", "slow"
    request.inputs["milliseconds"].CopyFrom(tf.make_tensor_proto(np.array([800], np.int32)))
    pending = [stubs.prediction.Predict.future(request, timeout=60) for _ in range(5)]
    codes = []
    for call in pending:
      with contextlib.suppress(grpc.RpcError):
        call.result()
      codes.append((call.code(), call.details()))
  assert codes.count((grpc.StatusCode.OK, "")) == 2
  full = (grpc.StatusCode.RESOURCE_EXHAUSTED, "Server Threadpool Exhausted")
  assert codes.count(full) == 3


def test_a_port_that_is_taken_is_an_error(server, base, target):
  port = int(target.rpartition(":")[2])
  with pytest.raises(ServingError, match=rf"cannot listen on 127.0.0.1:{port}"):
    server.start({"m": base}, port)


def test_replies_with_tensor_content_on_request(base, stubs_for):
  with EmbeddedServer(tensor_content=True) as server:
    stubs = stubs_for(server.start({"m": base}))
    request = predict_pb2.PredictRequest()
    request.model_spec.name, request.model_spec.signature_name = "m", "echo"
    request.inputs["x"].CopyFrom(tf.make_tensor_proto([1.5, 2.5]))
    x = stubs.prediction.Predict(request).outputs["x"]
    assert len(x.tensor_content) == 8 and not x.float_val
    np.testing.assert_array_equal(tf.make_ndarray(x), [1.5, 2.5])
