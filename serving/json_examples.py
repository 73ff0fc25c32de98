"""Parses and formats the JSON of `:classify` and `:regress`: examples, and a result for each."""

from __future__ import annotations

from typing import Any

from tensorflow.core.example import example_pb2, feature_pb2

from serving import json_tensors, json_text
from serving.errors import invalid

_LISTS = {"bytes_list": "bytes", "float_list": "float", "int64_list": "int64"}


def fill(document: dict[str, Any], request) -> None:
  """Fills a ClassificationRequest or a RegressionRequest.

  Args:
    document: the JSON object of the request.
    request: the message to fill.

  Raises:
    ServingError: INVALID_ARGUMENT, if the examples are missing or a feature is invalid.
  """
  request.model_spec.signature_name = json_tensors.signature_name(document)
  examples = request.input.example_list.examples
  if "context" in document:
    context = request.input.example_list_with_context
    _fill_example(document["context"], context.context)
    examples = context.examples

  def complain(text):
    return invalid(f"JSON Value: {json_text.debug(document)} {text}")

  if "examples" not in document:
    raise complain("When method is classify, key 'examples' is expected and was not found")
  if not isinstance(document["examples"], list):
    raise complain("Expecting 'examples' value to be an list/array")
  if not document["examples"]:
    raise complain("'examples' value is an empty array")
  for value in document["examples"]:
    _fill_example(value, examples.add())


def classifications(result) -> str:
  """Formats a ClassificationResult as JSON: for each example, pairs of a label and a score.

  Args:
    result: a ClassificationResult.

  Raises:
    ServingError: INVALID_ARGUMENT, if the result is empty.
  """
  rows = []
  for row in result.classifications:
    pairs = [f"[{json_text.quote(c.label)}, {json_tensors.number(c.score)}]" for c in row.classes]
    rows.append("[" + ", ".join(pairs) + "]")
  if not rows:
    raise invalid("Cannot convert empty ClassificationResults to JSON")
  return '{\n    "results": [' + ", ".join(rows) + "\n    ]\n}"


def regressions(result) -> str:
  """Formats a RegressionResult as JSON: a number for each example.

  Args:
    result: a RegressionResult.

  Raises:
    ServingError: INVALID_ARGUMENT, if the result is empty.
  """
  if not result.regressions:
    raise invalid("Cannot convert empty RegressionResults to JSON")
  numbers = ", ".join(json_tensors.number(r.value) for r in result.regressions)
  return '{\n    "results": [' + numbers + "]\n}"


def _fill_example(value: Any, example: example_pb2.Example) -> None:
  if not isinstance(value, dict):
    kind = json_text.type_name(value)
    raise invalid(f"Example must be JSON object but got JSON {kind}")
  for name, content in value.items():
    feature = example.features.feature[name]
    for element in content if isinstance(content, list) else [content]:
      _add(element, name, feature)


def _add(value: Any, name: str, feature: feature_pb2.Feature) -> None:
  if isinstance(value, bool):
    kind, value = "int64_list", int(value)
  elif isinstance(value, int):
    kind = "int64_list"
    if not -(2**63) <= value < 2**63:
      raise invalid(f"Feature: {name} has uint64_t element. Only int64_t is supported.")
  elif isinstance(value, float):
    kind = "float_list"
  elif isinstance(value, str):
    kind, value = "bytes_list", value.encode(errors="replace")
  elif isinstance(value, dict) and len(value) == 1 and isinstance(value.get("b64"), str):
    kind, value = "bytes_list", json_tensors.decode_base64(value["b64"])
  else:
    raise invalid(
      f"Feature: {name} has element with unexpected JSON type: {json_text.type_name(value)}"
    )
  present = feature.WhichOneof("kind")
  if present not in (None, kind):
    raise invalid(f"Unexpected element type in feature: {name} expecting type: {_LISTS[present]}")
  getattr(feature, kind).value.append(value)
