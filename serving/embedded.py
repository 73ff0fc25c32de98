"""The gRPC server as an object: for tests, notebooks, the quickstart, and `serving.server`."""

from __future__ import annotations

import concurrent.futures
import os

import grpc
from tensorflow_serving.config import model_server_config_pb2

from serving.manager import ModelManager, model_config
from serving.model import ServingError
from serving.services import Services

# Well above any batch of frames; the official server has no bound to speak of.
_MAX_MESSAGE_BYTES = 1 << 28
# Threads beside the working ones: they only tell callers that all are busy.
_SPARE_THREADS = 4


def default_max_threads() -> int:
  """The official server's default: four calls at once for each CPU."""
  return 4 * (os.cpu_count() or 1)


class EmbeddedServer:
  """A model server in this process.

  with EmbeddedServer() as server:
    target = server.start({"planner": "runs/quickstart/export/planner"})
    client = PlannerClient(target)
  """

  def __init__(
    self,
    host: str = "127.0.0.1",
    max_threads: int | None = None,
    poll_seconds: float = 1.0,
    tensor_content: bool = False,
  ):
    """
    Args:
      host: the address to listen on. Anything but loopback opens it to the network, without TLS.
      max_threads: calls that may run at once; `4 x CPUs` by default.
      poll_seconds: how often to look for new versions; 0 for never again after the start.
      tensor_content: reply with raw bytes instead of typed fields.
    """
    self._host, self._poll_seconds = host, poll_seconds
    self._max_threads = max_threads or default_max_threads()
    self._tensor_content = tensor_content
    self._manager = self._server = None

  def start(
    self,
    models: dict[str, str] | model_server_config_pb2.ModelServerConfig,
    port: int = 0,
    wait: bool = False,
  ) -> str:
    """Loads the models, then opens the port: an open port means that all are ready.

    Args:
      models: `{name: base path}`, or a full configuration. A base path holds version folders with
        integer names.
      port: 0 picks a free one.
      wait: whether to wait for base paths that do not exist or hold no version yet.

    Returns:
      The target, `host:port`.

    Raises:
      ServingError: if the models cannot be loaded, or the port is taken.
    """
    if isinstance(models, dict):
      models = model_config(models)
    self._manager = ModelManager(models, self._poll_seconds)
    self._manager.start(wait)
    self._server = grpc.server(
      concurrent.futures.ThreadPoolExecutor(
        self._max_threads + _SPARE_THREADS, thread_name_prefix="grpc"
      ),
      handlers=[Services(self._manager, self._max_threads, self._tensor_content)],
      options=[
        ("grpc.max_receive_message_length", _MAX_MESSAGE_BYTES),
        ("grpc.max_send_message_length", _MAX_MESSAGE_BYTES),
        # By default two servers may share a port on Linux, each getting half of the calls.
        ("grpc.so_reuseport", 0),
      ],
    )
    try:
      port = self._server.add_insecure_port(f"{self._host}:{port}")
    except RuntimeError as error:
      self._manager.stop()
      raise ServingError(
        grpc.StatusCode.UNAVAILABLE,
        f"cannot listen on {self._host}:{port}: {error}. Is the port taken? --port=0 picks another",
      ) from error
    self._server.start()
    return f"{self._host}:{port}"

  def stop(self, grace: float = 10.0) -> None:
    """Refuses new calls, gives those in flight `grace` seconds to end, and frees the models."""
    if self._server is not None:
      self._server.stop(grace).wait()
    if self._manager is not None:
      self._manager.stop()
    self._server = self._manager = None

  def __enter__(self):
    return self

  def __exit__(self, *_):
    self.stop()
