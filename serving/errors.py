"""Failures with the status that a client receives: gRPC's codes and texts, and HTTP's."""

from __future__ import annotations

import grpc
import tensorflow as tf

_CODES = {code.value[0]: code for code in grpc.StatusCode}
_MESSAGE_LIMIT = 1024
# What running a graph may raise: the second where an op quotes bytes of its input that are no text.
RUN_ERRORS = (tf.errors.OpError, UnicodeDecodeError)
_HTTP = {
  grpc.StatusCode.CANCELLED: 499,
  grpc.StatusCode.INVALID_ARGUMENT: 400,
  grpc.StatusCode.DEADLINE_EXCEEDED: 504,
  grpc.StatusCode.NOT_FOUND: 404,
  grpc.StatusCode.ALREADY_EXISTS: 409,
  grpc.StatusCode.PERMISSION_DENIED: 403,
  grpc.StatusCode.RESOURCE_EXHAUSTED: 429,
  grpc.StatusCode.FAILED_PRECONDITION: 400,
  grpc.StatusCode.ABORTED: 409,
  grpc.StatusCode.OUT_OF_RANGE: 400,
  grpc.StatusCode.UNIMPLEMENTED: 501,
  grpc.StatusCode.UNAVAILABLE: 503,
  grpc.StatusCode.UNAUTHENTICATED: 401,
}


class ServingError(Exception):
  """A failure with its gRPC status.

  Attributes:
    code: a `grpc.StatusCode`.
    message: the whole text; a gRPC client receives `details`.
  """

  def __init__(self, code: grpc.StatusCode, message: str):
    super().__init__(message)
    self.code = code
    self.message = message

  @property
  def details(self) -> str:
    """The text as the official server sends it over gRPC: long ones are cut."""
    if len(self.message) <= _MESSAGE_LIMIT:
      return self.message
    return self.message[:_MESSAGE_LIMIT] + "...TRUNCATED"

  @property
  def http_status(self) -> int:
    """The HTTP code that goes with the gRPC one; 500 for the rest (2, 13, 15)."""
    return _HTTP.get(self.code, 500)

  def __str__(self):
    return f"{self.code.name}: {self.message}"


def invalid(message: str) -> ServingError:
  """An INVALID_ARGUMENT."""
  return ServingError(grpc.StatusCode.INVALID_ARGUMENT, message)


def as_serving_error(error: Exception) -> ServingError:
  """Gives any exception its status: TensorFlow's own codes are gRPC's; the rest is INTERNAL."""
  if isinstance(error, ServingError):
    return error
  if isinstance(error, tf.errors.OpError):
    return ServingError(_CODES[error.error_code], error.message)
  if isinstance(error, UnicodeDecodeError):  # TensorFlow loses the code; the message is in it.
    return invalid(bytes(error.object).decode(errors="replace"))
  return ServingError(grpc.StatusCode.INTERNAL, f"{type(error).__name__}: {error}")
