"""Decompresses gzip with a limit on the size of the output.

A megabyte of gzip may expand to a gigabyte of zeros.
"""

from __future__ import annotations

import zlib

import grpc

from serving.errors import ServingError, invalid

MAGIC = b"\x1f\x8b"  # No protobuf message begins like this: there is no wire type 7.


class TooLargeError(ServingError):
  """The decompressed request is larger than the limit; 413 in HTTP."""

  http_status = 413

  def __init__(self, limit: int):
    super().__init__(
      grpc.StatusCode.RESOURCE_EXHAUSTED, f"The decompressed request has more than {limit} bytes"
    )


def gunzip(data: bytes, limit: int) -> bytes:
  """Decompresses gzip data.

  Args:
    data: one gzip stream; bytes after its end are ignored.
    limit: the largest accepted size of the output, in bytes.

  Returns:
    The decompressed bytes.

  Raises:
    ServingError: INVALID_ARGUMENT if the data is damaged.
    TooLargeError: if the output is larger than `limit`.
  """
  unpacker = zlib.decompressobj(wbits=31)
  try:
    result = unpacker.decompress(data, limit + 1)
  except zlib.error as error:
    raise invalid(f"The request is not gzip: {error}") from error
  if len(result) > limit:
    raise TooLargeError(limit)
  if not unpacker.eof:
    raise invalid("The request is not gzip: it is truncated")
  return result
