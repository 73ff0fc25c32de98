"""The REST contract of TensorFlow Serving, row by row.

Against the embedded server, or any other one: see conftest.py.
"""

import base64
import gzip
import json

import numpy as np
import pytest

from tests.serving.calls import FRAME, http_call

PREDICT = "/v1/models/triv:predict"


def rows(count=2):
  """`count` instances for `act`."""
  return [
    {
      "frame": FRAME[i].tolist(),
      "seed": [i, 2],
      "h": [0.0] * 4,
      "c": [0.5] * 4,
    }
    for i in range(count)
  ]


def test_rows(rest):
  answer = http_call(rest, "POST", PREDICT, {"instances": rows()})
  assert answer.status == 200, answer.text
  assert answer.headers["content-type"] == "application/json"
  first, second = answer.json["predictions"]
  assert set(first) == {"action", "agent_action", "value", "h", "c"}
  brightness = FRAME.reshape(2, -1).mean(1)
  np.testing.assert_allclose(first["action"], [brightness[0], 0, 2], rtol=1e-6)
  np.testing.assert_allclose(second["value"], brightness[1], rtol=1e-6)
  assert first["h"] == [1.0] * 4


def test_columns(rest):
  columns = {key: [row[key] for row in rows()] for key in rows()[0]}
  answer = http_call(rest, "POST", PREDICT, {"signature_name": "act", "inputs": columns})
  assert answer.status == 200, answer.text
  outputs = answer.json["outputs"]
  assert np.shape(outputs["action"]) == (2, 3)
  assert outputs["h"] == [[1.0] * 4] * 2


@pytest.mark.parametrize(
  "path",
  ["/v1/models/triv/versions/1:predict", "/V1/Models/triv:predict", "/v1/models/%74riv:predict"],
)
def test_one_input_and_one_output_need_no_names(rest, path):
  body = {"signature_name": "echo", "instances": [1.5, 2, -0.1, 1e30]}
  answer = http_call(rest, "POST", path, body)
  assert answer.status == 200, answer.text
  assert np.float32(answer.json["predictions"]).tolist() == np.float32(body["instances"]).tolist()
  # As floats, so that readers of one type do not meet two.
  assert "2.0" in answer.text and "-0.1," in answer.text
  body = {"signature_name": "echo", "inputs": [1.5, 2]}
  assert http_call(rest, "POST", path, body).json == {"outputs": [1.5, 2.0]}


def test_numbers_that_json_has_no_word_for(rest):
  body = '{"signature_name": "echo", "instances": [NaN, Infinity, -Infinity]}'
  answer = http_call(rest, "POST", PREDICT, body)
  assert answer.status == 200, answer.text
  nan, inf, minus_inf = answer.json["predictions"]
  assert nan != nan and inf == float("inf") and minus_inf == -float("inf")


def test_types(rest):
  body = {"signature_name": "kinds", "instances": [[1, 2**53 + 1], [0, -5]]}
  answer = http_call(rest, "POST", PREDICT, body)
  assert answer.status == 200, answer.text
  first, second = answer.json["predictions"]
  assert first["int64"] == [1, 2**53 + 1] and second["int64"] == [0, -5]
  assert second["bool"] == [False, False] and first["bool"] == [True, True]
  assert second["uint8"] == [0, 251]
  assert first["double"][0] == 1 / 3
  assert np.float32(first["float"][0]) == np.float32(0.1)


def test_strings(rest):
  blob = base64.b64encode(b"\x00\xff").decode()
  body = {"signature_name": "text", "instances": ["äb", {"b64": blob}]}
  answer = http_call(rest, "POST", PREDICT, body)
  assert answer.status == 200, answer.text
  first, second = answer.json["predictions"]
  assert first["size"] == 3 and second["size"] == 2
  assert base64.b64decode(first["text_bytes"]["b64"]) == "äb".encode()
  assert second["text_bytes"] == {"b64": blob}
  assert (
    http_call(rest, "POST", PREDICT, {"signature_name": "text", "inputs": {"b64": blob}}).json[
      "outputs"
    ]["size"]
    == 2
  )


def test_gzip(rest):
  body = gzip.compress(json.dumps({"signature_name": "echo", "instances": [1.5]}).encode())
  answer = http_call(rest, "POST", PREDICT, body, [("Content-Encoding", "gzip")])
  assert answer.json == {"predictions": [1.5]}, answer.text


def test_status(rest):
  answer = http_call(rest, "GET", "/v1/models/triv/versions/1")
  assert answer.status == 200
  assert answer.json == {
    "model_version_status": [
      {
        "version": "1",
        "state": "AVAILABLE",
        "status": {"error_code": "OK", "error_message": ""},
      }
    ]
  }
  assert (
    answer.json["model_version_status"][0]
    in http_call(rest, "GET", "/v1/models/triv").json["model_version_status"]
  )


@pytest.mark.parametrize(
  "path", ["/v1/models/triv/metadata", "/v1/models/triv/versions/1/metadata"]
)
def test_metadata(rest, path):
  answer = http_call(rest, "GET", path)
  assert answer.status == 200
  assert answer.json["model_spec"] == {"name": "triv", "signature_name": "", "version": "1"}
  signatures = answer.json["metadata"]["signature_def"]["signature_def"]
  act = signatures["act"]
  assert act["method_name"] == "tensorflow/serving/predict"
  assert act["inputs"]["frame"]["dtype"] == "DT_UINT8"
  sizes = [d["size"] for d in act["inputs"]["frame"]["tensor_shape"]["dim"]]
  assert sizes == ["-1", "-1", "-1", "3"]


def body(text, signature="echo"):
  return f'{{"signature_name": "{signature}", {text}}}'


# name: (method, path, body, status, the error or how it begins)
REFUSED = {
  "unknown model": (
    "POST",
    "/v1/models/nope:predict",
    body('"instances": [1]'),
    404,
    "Servable not found for request: Latest(nope)",
  ),
  "unknown version": (
    "POST",
    "/v1/models/triv/versions/77:predict",
    body('"instances": [1]'),
    404,
    "Servable not found for request: Specific(triv, 77)",
  ),
  "unknown label": (
    "POST",
    "/v1/models/triv/labels/none:predict",
    body('"instances": [1]'),
    400,
    "Unrecognized servable version label: none",
  ),
  "status of an unknown model": (
    "GET",
    "/v1/models/nope",
    None,
    404,
    "Could not find any versions of model nope",
  ),
  "status of an unknown version": (
    "GET",
    "/v1/models/triv/versions/9",
    None,
    404,
    "Could not find version 9 of model triv",
  ),
  "metadata of an unknown model": (
    "GET",
    "/v1/models/nope/metadata",
    None,
    404,
    "Servable not found for request: Latest(nope)",
  ),
  "no model": ("GET", "/v1/models", None, 400, "Missing model name in request."),
  "version beyond int64": (
    "GET",
    "/v1/models/triv/versions/99999999999999999999",
    None,
    400,
    "Failed to convert version: 99999999999999999999 to numeric.",
  ),
  "unknown signature": (
    "POST",
    PREDICT,
    body('"instances": [1]', "zz"),
    400,
    'Serving signature name: "zz" not found in signature def',
  ),
  "GET on predict": ("GET", PREDICT, None, 400, f"Malformed request: GET {PREDICT}"),
  "unknown verb": (
    "POST",
    "/v1/models/triv:explode",
    "{}",
    400,
    "Malformed request: POST /v1/models/triv:explode",
  ),
  "PUT": ("PUT", PREDICT, "{}", 400, f"Malformed request: PUT {PREDICT}"),
  "path that climbs": (
    "GET",
    "/v1/models/../../etc/passwd",
    None,
    400,
    "Malformed request: GET /v1/models/../../etc/passwd",
  ),
  "name that climbs": (
    "GET",
    "/v1/models/..%2f..%2fetc",
    None,
    404,
    "Could not find any versions of model ../../etc",
  ),
  "empty body": ("POST", PREDICT, "", 400, "JSON Parse error: The document is empty"),
  "bad JSON": (
    "POST",
    PREDICT,
    '{"instances": [1,}',
    400,
    "JSON Parse error: Invalid value. at offset: 17",
  ),
  "cut JSON": (
    "POST",
    PREDICT,
    '{"instances": [1, 2',
    400,
    "JSON Parse error: Missing a comma or ] after an array element. at offset: 19",
  ),
  "JSON that is no object": ("POST", PREDICT, "[1, 2]", 400, "JSON Value: [1, 2] Is not object"),
  "no keys": ("POST", PREDICT, body('"x": 1'), 400, "Missing 'inputs' or 'instances' key"),
  "both keys": (
    "POST",
    PREDICT,
    '{"signature_name": "echo", "instances": [1], "inputs": [1]}',
    400,
    "JSON Value: {*Not formatted correctly expecting only one of 'inputs' or 'instances' keys to"
    " exist ",
  ),
  "no instances": (
    "POST",
    PREDICT,
    body('"instances": []'),
    400,
    "JSON Value: {*No values in 'instances' array",
  ),
  "instances that are no list": (
    "POST",
    PREDICT,
    body('"instances": 3'),
    400,
    "JSON Value: {*Expecting 'instances' to be an list/array",
  ),
  "wrong type": (
    "POST",
    PREDICT,
    body('"instances": ["a"]'),
    400,
    "Failed to process element: 0 of 'instances' list. Error: INVALID_ARGUMENT: JSON Value: \"a\""
    " Type: String is not of expected type: float",
  ),
  "float for an integer": (
    "POST",
    PREDICT,
    body('"instances": [[1, 2.0]]', "kinds"),
    400,
    "Failed to process element: 0 of 'instances' list. Error: INVALID_ARGUMENT: JSON Value: 2.0"
    " Type: Number is not of expected type: int64",
  ),
  "ragged": (
    "POST",
    PREDICT,
    body('"instances": [[1, 2], [1]]', "kinds"),
    400,
    "Failed to process element: 1 of 'instances' list. Error: INVALID_ARGUMENT: Expecting tensor"
    " size: 2 but got: 1",
  ),
  "ragged within": (
    "POST",
    PREDICT,
    body('"inputs": [[1, 2], [1]]', "kinds"),
    400,
    "Encountered list at unexpected size: 1 at level: 1 expected size: 2",
  ),
  "missing columnar input": (
    "POST",
    PREDICT,
    '{"inputs": {"frame": [[[[1, 2, 3]]]], "seed": [[1, 2]], "c": [[0, 0, 0, 0]]}}',
    400,
    "Missing named input: h in 'inputs' object.",
  ),
  "plain list for several inputs": (
    "POST",
    PREDICT,
    '{"instances": [1, 2]}',
    400,
    "instances is a plain list, but expecting list of objects",
  ),
  "unknown input in a row": (
    "POST",
    PREDICT,
    body('"instances": [{"y": 1}]'),
    400,
    "Failed to process element: 0 key: y of 'instances' list. Error: INVALID_ARGUMENT: JSON object:"
    " does not have named input: y",
  ),
  "an op's error": (
    "POST",
    PREDICT,
    body('"instances": [1]', "fail"),
    400,
    "assertion failed: [no]",
  ),
}


@pytest.mark.parametrize("row", REFUSED)
def test_refused(rest, row):
  method, path, text, status, error = REFUSED[row]
  answer = http_call(rest, method, path, text)
  assert answer.status == status, answer.text
  assert set(answer.json) == {"error"}
  begin, _, end = error.partition("*")
  assert answer.error.startswith(begin)
  assert end in answer.error


def test_what_is_not_of_the_api(rest):
  assert http_call(rest, "GET", "/index.html").status == 404


def test_metrics(rest):
  def count():
    page = http_call(rest, "GET", "/monitoring/prometheus/metrics")
    assert page.status == 200 and page.headers["content-type"].startswith("text/plain")
    name = ':tensorflow:serving:request_count{model_name="triv",status="OK"} '
    assert "# TYPE :tensorflow:serving:request_count counter" in page.text
    (line,) = (line for line in page.text.splitlines() if line.startswith(name))
    return int(line.removeprefix(name)), page.text

  def ask():
    http_call(rest, "POST", PREDICT, body('"instances": [1]'))

  ask()
  before, _ = count()
  ask()
  after, text = count()
  assert after == before + 1
  for name, labels in (
    ("request_latency", 'model_name="triv",API="predict",entrypoint="REST"'),
    ("runtime_latency", 'model_name="triv",API="Predict",runtime="TF1"'),
  ):
    assert f"# TYPE :tensorflow:serving:{name} histogram" in text
    assert f':tensorflow:serving:{name}_bucket{{{labels},le="10"}} ' in text
    assert f':tensorflow:serving:{name}_bucket{{{labels},le="+Inf"}} ' in text
    assert f":tensorflow:serving:{name}_count{{{labels}}} " in text
