"""Implements the REST API, independent of the HTTP server."""

from __future__ import annotations

import concurrent.futures
import logging
import re
import threading
import time
import urllib.parse
from typing import NamedTuple

import grpc
from google.protobuf import json_format
from tensorflow_serving.apis import (
  classification_pb2,
  get_model_metadata_pb2,
  get_model_status_pb2,
  model_pb2,
  predict_pb2,
  regression_pb2,
)

from serving import compression, json_examples, json_tensors, json_text, tensors
from serving.errors import ServingError, as_serving_error, invalid
from serving.model import DEFAULT_SIGNATURE
from serving.services import Api

_LOG = logging.getLogger("serving")
MAX_BODY_BYTES = 1 << 26
_PREDICTION = re.compile(
  r"(?i)/v1/models/([^/:]+)(?:(?:/versions/(\d+))|(?:/labels/([^/:]+)))?:(classify|regress|predict)"
)
_STATUS = re.compile(
  r"(?i)/v1/models(?:/([^/:]+))?(?:(?:/versions/(\d+))|(?:/labels/([^/:]+)))?(?:/(metadata))?"
)
_JSON = "application/json"
_CORS = (
  ("Access-Control-Allow-Origin", "*"),
  ("Access-Control-Allow-Methods", "POST, GET"),
  ("Access-Control-Allow-Headers", "Content-Type"),
)


class Reply(NamedTuple):
  """An HTTP response.

  Attributes:
    status: the status code.
    headers: pairs of a name and a value.
    body: the body.
  """

  status: int
  headers: tuple[tuple[str, str], ...]
  body: bytes


class Rest:
  """Answers HTTP requests. It is thread-safe.

  Attributes:
    threads: the maximal number of concurrent calls of models.
  """

  def __init__(
    self,
    api: Api,
    threads: int,
    timeout: float = 30.0,
    cors: bool = False,
    prometheus_path: str | None = None,
  ):
    """
    Args:
      api: answers the requests; its Predict should use `tensor_content`.
      threads: the maximal number of concurrent calls of models.
      timeout: seconds for a call of a model, including the wait for a thread; later it gets 504.
      cors: whether browsers may call from other origins.
      prometheus_path: URL path of the metrics; None disables them.
    """
    self._api, self.threads, self._timeout = api, threads, timeout
    self._headers = _CORS if cors else ()
    self._prometheus_path = prometheus_path
    self._pool = concurrent.futures.ThreadPoolExecutor(threads, thread_name_prefix="rest")

  def handle(
    self, method: str, path: str, body: bytes = b"", encoding: str = "", origin: str = ""
  ) -> Reply:
    """Answers one request.

    Args:
      method: the HTTP method, such as `POST`.
      path: the URL path, percent-encoded and without a query.
      body: the body, of at most `MAX_BODY_BYTES` bytes.
      encoding: the Content-Encoding: `gzip`, `identity` or empty.
      origin: the Origin of a browser's preflight request; empty if there is none.

    Returns:
      The response; errors are responses too.
    """
    if path == self._prometheus_path and method == "GET":
      return Reply(200, (("Content-Type", "text/plain"),), self._api.metrics.page().encode())
    if not path.lower().startswith("/v1/"):
      return self._reply(404, b'{"error": "Not Found"}')
    if method == "OPTIONS":
      return self._reply(200 if re.search("https?://", origin) else 400, b"")
    # Parsed first, because the metrics need the model's name.
    called = _Call(method, path)
    start = time.perf_counter()
    try:
      text = self._answer(called, _unpack(body, encoding))
    except Exception as error:
      failure = as_serving_error(error)
      if not isinstance(error, ServingError):
        _LOG.exception("%s %s failed", method, path)
      self._api.record(called.model, failure.code)
      text = '{ "error": ' + json_text.quote(failure.message) + " }"
      return self._reply(failure.http_status, text.encode(errors="replace"))
    if called.verb:
      seconds = time.perf_counter() - start
      self._api.metrics.request_latency.observe(seconds, called.model, called.verb, "REST")
    self._api.record(called.model, grpc.StatusCode.OK)
    return self._reply(200, text.encode(errors="replace"))

  def close(self) -> None:
    """Releases the threads. Running calls finish; waiting calls are cancelled."""
    self._pool.shutdown(wait=False, cancel_futures=True)

  def _reply(self, status: int, body: bytes) -> Reply:
    return Reply(status, (("Content-Type", _JSON), *self._headers), body)

  def _answer(self, called: _Call, body: bytes) -> str:
    spec = called.spec()
    if called.verb:
      return self._in_time(getattr(self, f"_{called.verb}"), spec, body)
    if called.metadata:
      return self._metadata(spec)
    request = get_model_status_pb2.GetModelStatusRequest(model_spec=spec)
    return json_format.MessageToJson(
      self._api.get_model_status(request), always_print_fields_with_no_presence=True, indent=1
    )

  def _in_time(self, method, spec, body: bytes) -> str:
    cancelled = threading.Event()

    def run():
      if not cancelled.is_set():
        return method(spec, body)

    future = self._pool.submit(run)
    try:
      return future.result(self._timeout)
    except concurrent.futures.TimeoutError as error:
      cancelled.set()  # If it still waits for a thread, it does not run.
      raise ServingError(
        grpc.StatusCode.DEADLINE_EXCEEDED, "Timed out waiting for notification"
      ) from error

  def _predict(self, spec: model_pb2.ModelSpec, body: bytes) -> str:
    document = json_text.parse(body)
    name = json_tensors.signature_name(document) or DEFAULT_SIGNATURE
    with self._api.manager.acquire(spec) as version:
      signature = version.servable.signatures.get(name)
      if signature is None:
        raise invalid(f'Serving signature name: "{name}" not found in signature def')
      dtypes = {alias: signature.inputs[alias].dtype for alias in sorted(signature.inputs)}
    if not dtypes:
      raise invalid(f"Failed to get input map for signature: {name}")
    arrays, by_rows = json_tensors.inputs(document, dtypes)
    request = predict_pb2.PredictRequest(model_spec=spec)
    request.model_spec.signature_name = name
    for alias, array in arrays.items():
      tensors.encode(array, request.inputs[alias], as_content=True)
    response = self._api.predict(request)
    found = {alias: tensors.decode(proto) for alias, proto in response.outputs.items()}
    return json_tensors.outputs(found, by_rows)

  def _classify(self, spec: model_pb2.ModelSpec, body: bytes) -> str:
    request = classification_pb2.ClassificationRequest(model_spec=spec)
    json_examples.fill(json_text.parse(body), request)
    return json_examples.classifications(self._api.classify(request).result)

  def _regress(self, spec: model_pb2.ModelSpec, body: bytes) -> str:
    request = regression_pb2.RegressionRequest(model_spec=spec)
    json_examples.fill(json_text.parse(body), request)
    return json_examples.regressions(self._api.regress(request).result)

  def _metadata(self, spec: model_pb2.ModelSpec) -> str:
    request = get_model_metadata_pb2.GetModelMetadataRequest(
      model_spec=spec, metadata_field=["signature_def"]
    )
    response = self._api.get_model_metadata(request)
    signatures = get_model_metadata_pb2.SignatureDefMap()
    response.metadata["signature_def"].Unpack(signatures)
    model, inner = (
      json_format.MessageToJson(
        message,
        preserving_proto_field_name=True,
        always_print_fields_with_no_presence=True,
        indent=1,
      )
      for message in (response.model_spec, signatures)
    )
    return f'{{\n"model_spec":{model},\n"metadata": {{"signature_def": {inner}}}\n}}\n'


class _Call:
  """A parsed method and path.

  Attributes:
    model: the model's name, decoded; empty if the path has none.
    verb: predict, classify or regress; empty for a request of metadata or status.
    metadata: whether it is a request of metadata.
  """

  def __init__(self, method: str, path: str):
    self._method, self._path = method, path
    pattern = {"POST": _PREDICTION, "GET": _STATUS}.get(method)
    self._match = pattern.fullmatch(path) if pattern else None
    groups = self._match.groups() if self._match else ("",) * 4
    self.model = _unquote(groups[0] or "")
    self.verb = groups[3] or "" if method == "POST" else ""
    self.metadata = method == "GET" and groups[3] == "metadata"

  def spec(self) -> model_pb2.ModelSpec:
    """Returns the model and version in the path.

    Raises:
      ServingError: INVALID_ARGUMENT, if the path is not part of the API.
    """
    # The pattern accepts :PREDICT, the official server does not.
    if self._match is None or self.verb != self.verb.lower():
      raise invalid(f"Malformed request: {self._method} {self._path}")
    if not self.model:
      raise invalid("Missing model name in request.")
    _, version, label, _ = self._match.groups()
    spec = model_pb2.ModelSpec(name=self.model)
    if version:
      if len(version) > 19 or int(version) >= 2**63:
        raise invalid(f"Failed to convert version: {version} to numeric.")
      spec.version.value = int(version)
    if label:
      spec.version_label = _unquote(label)
    return spec


def _unquote(text: str) -> str:
  return urllib.parse.unquote(text, errors="replace")


def _unpack(body: bytes, encoding: str) -> bytes:
  """Decodes a Content-Encoding, with a limit on the size of the output."""
  if not encoding or encoding == "identity":
    return body
  if encoding != "gzip":
    raise invalid(f"Content-Encoding: {encoding} is not supported; use gzip")
  return compression.gunzip(body, MAX_BODY_BYTES)
