"""The client's own messages are the official ones, and need no TensorFlow."""

import pathlib
import subprocess
import sys

import pytest
from google.protobuf import wrappers_pb2
from google.protobuf.descriptor import FieldDescriptor
from tensorflow.core.framework import tensor_pb2, tensor_shape_pb2
from tensorflow_serving.apis import model_pb2, predict_pb2

from serving import protos

OFFICIAL = {
  "Dim": tensor_shape_pb2.TensorShapeProto.Dim,
  "TensorShapeProto": tensor_shape_pb2.TensorShapeProto,
  "TensorProto": tensor_pb2.TensorProto,
  "Int64Value": wrappers_pb2.Int64Value,
  "ModelSpec": model_pb2.ModelSpec,
  "PredictRequest": predict_pb2.PredictRequest,
  "PredictResponse": predict_pb2.PredictResponse,
}


def _kind(field):
  # An enum and an int32 are the same on the wire.
  enum = field.type == FieldDescriptor.TYPE_ENUM
  return FieldDescriptor.TYPE_INT32 if enum else field.type, field.is_repeated


@pytest.mark.parametrize("name", protos.MESSAGES)
def test_every_field_is_the_official_one(name):
  ours = protos._classes[name].DESCRIPTOR
  official = OFFICIAL[name].DESCRIPTOR
  for field in ours.fields:
    theirs = official.fields_by_name[field.name]
    assert field.number == theirs.number
    assert _kind(field) == _kind(theirs), field.name
    if field.type == FieldDescriptor.TYPE_MESSAGE and not field.message_type.GetOptions().map_entry:
      assert OFFICIAL[field.message_type.name].DESCRIPTOR is theirs.message_type


def test_the_bytes_are_the_official_ones():
  ours = protos.PredictRequest(output_filter=["a"])
  ours.model_spec.name = "planner"
  ours.model_spec.version.value = 3
  ours.inputs["x"].dtype = 1
  ours.inputs["x"].float_val.extend([1.0, 2.0])
  ours.inputs["x"].tensor_shape.dim.add().size = 2
  official = predict_pb2.PredictRequest.FromString(ours.SerializeToString())
  assert official.model_spec.version.value == 3
  assert list(official.inputs["x"].float_val) == [1.0, 2.0]
  assert official.SerializeToString(deterministic=True) == ours.SerializeToString(
    deterministic=True
  )


def test_the_client_imports_no_tensorflow():
  code = (
    "import sys; import serving.client;"
    "bad = [m for m in sys.modules if m.split('.')[0] in ('tensorflow', 'wm_tf', 'keras', 'absl')];"
    "sys.exit(', '.join(bad[:5]) or 0)"
  )
  root = pathlib.Path(__file__).resolve().parents[2]
  result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root)
  assert result.returncode == 0, result.stderr
