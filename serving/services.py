"""The gRPC methods: PredictionService and ModelService, answered from a `ModelManager`."""

from __future__ import annotations

import logging
import threading

import grpc
from tensorflow_serving.apis import (
  get_model_metadata_pb2,
  get_model_status_pb2,
  predict_pb2,
)

from serving.manager import ModelManager
from serving.model import ServingError, as_serving_error

_LOG = logging.getLogger("serving")
_MESSAGE_LIMIT = 1024
_SIGNATURE_DEF = "signature_def"


class Services(grpc.GenericRpcHandler):
  """Answers by full method name; whatever it does not know is UNIMPLEMENTED with no text.

  Written as one generic handler rather than as the generated servicers, so that every method gets
  the same treatment of errors and of overload, and an unknown method the official answer.
  """

  def __init__(self, manager: ModelManager, max_threads: int, tensor_content: bool = False):
    """
    Args:
      manager: the models.
      max_threads: calls that may run at once; further ones get RESOURCE_EXHAUSTED.
      tensor_content: reply with `tensor_content` instead of typed fields.
    """
    self._manager = manager
    self._tensor_content = tensor_content
    self._slots = threading.BoundedSemaphore(max_threads)
    prediction, model = (
      "/tensorflow.serving.PredictionService/",
      "/tensorflow.serving.ModelService/",
    )
    self._handlers = {
      prediction + "Predict": self._handler(self.predict, predict_pb2.PredictRequest),
      prediction + "GetModelMetadata": self._handler(
        self.get_model_metadata, get_model_metadata_pb2.GetModelMetadataRequest
      ),
      model + "GetModelStatus": self._handler(
        self.get_model_status, get_model_status_pb2.GetModelStatusRequest
      ),
    }
    self._unknown = grpc.unary_unary_rpc_method_handler(
      lambda request, context: context.abort(grpc.StatusCode.UNIMPLEMENTED, "")
    )

  def service(self, handler_call_details):
    return self._handlers.get(handler_call_details.method, self._unknown)

  def predict(self, request: predict_pb2.PredictRequest) -> predict_pb2.PredictResponse:
    """Runs a signature."""
    _require_spec(request)
    response = predict_pb2.PredictResponse()
    with self._manager.acquire(request.model_spec) as (version, servable):
      response.model_spec.name = request.model_spec.name
      response.model_spec.version.value = version
      servable.predict(request, response, self._tensor_content)
    return response

  def get_model_metadata(
    self, request: get_model_metadata_pb2.GetModelMetadataRequest
  ) -> get_model_metadata_pb2.GetModelMetadataResponse:
    """Returns a version's signatures."""
    _require_spec(request)
    if not request.metadata_field:
      raise ServingError(
        grpc.StatusCode.INVALID_ARGUMENT,
        "GetModelMetadataRequest must specify at least one metadata_field",
      )
    for field in request.metadata_field:
      if field != _SIGNATURE_DEF:
        raise ServingError(
          grpc.StatusCode.INVALID_ARGUMENT, f"Metadata field {field} is not supported"
        )
    response = get_model_metadata_pb2.GetModelMetadataResponse()
    signatures = get_model_metadata_pb2.SignatureDefMap()
    with self._manager.acquire(request.model_spec) as (version, servable):
      response.model_spec.name = request.model_spec.name
      response.model_spec.version.value = version
      for name, signature in servable.signatures.items():
        signatures.signature_def[name].CopyFrom(signature)
    response.metadata[_SIGNATURE_DEF].Pack(signatures)
    return response

  def get_model_status(
    self, request: get_model_status_pb2.GetModelStatusRequest
  ) -> get_model_status_pb2.GetModelStatusResponse:
    """Returns the states of a model's versions."""
    _require_spec(request)
    return self._manager.status(request.model_spec)

  def _handler(self, method, request_type):
    def call(request, context):
      if not self._slots.acquire(blocking=False):
        context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "Server Threadpool Exhausted")
      try:
        return method(request)
      except Exception as error:
        failure = as_serving_error(error)
        if failure.code == grpc.StatusCode.INTERNAL:
          _LOG.exception("%s failed", method.__name__)
      finally:
        self._slots.release()
      message = failure.message
      if len(message) > _MESSAGE_LIMIT:
        message = message[:_MESSAGE_LIMIT] + "...TRUNCATED"
      context.abort(failure.code, message)

    return grpc.unary_unary_rpc_method_handler(
      call, request_type.FromString, lambda response: response.SerializeToString()
    )


def _require_spec(request) -> None:
  if not request.HasField("model_spec"):
    raise ServingError(grpc.StatusCode.INVALID_ARGUMENT, "Missing ModelSpec")
