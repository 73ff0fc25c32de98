"""Unpacks gzip with an end to what comes out: a megabyte may hold a gigabyte of zeros."""

from __future__ import annotations

import zlib

import grpc

from serving.errors import ServingError, invalid

MAGIC = b"\x1f\x8b"  # No protobuf message begins like this: there is no wire type 7.


class TooLargeError(ServingError):
  """More than there is room for; 413 in HTTP."""

  http_status = 413

  def __init__(self, limit: int):
    super().__init__(
      grpc.StatusCode.RESOURCE_EXHAUSTED, f"The request unpacks to more than {limit} bytes"
    )


def gunzip(data: bytes, limit: int) -> bytes:
  """Undoes gzip.

  Raises:
    ServingError: INVALID_ARGUMENT if the data is damaged, RESOURCE_EXHAUSTED if what comes out is
      longer than the limit.
  """
  unpacker = zlib.decompressobj(wbits=31)
  try:
    result = unpacker.decompress(data, limit + 1)
  except zlib.error as error:
    raise invalid(f"The request is not gzip: {error}") from error
  if len(result) > limit:
    raise TooLargeError(limit)
  if not unpacker.eof:
    raise invalid("The request is not gzip: it ends too early")
  return result
