"""Statuses: gRPC's codes, HTTP's, and texts that are cut."""

import grpc
import pytest
import tensorflow as tf

from serving.errors import ServingError, as_serving_error

_HTTP = {3: 400, 9: 400, 11: 400, 5: 404, 4: 504, 8: 429, 12: 501, 13: 500, 2: 500, 15: 500}
_HTTP |= {14: 503, 7: 403, 16: 401, 1: 499, 6: 409, 10: 409}


@pytest.mark.parametrize("code", [code for code in grpc.StatusCode if code.value[0]])
def test_every_code_has_its_http_code(code):
  assert ServingError(code, "").http_status == _HTTP[code.value[0]]


def test_long_texts_are_cut_for_grpc_only():
  error = ServingError(grpc.StatusCode.NOT_FOUND, "x" * 1025)
  assert error.details == "x" * 1024 + "...TRUNCATED"
  assert error.message == "x" * 1025
  assert ServingError(grpc.StatusCode.NOT_FOUND, "x" * 1024).details == "x" * 1024


def test_any_exception_has_a_status():
  error = as_serving_error(tf.errors.OutOfRangeError(None, None, "far"))
  assert (error.code, error.message) == (grpc.StatusCode.OUT_OF_RANGE, "far")
  error = as_serving_error(UnicodeDecodeError("utf-8", b"op: \xb9", 4, 5, "invalid start byte"))
  assert (error.code, error.message) == (grpc.StatusCode.INVALID_ARGUMENT, "op: \ufffd")
  error = as_serving_error(KeyError("x"))
  assert (error.code, error.message) == (grpc.StatusCode.INTERNAL, "KeyError: 'x'")
