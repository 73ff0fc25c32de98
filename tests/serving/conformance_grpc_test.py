"""The gRPC contract of TensorFlow Serving, row by row, through the official stubs.

Against the embedded server, or any other one: see conftest.py.
"""

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.framework import types_pb2
from tensorflow.core.framework.tensor_pb2 import TensorProto
from tensorflow_serving.apis import (
  classification_pb2,
  get_model_metadata_pb2,
  get_model_status_pb2,
  predict_pb2,
  regression_pb2,
)

from tests.serving.calls import (
  FRAME,
  Code,
  act_inputs,
  expect,
  flood,
  metadata_request,
  request_of,
  status_request,
)


def test_predict_answers_typed_fields_and_the_resolved_spec(stubs):
  response = stubs.prediction.Predict(request_of(act_inputs()))
  assert response.model_spec.name == "triv"
  assert response.model_spec.version.value == 1
  assert response.model_spec.signature_name == "serving_default"
  assert set(response.outputs) == {"action", "agent_action", "value", "h", "c"}
  action = response.outputs["action"]
  assert action.tensor_content == b""
  assert len(action.float_val) == 6
  brightness = FRAME.reshape(2, -1).mean(1)
  expected = [[brightness[0], 1, 2], [brightness[1], 3, 4]]
  np.testing.assert_allclose(tf.make_ndarray(action), expected, rtol=1e-6)
  np.testing.assert_array_equal(tf.make_ndarray(response.outputs["h"]), np.ones((2, 4)))


def test_predict_by_version_and_signature(stubs):
  response = stubs.prediction.Predict(request_of({"x": [1.5]}, "echo", version=1))
  assert response.model_spec.signature_name == "echo"
  assert list(response.outputs["x"].float_val) == [1.5]


def test_scalars_of_strings(stubs):
  response = stubs.prediction.Predict(request_of({"text": np.array(b"ab", object)}, "text"))
  assert list(response.outputs["text"].string_val) == [b"AB"]
  assert not response.outputs["text"].tensor_shape.dim


def test_output_filter(stubs):
  response = stubs.prediction.Predict(request_of(act_inputs(), output_filter=["value", "h"]))
  assert set(response.outputs) == {"value", "h"}


MISSING_SPEC = [
  ("prediction", "Predict", predict_pb2.PredictRequest()),
  ("prediction", "GetModelMetadata", get_model_metadata_pb2.GetModelMetadataRequest()),
  ("model", "GetModelStatus", get_model_status_pb2.GetModelStatusRequest()),
  ("prediction", "Classify", classification_pb2.ClassificationRequest()),
  ("prediction", "Regress", regression_pb2.RegressionRequest()),
]


@pytest.mark.parametrize("service, method, request_", MISSING_SPEC)
def test_no_model_spec(stubs, service, method, request_):
  call = getattr(getattr(stubs, service), method)
  expect(call, request_, Code.INVALID_ARGUMENT, "Missing ModelSpec")


PREDICT_ROWS = {
  "empty name": (
    lambda: request_of({}, name=""),
    Code.INVALID_ARGUMENT,
    "ModelSpec has no name specified.",
  ),
  "unknown model": (
    lambda: request_of({}, name="nope"),
    Code.NOT_FOUND,
    "Servable not found for request: Latest(nope)",
  ),
  "unknown version": (
    lambda: request_of({}, version=77),
    Code.NOT_FOUND,
    "Servable not found for request: Specific(triv, 77)",
  ),
  "unknown label": (
    lambda: request_of({}, label="stable"),
    Code.INVALID_ARGUMENT,
    "Unrecognized servable version label: stable",
  ),
  "unknown signature": (
    lambda: request_of({}, "nosig"),
    Code.FAILED_PRECONDITION,
    'Serving signature key "nosig" not found.',
  ),
  "missing inputs": (
    lambda: request_of({"frame": FRAME}),
    Code.INVALID_ARGUMENT,
    "input size does not match signature: 1!=4 len({frame}) != len({c,frame,h,seed})."
    " Sent extra: {}. Missing but required: {c,h,seed}.",
  ),
  "extra input": (
    lambda: request_of({"x": [1.0], "y": [1.0]}, "echo"),
    Code.INVALID_ARGUMENT,
    "input size does not match signature: 2!=1 len({x,y}) != len({x})."
    " Sent extra: {y}. Missing but required: {}.",
  ),
  "wrong name": (
    lambda: request_of({"frame": FRAME}, "image"),
    Code.INVALID_ARGUMENT,
    "Signature input alias: img(feed name: image_img:0) not found in request and no default value"
    " provided. Inputs expected to be in the request {frame}, or default input alias set: ",
  ),
  "wrong dtype": (
    lambda: request_of({"img": np.zeros((1, 64, 64, 3), np.float32)}, "image"),
    Code.INVALID_ARGUMENT,
    "Expects arg[0] to be uint8 but float is provided",
  ),
  "truncated content": (
    lambda: request_of(
      act_inputs()
      | {
        "frame": TensorProto(
          dtype=types_pb2.DT_UINT8,
          tensor_shape=tf.TensorShape([1, 8, 8, 3]).as_proto(),
          tensor_content=b"123",
        )
      }
    ),
    Code.INVALID_ARGUMENT,
    "tensor parsing error: frame",
  ),
  "dtype 0": (
    lambda: request_of(act_inputs() | {"frame": TensorProto()}),
    Code.INVALID_ARGUMENT,
    "tensor parsing error: frame",
  ),
  "unknown output": (
    lambda: request_of({"x": [1.0]}, "echo", output_filter=["nah"]),
    Code.INVALID_ARGUMENT,
    "output tensor alias not found in signature: nah Outputs expected to be in the set {x}.",
  ),
  "duplicate output": (
    lambda: request_of({"x": [1.0]}, "echo", output_filter=["x", "x"]),
    Code.INVALID_ARGUMENT,
    "duplicate output tensor alias: x",
  ),
}


@pytest.mark.parametrize("row", PREDICT_ROWS)
def test_predict_refuses(stubs, row):
  make, code, message = PREDICT_ROWS[row]
  expect(stubs.prediction.Predict, make(), code, message)


def test_the_shape_is_the_graphs_business(stubs):
  # A rank that the signature rules out reaches the op, whose own error comes back.
  expect(
    stubs.prediction.Predict,
    request_of({"img": np.zeros((64, 3), np.uint8)}, "image"),
    Code.INVALID_ARGUMENT,
  )
  # A size that it rules out, but that the op can do, is answered.
  response = stubs.prediction.Predict(
    request_of({"img": np.full((1, 5, 7, 3), 9, np.uint8)}, "image")
  )
  np.testing.assert_allclose(tf.make_ndarray(response.outputs["action"]), [[9, 9, 9]])


def test_batch_sizes_that_differ_are_the_ops_error(stubs):
  inputs = act_inputs() | {"seed": np.zeros((3, 2), np.int32)}
  expect(stubs.prediction.Predict, request_of(inputs), Code.INVALID_ARGUMENT)


def test_long_messages_are_truncated(stubs):
  message = expect(
    stubs.prediction.Predict, request_of({"x": [1.0]}, "fail"), Code.INVALID_ARGUMENT
  )
  assert message.startswith("assertion failed: [no]")
  assert message.endswith("...TRUNCATED")
  assert len(message) == 1024 + len("...TRUNCATED")


def test_a_single_value_fills_the_shape(stubs):
  proto = TensorProto(
    dtype=types_pb2.DT_UINT8,
    tensor_shape=tf.TensorShape([2, 64, 64, 3]).as_proto(),
    int_val=[7],
  )
  response = stubs.prediction.Predict(request_of({"img": proto}, "image"))
  np.testing.assert_allclose(tf.make_ndarray(response.outputs["action"]), np.full((2, 3), 7.0))


def test_a_large_request_is_accepted(stubs):
  response = stubs.prediction.Predict(
    request_of({"img": np.full((600, 64, 64, 3), 3, np.uint8)}, "image"), timeout=30
  )
  assert tf.make_ndarray(response.outputs["action"]).shape == (600, 3)


def test_more_calls_than_threads_are_told_so(stubs):
  ended = flood(stubs, 200, 100)
  full = (Code.RESOURCE_EXHAUSTED, "Server Threadpool Exhausted")
  assert set(ended) == {(Code.OK, ""), full}
  assert ended.count(full) < 200


def test_client_deadline(stubs):
  expect(
    stubs.prediction.Predict,
    request_of({"milliseconds": np.array([500], np.int32)}, "slow"),
    Code.DEADLINE_EXCEEDED,
    "Deadline Exceeded",
    timeout=0.1,
  )


def test_metadata(stubs):
  response = stubs.prediction.GetModelMetadata(metadata_request())
  assert response.model_spec.name == "triv"
  assert response.model_spec.version.value == 1
  signatures = get_model_metadata_pb2.SignatureDefMap()
  assert response.metadata["signature_def"].Unpack(signatures)
  act = signatures.signature_def["act"]
  assert act.method_name == "tensorflow/serving/predict"
  assert act.inputs["frame"].dtype == types_pb2.DT_UINT8
  assert [d.size for d in act.inputs["frame"].tensor_shape.dim] == [-1, -1, -1, 3]


METADATA_ROWS = {
  "no field": (
    {"fields": ()},
    Code.INVALID_ARGUMENT,
    "GetModelMetadataRequest must specify at least one metadata_field",
  ),
  "bad field": ({"fields": ["foo"]}, Code.INVALID_ARGUMENT, "Metadata field foo is not supported"),
  "empty name": ({"name": ""}, Code.INVALID_ARGUMENT, "ModelSpec has no name specified."),
  "unknown model": (
    {"name": "nope"},
    Code.NOT_FOUND,
    "Servable not found for request: Latest(nope)",
  ),
  "unknown version": (
    {"version": 77},
    Code.NOT_FOUND,
    "Servable not found for request: Specific(triv, 77)",
  ),
}


@pytest.mark.parametrize("row", METADATA_ROWS)
def test_metadata_refuses(stubs, row):
  options, code, message = METADATA_ROWS[row]
  expect(stubs.prediction.GetModelMetadata, metadata_request(**options), code, message)


@pytest.mark.parametrize("options", [{}, {"version": 1}, {"label": "ignored"}])
def test_status(stubs, options):
  response = stubs.model.GetModelStatus(status_request(**options))
  (status,) = (s for s in response.model_version_status if s.version == 1)
  assert status.state == get_model_status_pb2.ModelVersionStatus.AVAILABLE
  assert status.HasField("status")
  assert status.status.error_code == 0
  assert status.status.error_message == ""


@pytest.mark.parametrize(
  "options, message",
  [
    ({"name": "nope"}, "Could not find any versions of model nope"),
    ({"version": 9}, "Could not find version 9 of model triv"),
  ],
)
def test_status_refuses(stubs, options, message):
  expect(stubs.model.GetModelStatus, status_request(**options), Code.NOT_FOUND, message)


def test_unknown_methods_are_unimplemented(stubs):
  for method in (
    "/tensorflow.serving.PredictionService/Nope",
    "/tensorflow.serving.SessionService/SessionRun",
  ):
    call = stubs.channel.unary_unary(method)
    expect(call, b"", Code.UNIMPLEMENTED, "")


def test_bytes_that_are_no_request(stubs):
  call = stubs.channel.unary_unary("/tensorflow.serving.PredictionService/Predict")
  expect(call, b"\xff\xff\xff", Code.INTERNAL)


def test_health_is_off(stubs):
  expect(stubs.channel.unary_unary("/grpc.health.v1.Health/Check"), b"", Code.UNIMPLEMENTED, "")
