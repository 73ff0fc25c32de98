"""Gunzips requests with a limit on the output size, because a megabyte can expand to a gigabyte."""

from __future__ import annotations

import zlib

import grpc

from serving.errors import ServingError, invalid

MAGIC = b"\x1f\x8b"  # No protobuf message starts with these bytes: there is no wire type 7.


class TooLargeError(ServingError):
  """The error for a request that unpacks to more bytes than the limit; status 413 in HTTP."""

  http_status = 413

  def __init__(self, limit: int):
    super().__init__(
      grpc.StatusCode.RESOURCE_EXHAUSTED, f"The request unpacks to more than {limit} bytes"
    )


def gunzip(data: bytes, limit: int) -> bytes:
  """Decompresses gzip data.

  Args:
    data: the compressed bytes.
    limit: the largest number of bytes to return.

  Returns:
    The decompressed bytes.

  Raises:
    ServingError: INVALID_ARGUMENT if the data is damaged, RESOURCE_EXHAUSTED if the result is
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
