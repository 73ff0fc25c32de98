"""Made-up requests for `fuzz.py`: bytes, protos, tensors, names, JSON and HTTP, right and wrong."""

from __future__ import annotations

import base64
import gzip
import json
from typing import NamedTuple

import numpy as np
from tensorflow_serving.apis import (
  classification_pb2,
  get_model_metadata_pb2,
  get_model_status_pb2,
  inference_pb2,
  model_management_pb2,
  predict_pb2,
  regression_pb2,
)

from serving import tensors
from tests.serving import calls

_PREDICTION = "/tensorflow.serving.PredictionService/"
_MODEL = "/tensorflow.serving.ModelService/"
_MESSAGES = {
  _PREDICTION + "Predict": predict_pb2.PredictRequest,
  _PREDICTION + "Classify": classification_pb2.ClassificationRequest,
  _PREDICTION + "Regress": regression_pb2.RegressionRequest,
  _PREDICTION + "MultiInference": inference_pb2.MultiInferenceRequest,
  _PREDICTION + "GetModelMetadata": get_model_metadata_pb2.GetModelMetadataRequest,
  _MODEL + "GetModelStatus": get_model_status_pb2.GetModelStatusRequest,
}
# `slow` is as busy as it is told to be: it is not for random numbers.
_SIGNATURES = ["", "act", "initial_state", "image", "echo", "fail", "text", "kinds", "classify"]
_DTYPES = {
  "act": {"frame": "uint8", "seed": "int32", "h": "float32", "c": "float32"},
  "echo": {"x": "float32"},
  "image": {"img": "uint8"},
  "text": {"text": "object"},
  "kinds": {"a": "int64"},
  "initial_state": {"seed": "int32"},
  "regress": {"inputs": "object"},
}
_INPUTS = ["frame", "seed", "h", "c", "x", "img", "a", "text", "inputs", "", "nope"]
_GOOD = frozenset({"OK", "INVALID_ARGUMENT", "NOT_FOUND", "FAILED_PRECONDITION", "UNIMPLEMENTED"})
# A full server says so; and bytes that are no message are INTERNAL, by gRPC's own list.
_CALLS = _GOOD | {"RESOURCE_EXHAUSTED"}
_BYTES = _CALLS | {"INTERNAL"}
_REST = frozenset({"200", "400", "404", "429", "501"})
_HTTP = _REST | {"413", "414", "431", "CLOSED"}


class Request(NamedTuple):
  """One request.

  Attributes:
    kind: what was made up in it.
    method: of gRPC, if it begins with a slash; else of HTTP, or RAW.
    body: what is sent.
    allowed: the codes that it may be answered with.
    path: of HTTP.
    headers: of HTTP.
  """

  kind: str
  method: str
  body: bytes
  allowed: frozenset[str]
  path: str = ""
  headers: tuple[tuple[str, str], ...] = ()


def make(rng: np.random.Generator) -> Request:
  """Makes a request up."""
  return _pick(rng, _KINDS)(rng)


def outputs_of(reply: bytes) -> dict[str, np.ndarray]:
  """The arrays of a PredictResponse."""
  response = predict_pb2.PredictResponse.FromString(reply)
  return {name: tensors.decode(proto) for name, proto in response.outputs.items()}


def _pick(rng, options):
  return options[rng.integers(len(options))]


def _text(rng) -> str:
  """A name: of what there is, or strange."""
  strange = ["", "triv", "TRIV", "../../etc/passwd", "/etc/passwd", "triv/1", "\x00", "a" * 5000]
  strange += ["äöü\u202e", "💥", "triv:predict", "%2e%2e%2f", "{}", "\n\r\t", "triv\x00x"]
  if rng.random() < 0.8:
    return _pick(rng, strange)
  return "".join(chr(int(c)) for c in rng.integers(1, 0xD7FF, rng.integers(0, 20)))


def _fill_spec(rng, spec) -> None:
  spec.name = "triv" if rng.random() < 0.8 else _text(rng)
  if rng.random() < 0.8:
    spec.signature_name = _pick(rng, _SIGNATURES)
  elif rng.random() < 0.5:
    spec.signature_name = _text(rng)
  choice = rng.random()
  if choice < 0.1:
    spec.version.value = int(_pick(rng, [0, 1, -1, 2**63 - 1, -(2**63), 7]))
  elif choice < 0.15:
    spec.version_label = _text(rng)


def _fill_tensor(rng, proto) -> None:
  proto.dtype = int(_pick(rng, [0, 1, 2, 3, 4, 7, 8, 9, 10, 14, 19, 20, 21, 23, 99, 101]))
  for _ in range(rng.integers(0, 5)):
    proto.tensor_shape.dim.add().size = int(
      _pick(rng, [-1, 0, 1, 1, 1, 2, 2, 3, 4, 8, 64, 2**31, 2**62])
    )
  proto.tensor_shape.unknown_rank = bool(rng.random() < 0.05)
  if rng.random() < 0.5:
    proto.tensor_content = rng.bytes(int(rng.integers(0, 64)))
  if rng.random() < 0.3:
    proto.float_val.extend(rng.normal(size=rng.integers(0, 8)).tolist())
  if rng.random() < 0.3:
    proto.int_val.extend(rng.integers(-300, 300, rng.integers(0, 8)).tolist())
  if rng.random() < 0.2:
    proto.string_val.extend([rng.bytes(int(rng.integers(0, 9))) for _ in range(3)])
  if rng.random() < 0.1:
    proto.int64_val.extend([2**63 - 1, -(2**63)])
    proto.half_val.extend([70000, -1])


def _array(rng, dtype="") -> np.ndarray:
  """A sound tensor, of a type or of any, and of a shape that is small."""
  shape = tuple(int(n) for n in rng.integers(0, 5, rng.integers(0, 5)))
  dtype = dtype or _pick(rng, ["float32", "float64", "int32", "uint8", "int64", "bool", "object"])
  if dtype == "object":
    array = np.empty(shape, object)
    array[...] = b"text"
    return array
  return rng.integers(0, 2, shape).astype(dtype)


def _good_predict(rng) -> predict_pb2.PredictRequest:
  choice = rng.integers(4)
  if choice == 0:
    return calls.request_of(calls.act_inputs(int(rng.integers(1, 3))), "act")
  if choice == 1:
    return calls.request_of({"x": rng.normal(size=3).astype(np.float32)}, "echo")
  if choice == 2:
    return calls.request_of({"text": np.array([b"a", b"\xff"], object)}, "text")
  return calls.request_of({"a": rng.integers(-9, 9, (2, 2))}, "kinds")


def _random_bytes(rng) -> Request:
  method = _pick(rng, [*_MESSAGES, _MODEL + "HandleReloadConfigRequest", "/a/b", "/x.Y/Z"])
  return Request("bytes", method, rng.bytes(int(rng.integers(0, 300))), _BYTES)


def _mutated(rng) -> Request:
  data = bytearray(_good_predict(rng).SerializeToString())
  for _ in range(rng.integers(1, 6)):
    place = int(rng.integers(len(data)))
    action = rng.integers(3)
    if action == 0:
      data[place] ^= 1 << int(rng.integers(8))
    elif action == 1:
      data[place:place] = rng.bytes(int(rng.integers(1, 5)))
    elif len(data) > 2:
      del data[place : place + int(rng.integers(1, 9))]
    data = data or bytearray(b"\0")
  return Request("mutated protos", _PREDICTION + "Predict", bytes(data), _BYTES)


def _protos(rng) -> Request:
  method = _pick(rng, list(_MESSAGES))
  request = _MESSAGES[method]()
  if rng.random() < 0.95:
    if isinstance(request, inference_pb2.MultiInferenceRequest):
      for _ in range(rng.integers(0, 4)):
        task = request.tasks.add(
          method_name="tensorflow/serving/" + _pick(rng, ["classify", "regress", "predict", "x"])
        )
        _fill_spec(rng, task.model_spec)
    else:
      _fill_spec(rng, request.model_spec)
  if hasattr(request, "input") and rng.random() < 0.8:
    for _ in range(rng.integers(0, 4)):
      example = request.input.example_list.examples.add()
      example.features.feature[_text(rng)].float_list.value.append(1.0)
      example.features.feature["x"].bytes_list.value.append(b"no float")
  if hasattr(request, "metadata_field") and rng.random() < 0.8:
    request.metadata_field.append(_pick(rng, ["signature_def", "foo", ""]))
  if hasattr(request, "output_filter") and rng.random() < 0.5:
    request.output_filter.extend([_pick(rng, ["x", "action", "h", ""]), _text(rng)])
  return Request("protos", method, request.SerializeToString(), _CALLS)


def _tensors(rng) -> Request:
  request = predict_pb2.PredictRequest()
  request.model_spec.name = "triv"
  signature = _pick(rng, list(_DTYPES))
  request.model_spec.signature_name = signature
  for name, dtype in _DTYPES[signature].items():
    choice = rng.random()
    if choice < 0.7:  # Mostly of the right type, so that ops meet the odd shapes.
      array = _array(rng, dtype if choice < 0.6 else "")
      tensors.encode(array, request.inputs[name], as_content=bool(rng.random() < 0.5))
    else:
      _fill_tensor(rng, request.inputs[name])
  if rng.random() < 0.1:
    _fill_tensor(rng, request.inputs[_pick(rng, _INPUTS)])
  return Request("tensors", _PREDICTION + "Predict", request.SerializeToString(), _CALLS)


def _valid(rng) -> Request:
  data = _good_predict(rng).SerializeToString()
  return Request("sound", _PREDICTION + "Predict", data, frozenset({"OK", "RESOURCE_EXHAUSTED"}))


def _reloads(rng) -> Request:
  request = model_management_pb2.ReloadConfigRequest()
  if rng.random() < 0.9:
    # Each of them is refused: none may reach what is served.
    for _ in range(2):
      request.config.model_config_list.config.add(
        name="same", base_path=_pick(rng, ["../..", "relative", "/tmp", ""]), model_platform="x"
      )
  data = request.SerializeToString()
  return Request("reloads", _MODEL + "HandleReloadConfigRequest", data, _CALLS - {"OK"})


def _json_value(rng, depth=0):
  scalars = [0, 1, -1, 1.5, 1e300, 2**40, 2**70, True, False, None, "", "text", float("nan")]
  choice = rng.random()
  if depth > 4 or choice < 0.4:
    return _pick(rng, scalars)
  if choice < 0.75:
    return [_json_value(rng, depth + 1) for _ in range(rng.integers(0, 4))]
  if choice < 0.8:
    return {"b64": _pick(rng, ["", "YQ==", "!!", base64.b64encode(rng.bytes(9)).decode()])}
  names = ["instances", "inputs", "signature_name", "x", "frame", "b64", "examples", "context"]
  return {_pick(rng, names): _json_value(rng, depth + 1) for _ in range(rng.integers(0, 4))}


def _path(rng) -> str:
  verb = _pick(rng, [":predict", ":classify", ":regress", "", "/metadata", ":explode"])
  version = _pick(rng, ["", "", "", "/versions/1", "/versions/99", "/labels/a", "/versions/x"])
  name = "triv" if rng.random() < 0.8 else _pick(rng, ["nope", "..%2f..", "%ff", "%00", "a" * 900])
  return f"/v1/models/{name}{version}{verb}"


def _json(rng) -> Request:
  document = {
    "signature_name": _pick(rng, _SIGNATURES),
    _pick(rng, ["instances", "inputs", "examples"]): _json_value(rng),
  }
  choice = rng.random()
  if choice < 0.2:
    document = _json_value(rng)
  elif choice < 0.5:  # Sound, or nearly.
    signature, rows = _pick(
      rng, [("echo", [1.5, -2]), ("text", ["a", {"b64": "/w=="}]), ("kinds", [[1, 2], [3, 4]])]
    )
    if rng.random() < 0.5:
      rows = [*rows, _json_value(rng)]
    document = {"signature_name": signature, _pick(rng, ["instances", "inputs"]): rows}
  body = json.dumps(document).encode()
  if rng.random() < 0.2:
    place = int(rng.integers(len(body)))
    body = body[:place] + rng.bytes(int(rng.integers(0, 3))) + body[place + 1 :]
  headers = ()
  if rng.random() < 0.1:
    body, headers = gzip.compress(body), (("Content-Encoding", "gzip"),)
    if rng.random() < 0.5:
      body = body[: int(rng.integers(len(body)))]
  return Request("JSON", "POST", body, _REST, _path(rng), headers)


def _deep(rng) -> Request:
  body = _pick(rng, [b"[", b'{"instances":', b'{"a":[']) * int(rng.integers(1, 20_000))
  return Request("deep JSON", "POST", body, _REST, "/v1/models/triv:predict")


def _methods(rng) -> Request:
  method = _pick(rng, ["GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "HEAD"])
  path = _path(rng) if rng.random() < 0.7 else _pick(rng, ["/", "/v1", "/v1/", "/v1/models", "*"])
  return Request("methods and paths", method, b"", _REST, path)


def _raw(rng) -> Request:
  lines = [
    rng.bytes(int(rng.integers(1, 400))),
    b"GET /v1/models/triv HTTP/9.9\r\n\r\n",
    b"POST /v1/models/triv:predict HTTP/1.1\r\nContent-Length: 99\r\n\r\nshort",
    b"POST /v1/models/triv:predict HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\n",
    b"POST / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxy",
    b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\n\r\n",
    b"GET /v1/models/" + rng.bytes(9) + b" HTTP/1.1\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00",  # The beginning of TLS.
    b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * int(rng.integers(1, 2000)) + b"\r\n",
  ]
  return Request("raw HTTP", "RAW", _pick(rng, lines), _HTTP)


_KINDS = [
  *(_random_bytes, _mutated, _protos, _protos, _tensors, _tensors, _valid, _reloads),
  *(_json, _json, _methods, _raw),
  _deep,
]
