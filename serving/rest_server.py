"""The HTTP server of the REST API. It uses waitress, and limits sizes, times and connections.

See docs/adr/rest-server.md for the reasons and the limits.
"""

from __future__ import annotations

import http
import logging
import threading
import time

import grpc
from waitress.adjustments import Adjustments
from waitress.channel import HTTPChannel
from waitress.parser import HTTPRequestParser
from waitress.server import TcpWSGIServer
from waitress.task import ErrorTask, ThreadedTaskDispatcher, WSGITask

from serving import json_text
from serving.errors import ServingError
from serving.rest import MAX_BODY_BYTES, Rest

_MAX_CONNECTIONS = 256
_MAX_HEADER_BYTES = 1 << 16
_IDLE_SECONDS = 60
_REQUEST_SECONDS = 60  # For a whole request to arrive, even if its bytes keep coming.


class RestServer:
  """Serves a `Rest` on a port, in background threads.

  Attributes:
    target: `host:port`.
  """

  def __init__(self, rest: Rest, host: str, port: int):
    """Opens the port and starts to serve.

    Args:
      rest: answers the requests.
      host: the address to listen on.
      port: the TCP port; 0 selects a free one.

    Raises:
      ServingError: if the port is in use.
    """
    self._rest = rest
    # Its warnings about queues and closed sockets repeat what clients are told.
    logging.getLogger("waitress").setLevel(logging.ERROR)
    adjustments = Adjustments(
      listen=f"{host}:{port}",
      threads=rest.threads,
      ident=None,
      connection_limit=1 << 30,  # `_Server` limits the connections instead.
      channel_timeout=_IDLE_SECONDS,
      cleanup_interval=5,
      max_request_header_size=_MAX_HEADER_BYTES,
      max_request_body_size=MAX_BODY_BYTES + 1,
      asyncore_use_poll=True,  # select() is limited to 1024 files.
      log_socket_errors=False,
    )
    self._dispatcher = ThreadedTaskDispatcher()
    try:
      self._server = _Server(
        self._application,
        {},
        dispatcher=self._dispatcher,
        adj=adjustments,
        sockinfo=adjustments.listen[0],
      )
    except OSError as error:
      raise ServingError(
        grpc.StatusCode.UNAVAILABLE,
        f"cannot listen on {host}:{port}: {error}. Is the port in use?",
      ) from error
    self._dispatcher.set_thread_count(rest.threads)
    self.target = f"{host}:{self._server.effective_port}"
    self._thread = threading.Thread(target=self._server.run, name="rest", daemon=True)
    self._thread.start()

  def stop(self, grace: float) -> None:
    """Refuses new connections, waits for the requests in flight, and stops the server.

    Args:
      grace: the longest time to wait for requests in flight, in seconds.
    """
    server, end = self._server, time.monotonic() + grace
    server.trigger.pull_trigger(server.stop_accepting)
    while time.monotonic() < end and server.busy():
      time.sleep(0.02)
    server.trigger.pull_trigger(server.close_all)
    self._thread.join()
    self._rest.close()
    self._dispatcher.shutdown(timeout=max(end - time.monotonic(), 0.1))
    server.trigger.close()  # Here, because the server's thread may act before the pull returns.

  def _application(self, environ, start_response):
    """The WSGI application."""
    path = environ.get("REQUEST_URI", "").partition("?")[0]
    reply = self._rest.handle(
      environ["REQUEST_METHOD"],
      path,
      environ["wsgi.input"].read(),
      environ.get("HTTP_CONTENT_ENCODING", "").strip().lower(),
      environ.get("HTTP_ORIGIN", ""),
    )
    headers = [*reply.headers, ("Content-Length", str(len(reply.body)))]
    start_response(_status_line(reply.status), headers)
    return [] if environ["REQUEST_METHOD"] == "HEAD" else [reply.body]


def _status_line(code: int) -> str:
  phrase = "Client Closed Request" if code == 499 else http.HTTPStatus(code).phrase
  return f"{code} {phrase}"


class _Parser(HTTPRequestParser):
  """Records when its request began to arrive."""

  path = ""  # waitress reads it even if a damaged request has none.

  def __init__(self, adj):
    super().__init__(adj)
    self.began = time.time()


class _Task(WSGITask):
  def build_response_header(self):
    if self.channel.server.stopping:  # Tells the client to close its connection.
      self.set_close_on_finish()
    return super().build_response_header()


class _ErrorTask(ErrorTask):
  """Reports an HTTP error of a request as JSON, like all other errors."""

  def execute(self):
    error = self.request.error
    body = ('{ "error": ' + json_text.quote(f"{error.reason}: {error.body}") + " }").encode()
    self.status = f"{error.code} {error.reason}"
    self.response_headers.append(("Content-Type", "application/json"))
    self.set_close_on_finish()
    self.content_length = len(body)
    self.write(body)


class _Channel(HTTPChannel):
  parser_class, task_class, error_task_class = _Parser, _Task, _ErrorTask


class _Server(TcpWSGIServer):
  """Closes the connection that has been idle longest when there are too many connections."""

  channel_class = _Channel
  stopping = False

  def readable(self):
    ready = super().readable()
    return ready and (len(self.active_channels) < _MAX_CONNECTIONS or self._idlest() is not None)

  def handle_accept(self):
    if len(self.active_channels) >= _MAX_CONNECTIONS and (idlest := self._idlest()):
      idlest.handle_close()
    super().handle_accept()

  def maintenance(self, now):
    super().maintenance(now)
    for channel in self.active_channels.values():
      if channel.request is not None and channel.request.began < now - _REQUEST_SECONDS:
        channel.will_close = True

  def busy(self) -> bool:
    """Returns whether any request is in flight."""
    return any(c.requests or c.total_outbufs_len for c in list(self.active_channels.values()))

  def stop_accepting(self) -> None:
    """Closes the port. Call it in the server's thread, with its trigger."""
    self.stopping = True
    self.accepting = False
    self.del_channel()
    self.socket.close()

  def close_all(self) -> None:
    """Closes all connections, which ends `run`. Call it in the server's thread."""
    for channel in list(self.active_channels.values()):
      channel.handle_close()
    self.trigger.del_channel()

  def _idlest(self):
    idle = [c for c in self.active_channels.values() if not c.requests and not c.total_outbufs_len]
    return min(idle, key=lambda c: c.last_activity, default=None)
