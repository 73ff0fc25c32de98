"""The gRPC services PredictionService and ModelService, backed by a `ModelManager`."""

from __future__ import annotations

import logging
import threading
import time

import grpc
from google.protobuf.message import DecodeError
from tensorflow_serving.apis import (
  classification_pb2,
  get_model_metadata_pb2,
  get_model_status_pb2,
  inference_pb2,
  model_management_pb2,
  predict_pb2,
  regression_pb2,
)

from serving import compression, examples
from serving.errors import ServingError, as_serving_error, invalid
from serving.manager import ModelManager
from serving.metrics import Metrics

_LOG = logging.getLogger("serving")
_SIGNATURE_DEF = "signature_def"
# Well above any batch of frames; the official server's limit is the largest int32.
MAX_MESSAGE_BYTES = 1 << 28


class Api:
  """The server's methods, independent of the protocol: each takes and returns a message.

  Attributes:
    manager: the models.
    metrics: the server's counters and histograms.
  """

  def __init__(self, manager: ModelManager, metrics: Metrics, tensor_content: bool = False):
    """
    Args:
      manager: the models.
      metrics: the counters and histograms to update.
      tensor_content: whether Predict replies with `tensor_content` instead of typed fields.
    """
    self.manager, self.metrics = manager, metrics
    self._tensor_content = tensor_content

  def predict(self, request: predict_pb2.PredictRequest) -> predict_pb2.PredictResponse:
    """Runs a signature.

    Args:
      request: the model, the signature, its inputs, and the outputs to return (all if empty).

    Returns:
      The outputs, and the version that computed them.

    Raises:
      ServingError: with the official server's code and message.
    """
    _require_spec(request)
    response = predict_pb2.PredictResponse()
    with self.manager.acquire(request.model_spec) as version:
      response.model_spec.name = request.model_spec.name
      response.model_spec.version.value = version.number
      seconds = version.servable.predict(request, response, self._tensor_content)
    self.metrics.runtime_latency.observe(seconds, request.model_spec.name, "Predict", "TF1")
    return response

  def classify(
    self, request: classification_pb2.ClassificationRequest
  ) -> classification_pb2.ClassificationResponse:
    """Runs a signature from examples to classes and scores.

    Args:
      request: the model, the signature and N examples.

    Returns:
      N classifications, and the version that computed them.

    Raises:
      ServingError: with the official server's code and message.
    """
    return self._over_examples(
      request, classification_pb2.ClassificationResponse(), examples.classify
    )

  def regress(self, request: regression_pb2.RegressionRequest) -> regression_pb2.RegressionResponse:
    """Runs a signature from examples to numbers.

    Args:
      request: the model, the signature and N examples.

    Returns:
      N numbers, and the version that computed them.

    Raises:
      ServingError: with the official server's code and message.
    """
    return self._over_examples(request, regression_pb2.RegressionResponse(), examples.regress)

  def multi_inference(
    self, request: inference_pb2.MultiInferenceRequest
  ) -> inference_pb2.MultiInferenceResponse:
    """Runs several classification and regression signatures over the same examples.

    Args:
      request: the tasks (each with a signature and a method) and N examples.

    Returns:
      A result for each task.

    Raises:
      ServingError: with the official server's code and message.
    """
    response = inference_pb2.MultiInferenceResponse()
    # Without tasks the spec is empty, so that the error is about the missing model name.
    spec = request.tasks[0].model_spec if request.tasks else predict_pb2.PredictRequest().model_spec
    with self.manager.acquire(spec) as version:
      examples.multi_inference(version.servable, version.number, request, response)
    return response

  def get_model_metadata(
    self, request: get_model_metadata_pb2.GetModelMetadataRequest
  ) -> get_model_metadata_pb2.GetModelMetadataResponse:
    """Returns a version's signatures.

    Args:
      request: the model, with `metadata_field` set to `["signature_def"]`.

    Raises:
      ServingError: if there is no such model or version, or another field is requested.
    """
    _require_spec(request)
    if not request.metadata_field:
      raise invalid("GetModelMetadataRequest must specify at least one metadata_field")
    for field in request.metadata_field:
      if field != _SIGNATURE_DEF:
        raise invalid(f"Metadata field {field} is not supported")
    response = get_model_metadata_pb2.GetModelMetadataResponse()
    signatures = get_model_metadata_pb2.SignatureDefMap()
    with self.manager.acquire(request.model_spec) as version:
      response.model_spec.name = request.model_spec.name
      response.model_spec.version.value = version.number
      for name, signature in version.servable.signatures.items():
        signatures.signature_def[name].CopyFrom(signature)
    response.metadata[_SIGNATURE_DEF].Pack(signatures)
    return response

  def get_model_status(
    self, request: get_model_status_pb2.GetModelStatusRequest
  ) -> get_model_status_pb2.GetModelStatusResponse:
    """Returns the states of a model's versions, newest first.

    Args:
      request: the model, optionally with a version number.

    Raises:
      ServingError: if there is no such model or version.
    """
    _require_spec(request)
    return self.manager.status(request.model_spec)

  def handle_reload_config_request(
    self, request: model_management_pb2.ReloadConfigRequest
  ) -> model_management_pb2.ReloadConfigResponse:
    """Changes the models, versions and labels.

    Args:
      request: the new configuration, and names of counters to report.

    Returns:
      An OK status, and the increase of each counter during the reload.

    Raises:
      ServingError: see `ModelManager.reload`.
    """
    before = {name: self.metrics.value(name) for name in request.metric_names}
    self.manager.reload(request.config)
    response = model_management_pb2.ReloadConfigResponse()
    response.status.SetInParent()
    for name, value in before.items():
      increase = self.metrics.value(name) - value
      response.metric.add(name=name, int64_value_increase=increase)
    return response

  def record(self, model: str, code: grpc.StatusCode) -> None:
    """Counts a request. Requests for models that were never configured share an empty name.

    Args:
      model: the name in the request.
      code: the status of the reply.
    """
    known = model if self.manager.knows(model) else ""
    self.metrics.request_count.add(known, code.name)

  def _over_examples(self, request, response, run):
    _require_spec(request)
    with self.manager.acquire(request.model_spec) as version:
      response.model_spec.name = request.model_spec.name
      response.model_spec.version.value = version.number
      run(version.servable, request, response)
    return response


class Services(grpc.GenericRpcHandler):
  """Handles the gRPC methods, identified by their full names.

  One generic handler replaces the generated servicers, so that every method treats malformed
  messages, errors and overload in the same way.
  """

  def __init__(self, api: Api, max_threads: int):
    """
    Args:
      api: the API to call.
      max_threads: the number of calls that may run at once; more get RESOURCE_EXHAUSTED.
    """
    self._api = api
    self._slots = threading.BoundedSemaphore(max_threads)
    prediction, model = (
      "/tensorflow.serving.PredictionService/",
      "/tensorflow.serving.ModelService/",
    )
    self._handlers = {
      prediction + "Predict": self._handler(api.predict, predict_pb2.PredictRequest, True),
      prediction + "Classify": self._handler(
        api.classify, classification_pb2.ClassificationRequest, True
      ),
      prediction + "Regress": self._handler(api.regress, regression_pb2.RegressionRequest, True),
      prediction + "MultiInference": self._handler(
        api.multi_inference, inference_pb2.MultiInferenceRequest
      ),
      prediction + "GetModelMetadata": self._handler(
        api.get_model_metadata, get_model_metadata_pb2.GetModelMetadataRequest
      ),
      model + "GetModelStatus": self._handler(
        api.get_model_status, get_model_status_pb2.GetModelStatusRequest
      ),
      model + "HandleReloadConfigRequest": self._handler(
        api.handle_reload_config_request, model_management_pb2.ReloadConfigRequest
      ),
    }

  def service(self, handler_call_details):
    """Returns the handler of a call; None if the method is unknown.

    See `grpc.GenericRpcHandler.service`.
    """
    return self._handlers.get(handler_call_details.method)

  def _handler(self, method, request_type, counted=False):
    """Makes a handler from bytes to bytes that gives every failure its status.

    Args:
      method: a method of the `Api`.
      request_type: the class of its request.
      counted: whether the metrics count the call under its model.
    """
    name = method.__name__.title()
    parse, slots, api = request_type.FromString, self._slots, self._api
    observe = api.metrics.request_latency.observe

    def call(data, context):
      if not slots.acquire(blocking=False):
        context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "Server Threadpool Exhausted")
      start, model = time.perf_counter(), ""
      try:
        if data[:2] == compression.MAGIC:
          data = compression.gunzip(data, MAX_MESSAGE_BYTES)
        try:
          request = parse(data)
        except DecodeError as error:
          raise ServingError(
            grpc.StatusCode.INTERNAL,  # gRPC's code for a request that cannot be parsed.
            f"The request is not a {request_type.DESCRIPTOR.full_name}: it cannot be parsed.",
          ) from error
        if counted:
          model = request.model_spec.name
        reply = method(request).SerializeToString()
        if counted:
          observe(time.perf_counter() - start, model, name, "GRPC")
          api.record(model, grpc.StatusCode.OK)
        return reply
      except Exception as error:
        failure = as_serving_error(error)
        if not isinstance(error, ServingError):
          _LOG.exception("%s failed", name)
        if counted:
          api.record(model, failure.code)
      finally:
        slots.release()
      context.abort(failure.code, failure.details)

    return grpc.unary_unary_rpc_method_handler(call)


class Unimplemented(grpc.GenericRpcHandler):
  """Answers unknown methods like the official server: UNIMPLEMENTED, with no message."""

  def __init__(self):
    self._handler = grpc.unary_unary_rpc_method_handler(
      lambda request, context: context.abort(grpc.StatusCode.UNIMPLEMENTED, "")
    )

  def service(self, handler_call_details):
    """Returns the handler for any call. See `grpc.GenericRpcHandler.service`."""
    return self._handler


def _require_spec(request) -> None:
  if not request.HasField("model_spec"):
    raise invalid("Missing ModelSpec")
