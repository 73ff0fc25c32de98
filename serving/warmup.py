"""Replays the requests that an export recorded, because first calls are 10 to 100 times slower."""

from __future__ import annotations

import os

import grpc
import tensorflow as tf
from google.protobuf.message import DecodeError
from tensorflow_serving.apis import (
  classification_pb2,
  inference_pb2,
  predict_pb2,
  prediction_log_pb2,
  regression_pb2,
)

from serving import examples
from serving.errors import ServingError, as_serving_error, invalid
from serving.model import Servable

WARMUP_FILE = os.path.join("assets.extra", "tf_serving_warmup_requests")
_MAX_RECORDS = 1000


def warm_up(servable: Servable, iterations: int = 1) -> None:
  """Runs every request of a version folder's warm-up file, if it has one.

  Args:
    servable: the model to call.
    iterations: how often each request is run.

  Raises:
    ServingError: if a record cannot be read or its request fails; the message names the record.
  """
  path = os.path.join(servable.path, WARMUP_FILE)
  if not os.path.exists(path):
    return
  records = tf.data.TFRecordDataset(path).take(_MAX_RECORDS + 1).as_numpy_iterator()
  for i, record in enumerate(records):
    if i == _MAX_RECORDS:
      raise invalid(f"Number of warmup records exceeds the maximum ({i}) at {WARMUP_FILE}")
    try:
      log = prediction_log_pb2.PredictionLog.FromString(record)
      for _ in range(iterations):
        _replay(servable, log)
    except (ServingError, DecodeError) as error:
      error = as_serving_error(error)
      raise ServingError(error.code, f"{WARMUP_FILE}: record {i}: {error.message}") from error


def _replay(servable: Servable, log: prediction_log_pb2.PredictionLog) -> None:
  kind = log.WhichOneof("log_type")
  if kind == "predict_log":
    servable.predict(log.predict_log.request, predict_pb2.PredictResponse())
  elif kind == "classify_log":
    response = classification_pb2.ClassificationResponse()
    examples.classify(servable, log.classify_log.request, response)
  elif kind == "regress_log":
    examples.regress(servable, log.regress_log.request, regression_pb2.RegressionResponse())
  elif kind == "multi_inference_log" and log.multi_inference_log.request.tasks:
    response = inference_pb2.MultiInferenceResponse()
    examples.multi_inference(servable, 0, log.multi_inference_log.request, response)
  else:
    raise ServingError(
      grpc.StatusCode.UNIMPLEMENTED, f"Unsupported log_type for warmup: {kind or 'none'}"
    )
