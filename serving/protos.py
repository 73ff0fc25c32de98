"""The messages of TensorFlow Serving's API that the client needs, without TensorFlow.

The official stubs import `tensorflow.core.framework` and with it all of TensorFlow: see
`docs/adr/client-without-tensorflow.md`. This module declares the same messages in a separate
descriptor pool: the bytes on the wire are the same, and both can be used in one process. A test
compares every name, number and type with the official ones.
"""

from __future__ import annotations

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

_F = descriptor_pb2.FieldDescriptorProto
_TYPES = {
  "int32": _F.TYPE_INT32,
  "int64": _F.TYPE_INT64,
  "uint32": _F.TYPE_UINT32,
  "uint64": _F.TYPE_UINT64,
  "float": _F.TYPE_FLOAT,
  "double": _F.TYPE_DOUBLE,
  "bool": _F.TYPE_BOOL,
  "string": _F.TYPE_STRING,
  "bytes": _F.TYPE_BYTES,
}

# message -> {field: (number, type)}; "*" marks a repeated field, "map" a map from string to the
# type. An enum is an int32 on the wire. `tensorflow.TensorShapeProto.Dim` and
# `google.protobuf.Int64Value` have shorter names here.
MESSAGES = {
  "Dim": {"size": (1, "int64"), "name": (2, "string")},
  "TensorShapeProto": {"dim": (2, "*Dim"), "unknown_rank": (3, "bool")},
  "TensorProto": {
    "dtype": (1, "int32"),
    "tensor_shape": (2, "TensorShapeProto"),
    "version_number": (3, "int32"),
    "tensor_content": (4, "bytes"),
    "float_val": (5, "*float"),
    "double_val": (6, "*double"),
    "int_val": (7, "*int32"),
    "string_val": (8, "*bytes"),
    "scomplex_val": (9, "*float"),
    "int64_val": (10, "*int64"),
    "bool_val": (11, "*bool"),
    "dcomplex_val": (12, "*double"),
    "half_val": (13, "*int32"),
    "uint32_val": (16, "*uint32"),
    "uint64_val": (17, "*uint64"),
  },
  "Int64Value": {"value": (1, "int64")},
  "ModelSpec": {
    "name": (1, "string"),
    "version": (2, "Int64Value"),
    "signature_name": (3, "string"),
    "version_label": (4, "string"),
  },
  "PredictRequest": {
    "model_spec": (1, "ModelSpec"),
    "inputs": (2, "map TensorProto"),
    "output_filter": (3, "*string"),
  },
  "PredictResponse": {"outputs": (1, "map TensorProto"), "model_spec": (2, "ModelSpec")},
}
PREDICT = "/tensorflow.serving.PredictionService/Predict"


def declare(file_name: str, package: str, messages: dict[str, dict]) -> dict[str, type]:
  """Makes message classes in a separate descriptor pool.

  Args:
    file_name: the name of the `.proto` file to declare.
    package: the package of the messages.
    messages: `{message: {field: (number, type)}}`, as `MESSAGES`.

  Returns:
    The message classes by name.
  """
  file = descriptor_pb2.FileDescriptorProto(name=file_name, package=package, syntax="proto3")
  for name, fields in messages.items():
    message = file.message_type.add(name=name)
    for field, (number, kind) in fields.items():
      if kind.startswith("map "):
        entry = message.nested_type.add(name=f"{field.title()}Entry")
        entry.options.map_entry = True
        _add_field(entry, package, "key", 1, "string")
        _add_field(entry, package, "value", 2, kind.removeprefix("map "))
        kind = f"*{name}.{entry.name}"
      _add_field(message, package, field, number, kind)
  pool = descriptor_pool.DescriptorPool()
  pool.Add(file)
  return {
    name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{package}.{name}"))
    for name in messages
  }


def _add_field(message, package, name, number, kind) -> None:
  repeated, kind = kind.startswith("*"), kind.removeprefix("*")
  field = message.field.add(
    name=name, number=number, label=_F.LABEL_REPEATED if repeated else _F.LABEL_OPTIONAL
  )
  if kind in _TYPES:
    field.type = _TYPES[kind]
  else:
    field.type, field.type_name = _F.TYPE_MESSAGE, f".{package}.{kind}"


_classes = declare("serving/protos.proto", "wm_tf.serving", MESSAGES)
TensorProto = _classes["TensorProto"]
PredictRequest = _classes["PredictRequest"]
PredictResponse = _classes["PredictResponse"]
