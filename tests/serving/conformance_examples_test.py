"""The contract of TensorFlow Serving for Classify, Regress and MultiInference, by gRPC and REST.

Against the embedded server, or any other one: see conftest.py.
"""

import pytest
from tensorflow_serving.apis import classification_pb2, inference_pb2, regression_pb2

from tests.serving.calls import Code, expect, http_call


def examples_request(kind, name="triv", signature="", values=()):
  request = kind()
  request.model_spec.name, request.model_spec.signature_name = name, signature
  for value in values:
    example = request.input.example_list.examples.add()
    example.features.feature["x"].float_list.value.append(value)
  return request


CLASSIFY, REGRESS = classification_pb2.ClassificationRequest, regression_pb2.RegressionRequest
EXAMPLE_ROWS = {
  "classify on a predict signature": (
    "Classify",
    lambda: examples_request(CLASSIFY, signature="echo", values=[1.0]),
    Code.INVALID_ARGUMENT,
    "No classification inputs found in SignatureDef: ",
  ),
  "regress on a predict signature": (
    "Regress",
    lambda: examples_request(REGRESS, signature="echo", values=[1.0]),
    Code.INVALID_ARGUMENT,
    "No regression inputs found in SignatureDef: ",
  ),
  "classify an unknown model": (
    "Classify",
    lambda: examples_request(CLASSIFY, name="nope"),
    Code.NOT_FOUND,
    "Servable not found for request: Latest(nope)",
  ),
  "classify by an unknown signature": (
    "Classify",
    lambda: examples_request(CLASSIFY, signature="nosig"),
    Code.INVALID_ARGUMENT,
    "No signature was found with the name: nosig",
  ),
  "classify nothing": (
    "Classify",
    lambda: examples_request(CLASSIFY, signature="classify"),
    Code.INVALID_ARGUMENT,
    "Input is empty.",
  ),
}


@pytest.mark.parametrize("row", EXAMPLE_ROWS)
def test_examples_refused(stubs, row):
  method, make, code, prefix = EXAMPLE_ROWS[row]
  expect(getattr(stubs.prediction, method), make(), code, prefix=prefix)


def test_classify_and_regress(stubs):
  response = stubs.prediction.Classify(examples_request(CLASSIFY, "triv", "classify", [0.25, 1.0]))
  assert response.model_spec.signature_name == "classify"
  found = [[(c.label, c.score) for c in row.classes] for row in response.result.classifications]
  assert found == [[("low", 0.75), ("high", 0.25)], [("low", 0.0), ("high", 1.0)]]
  response = stubs.prediction.Regress(examples_request(REGRESS, "triv", "regress", [0.25, 1.0]))
  assert [r.value for r in response.result.regressions] == [0.25, 1.0]


def test_the_context_is_part_of_every_example(stubs):
  request = examples_request(REGRESS, signature="regress")
  data = request.input.example_list_with_context
  data.context.features.feature["x"].float_list.value.append(0.125)
  data.examples.add()
  assert [r.value for r in stubs.prediction.Regress(request).result.regressions] == [0.125]


def multi_request(*tasks, values=(0.25,)):
  request = inference_pb2.MultiInferenceRequest()
  for signature, method in tasks:
    task = request.tasks.add(method_name=f"tensorflow/serving/{method}")
    task.model_spec.name, task.model_spec.signature_name = "triv", signature
  for value in values:
    example = request.input.example_list.examples.add()
    example.features.feature["x"].float_list.value.append(value)
  return request


def test_multi_inference(stubs):
  request = multi_request(("classify", "classify"), ("regress", "regress"))
  first, second = stubs.prediction.MultiInference(request).results
  assert [c.score for c in first.classification_result.classifications[0].classes] == [0.75, 0.25]
  assert [r.value for r in second.regression_result.regressions] == [0.25]
  assert second.model_spec.signature_name == "regress"


def test_multi_inference_refuses(stubs):
  call = stubs.prediction.MultiInference
  expect(call, multi_request(), Code.INVALID_ARGUMENT, "ModelSpec has no name specified.")
  expect(
    call,
    multi_request(("echo", "predict")),
    Code.UNIMPLEMENTED,
    "Unsupported signature method_name: tensorflow/serving/predict",
  )
  expect(
    call,
    multi_request(("regress", "regress"), ("regress", "regress")),
    Code.INVALID_ARGUMENT,
    "Duplicate evaluation of signature: regress",
  )


def test_rest_classify_and_regress(rest):
  examples = {"examples": [{"x": 0.25}, {"x": [1.0]}]}
  answer = http_call(
    rest, "POST", "/v1/models/triv:classify", {"signature_name": "classify", **examples}
  )
  assert answer.json == {
    "results": [[["low", 0.75], ["high", 0.25]], [["low", 0.0], ["high", 1.0]]]
  }
  answer = http_call(
    rest, "POST", "/v1/models/triv:regress", {"signature_name": "regress", **examples}
  )
  assert answer.json == {"results": [0.25, 1.0]}
  context = {"signature_name": "regress", "context": {"x": 0.125}, "examples": [{"name": "a"}]}
  answer = http_call(rest, "POST", "/v1/models/triv:regress", context)
  assert answer.json == {"results": [0.125]}


@pytest.mark.parametrize(
  "value, error",
  [
    ({}, "key 'examples' is expected and was not found"),
    ({"examples": []}, "'examples' value is an empty array"),
    ({"examples": [3]}, "Example must be JSON object but got JSON Number"),
    ({"examples": [{"x": None}]}, "Feature: x has element with unexpected JSON type: Null"),
    (
      {"examples": [{"x": [1.5, 1]}]},
      "Unexpected element type in feature: x expecting type: float",
    ),
  ],
)
def test_rest_examples_refused(rest, value, error):
  answer = http_call(
    rest, "POST", "/v1/models/triv:classify", {"signature_name": "classify", **value}
  )
  assert answer.status == 400
  assert error in answer.error
