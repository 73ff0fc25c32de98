"""Failures with the status that a client receives: gRPC codes and messages, and HTTP codes."""

from __future__ import annotations

import grpc
import tensorflow as tf

_CODES = {code.value[0]: code for code in grpc.StatusCode}
_MESSAGE_LIMIT = 1024
# Errors that running a graph may raise. TensorFlow raises UnicodeDecodeError when an op's message
# quotes input bytes that are not UTF-8.
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
    message: the full message; a gRPC client receives `details`.
  """

  def __init__(self, code: grpc.StatusCode, message: str):
    super().__init__(message)
    self.code = code
    self.message = message

  @property
  def details(self) -> str:
    """The message as the official server sends it over gRPC, cut to 1024 characters."""
    if len(self.message) <= _MESSAGE_LIMIT:
      return self.message
    return self.message[:_MESSAGE_LIMIT] + "...TRUNCATED"

  @property
  def http_status(self) -> int:
    """The HTTP code for the gRPC code; 500 for codes without an HTTP equivalent."""
    return _HTTP.get(self.code, 500)

  def __str__(self):
    return f"{self.code.name}: {self.message}"


def invalid(message: str) -> ServingError:
  """Makes an INVALID_ARGUMENT error.

  Args:
    message: the full message.

  Returns:
    The error, which the caller raises.
  """
  return ServingError(grpc.StatusCode.INVALID_ARGUMENT, message)


def as_serving_error(error: Exception) -> ServingError:
  """Converts any exception to a `ServingError`.

  Args:
    error: the exception. A `tf.errors.OpError` keeps its code; other exceptions become INTERNAL.

  Returns:
    The error, which the caller raises.
  """
  if isinstance(error, ServingError):
    return error
  if isinstance(error, tf.errors.OpError):
    return ServingError(_CODES[error.error_code], error.message)
  if isinstance(error, UnicodeDecodeError):  # It holds the op's message, but not its code.
    return invalid(bytes(error.object).decode(errors="replace"))
  return ServingError(grpc.StatusCode.INTERNAL, f"{type(error).__name__}: {error}")
