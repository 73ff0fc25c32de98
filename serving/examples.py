"""Classify, Regress and MultiInference: signatures that take serialized `tf.train.Example`s.

wm_tf exports no such signatures, but other models have them. A client that calls a model without
them gets the official server's error message.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import grpc
import numpy as np
from tensorflow_serving.apis import classification_pb2, inference_pb2, input_pb2, regression_pb2

from serving.errors import ServingError, invalid
from serving.model import DEFAULT_SIGNATURE, Servable

CLASSIFY, REGRESS = "tensorflow/serving/classify", "tensorflow/serving/regress"


def classify(
  servable: Servable,
  request: classification_pb2.ClassificationRequest,
  response: classification_pb2.ClassificationResponse,
) -> None:
  """Runs a signature that maps `inputs` (serialized examples) to `classes`, `scores` or both.

  Args:
    servable: the loaded version.
    request: names the signature, and has N examples.
    response: the message that receives the classes of each example.

  Raises:
    ServingError: with the official server's code and message.
  """
  _answer(servable, request, response, CLASSIFY)


def regress(
  servable: Servable,
  request: regression_pb2.RegressionRequest,
  response: regression_pb2.RegressionResponse,
) -> None:
  """Runs a signature that maps `inputs` (serialized examples) to `outputs`, a number per example.

  Args:
    servable: the loaded version.
    request: names the signature, and has N examples.
    response: the message that receives the number of each example.

  Raises:
    ServingError: with the official server's code and message.
  """
  _answer(servable, request, response, REGRESS)


def multi_inference(
  servable: Servable,
  version: int,
  request: inference_pb2.MultiInferenceRequest,
  response: inference_pb2.MultiInferenceResponse,
) -> None:
  """Runs several signatures for classification or regression on the same examples in one run.

  Args:
    servable: the loaded version.
    version: the version number for the response.
    request: has at least one task (a signature and its method), and N examples.
    response: the message that receives a result for each task.

  Raises:
    ServingError: with the official server's code and message.
  """
  model, names, feeds, fetches = request.tasks[0].model_spec.name, [], set(), set()
  for task in request.tasks:
    spec = task.model_spec
    if not spec.name:
      raise invalid("Found ModelSpec with an empty model name.")
    if spec.name != model:
      raise invalid("All ModelSpecs in a MultiInferenceRequest must access the same model name.")
    name = spec.signature_name or DEFAULT_SIGNATURE
    if name in names:
      raise invalid(f"Duplicate evaluation of signature: {name}")
    names.append(name)
    signature = servable.signatures.get(name)
    if signature is None:
      raise invalid(f"Requested signature not found in model graph: {name}")
    if task.method_name not in _METHODS:
      raise ServingError(
        grpc.StatusCode.UNIMPLEMENTED, f"Unsupported signature method_name: {task.method_name}"
      )
    feed, wanted = _METHODS[task.method_name].resolve(servable, signature)
    feeds.add(feed)
    fetches.update(wanted)
  examples, fetches = serialized(request.input), sorted(fetches)
  found = servable.run(dict.fromkeys(feeds, examples), fetches)
  values = dict(zip(fetches, found, strict=True))
  for task, name in zip(request.tasks, names, strict=True):
    result, signature = response.results.add(), servable.signatures[name]
    result.model_spec.name, result.model_spec.signature_name = model, name
    result.model_spec.version.value = version
    method = _METHODS[task.method_name]
    method.fill(signature, values, len(examples), getattr(result, method.result))


def serialized(data: input_pb2.Input) -> np.ndarray:
  """Serializes the examples of a request, each merged with their common context.

  Args:
    data: N examples, with or without a context.

  Returns:
    `object[N]` of bytes.

  Raises:
    ServingError: INVALID_ARGUMENT, if there are no examples.
  """
  kind = data.WhichOneof("kind")
  prefix, examples = b"", []
  if kind is not None:
    examples = getattr(data, kind).examples
  if kind == "example_list_with_context":
    # Two concatenated serialized messages are one message with the fields of both.
    prefix = data.example_list_with_context.context.SerializeToString()
  if not examples:
    raise invalid("Input is empty.")
  result = np.empty(len(examples), object)
  result[:] = [prefix + example.SerializeToString() for example in examples]
  return result


def _answer(servable: Servable, request, response, method_name: str) -> None:
  """Runs the signature that a request names, by one of `_METHODS`."""
  name, method = request.model_spec.signature_name or DEFAULT_SIGNATURE, _METHODS[method_name]
  signature = servable.signatures.get(name)
  if signature is None:
    raise invalid(f"No signature was found with the name: {name}")
  feed, fetches = method.resolve(servable, signature)
  response.model_spec.signature_name = name
  examples = serialized(request.input)
  values = dict(zip(fetches, servable.run({feed: examples}, fetches), strict=True))
  method.fill(signature, values, len(examples), response.result)


def _check_method(servable, signature, method: str, word: str) -> None:
  if servable.options.check_method_names and signature.method_name != method:
    raise invalid(
      f"Expected {word} signature method_name to be {method}. Was: {signature.method_name}"
    )


def _classification(servable, signature) -> tuple[str, list[str]]:
  """Returns the tensors to feed and to fetch."""
  _check_method(servable, signature, CLASSIFY, "classification")
  # Names before numbers: a predict signature has other names, and any number of inputs.
  if "inputs" not in signature.inputs:
    raise invalid(f"No classification inputs found in SignatureDef: {signature}")
  if len(signature.inputs) != 1:
    raise invalid("Expected one input Tensor.")
  if len(signature.outputs) not in (1, 2):
    raise invalid(f"Expected one or two output Tensors, found {len(signature.outputs)}")
  fetches = [signature.outputs[k].name for k in ("classes", "scores") if k in signature.outputs]
  if not fetches:
    raise invalid(
      'Expected classification signature outputs to contain at least one of "classes" or "scores".'
      f" Signature was: {signature}"
    )
  return signature.inputs["inputs"].name, fetches


def _regression(servable, signature) -> tuple[str, list[str]]:
  """Returns the tensors to feed and to fetch."""
  _check_method(servable, signature, REGRESS, "regression")
  if "inputs" not in signature.inputs:
    raise invalid(f"No regression inputs found in SignatureDef: {signature}")
  if len(signature.inputs) != 1:
    raise invalid("Expected one input Tensor.")
  if len(signature.outputs) != 1:
    raise invalid("Expected one output Tensor.")
  if "outputs" not in signature.outputs:
    raise invalid(f"No regression outputs found in SignatureDef: {signature}")
  return signature.inputs["inputs"].name, [signature.outputs["outputs"].name]


def _fill_classes(signature, values, count: int, result) -> None:
  found = {
    k: values[signature.outputs[k].name] for k in ("classes", "scores") if k in signature.outputs
  }
  for key, array in found.items():
    if array.ndim != 2:
      raise invalid(
        f"Expected Tensor shape: [batch_size num_classes] but got {_shape(array.shape)}"
      )
    if not (array.dtype == object if key == "classes" else array.dtype == np.float32):
      kind = "DT_STRING" if key == "classes" else "DT_FLOAT"
      raise invalid(f"Expected {key} Tensor of {kind}. Got: {array.dtype}")
    if len(array) != count:
      raise invalid(f"Expected {key} output batch size of {count}. Got: {len(array)}")
  sizes = {array.shape[1] for array in found.values()}
  if len(sizes) > 1:
    classes, scores = found["classes"].shape[1], found["scores"].shape[1]
    raise invalid(
      f"Tensors class and score should match in dim_size(1). Got {classes} vs. {scores}"
    )
  for row in range(count):
    classes = result.classifications.add().classes
    for column in range(*sizes):
      entry = classes.add()
      if "classes" in found:
        entry.label = found["classes"][row, column].decode(errors="replace")
      if "scores" in found:
        entry.score = found["scores"][row, column]


def _fill_values(signature, values, count: int, result) -> None:
  array = values[signature.outputs["outputs"].name]
  if array.ndim != 1 and not (array.ndim == 2 and array.shape[1] == 1):
    raise invalid(
      "Expected output Tensor shape to be either [batch_size] or [batch_size, 1] but got"
      f" {_shape(array.shape)}"
    )
  if len(array) != count:
    raise invalid(f"Input batch size did not match output batch size: {count} vs. {len(array)}")
  if array.dtype != np.float32:
    raise invalid(f"Expected output Tensor of DT_FLOAT.  Got: {array.dtype}")
  for value in array.reshape(-1).tolist():
    result.regressions.add().value = value


def _shape(shape: tuple[int, ...]) -> str:
  return "[" + ",".join(map(str, shape)) + "]"


class _Method(NamedTuple):
  """Functions to run one kind of signature."""

  resolve: Callable  # Maps (servable, signature) to the tensor to feed and those to fetch.
  fill: Callable  # Fills the result: (signature, values by tensor, number of examples, result).
  result: str  # Name of the result's field in an `InferenceResult`.


_METHODS = {
  CLASSIFY: _Method(_classification, _fill_classes, "classification_result"),
  REGRESS: _Method(_regression, _fill_values, "regression_result"),
}
