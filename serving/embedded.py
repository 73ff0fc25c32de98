"""The model server as an object: for tests, notebooks, the quickstart, and `serving.server`."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import functools
import os
import time

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from tensorflow.core.protobuf import config_pb2
from tensorflow_serving.config import model_server_config_pb2

from serving import model, warmup
from serving.batching import Batcher
from serving.config import BatchingParameters
from serving.errors import ServingError
from serving.manager import ModelManager, model_config
from serving.metrics import Metrics
from serving.services import MAX_MESSAGE_BYTES, Api, Services, Unimplemented

# Threads beside the working ones: they only tell callers that all are busy.
_SPARE_THREADS = 4
# Calls beyond those that wait for a thread: refused before their request is read.
_MAX_WAITING = 1000
# Connections: how many, how long one may take to speak HTTP/2, and how long it may then be silent.
_MAX_CONNECTIONS = 1000
_HANDSHAKE_SECONDS = 10
_IDLE_SECONDS = 1800
_HEALTH_NAMES = ("", "ModelService", "PredictionService")


def default_max_threads() -> int:
  """The official server's default: four calls at once for each CPU."""
  return 4 * (os.cpu_count() or 1)


@dataclasses.dataclass(frozen=True)
class Options:
  """How a server serves; the defaults are those of the official one.

  Attributes:
    host: the address to listen on. Anything but loopback opens it to the network.
    max_threads: gRPC calls that may run at once; `4 x CPUs` by default.
    socket_path: a UNIX socket to listen on too.
    credentials: TLS for gRPC; plain text if None.
    channel_arguments: further `(name, value)` options of gRPC.
    health: whether to answer `grpc.health.v1`.
    rest_port: where to answer REST; 0 picks a free port, None leaves it out.
    rest_threads: REST calls that may run at once; `4 x CPUs` by default.
    rest_timeout: seconds for a REST call.
    rest_cors: whether browsers may call from other origins.
    prometheus_path: where REST shows the metrics; None hides them.
    poll_seconds: how often to look for new versions; 0 for never again after the start.
    labels_before_loading: whether new labels may name versions that are not available.
    tensor_content: reply to Predict with raw bytes instead of typed fields.
    tags: of the meta graph to load.
    session_config: for TensorFlow; its defaults if None.
    warmup_iterations: how often recorded requests are run before a version serves; 0 for never.
    batching: puts calls together; None runs each alone.
    check_method_names: whether signatures must be of the method that calls them.
  """

  host: str = "127.0.0.1"
  max_threads: int | None = None
  socket_path: str | None = None
  credentials: grpc.ServerCredentials | None = None
  channel_arguments: tuple[tuple[str, int | str], ...] = ()
  health: bool = False
  rest_port: int | None = None
  rest_threads: int | None = None
  rest_timeout: float = 30.0
  rest_cors: bool = False
  prometheus_path: str | None = None
  poll_seconds: float = 1.0
  labels_before_loading: bool = False
  tensor_content: bool = False
  tags: tuple[str, ...] = ("serve",)
  session_config: config_pb2.ConfigProto | None = None
  warmup_iterations: int = 1
  batching: BatchingParameters | None = None
  check_method_names: bool = False


class EmbeddedServer:
  """A model server in this process.

  with EmbeddedServer() as server:
    target = server.start({"planner": "runs/quickstart/export/planner"})
    client = PlannerClient(target)

  Attributes:
    options: as given.
    metrics: what it counts.
    rest_target: `host:port` of REST, while it runs.
  """

  def __init__(self, **options):
    """
    Args:
      **options: the fields of `Options`.
    """
    self.options = Options(**options)
    self.metrics = Metrics()
    self._batcher = Batcher(self.options.batching) if self.options.batching is not None else None
    self.rest_target: str | None = None
    self._manager = self._server = self._rest = self._health = None

  def start(
    self,
    models: dict[str, str] | model_server_config_pb2.ModelServerConfig,
    port: int = 0,
    wait: bool = False,
  ) -> str:
    """Loads the models, then opens the ports: an open port means that all are ready.

    Args:
      models: `{name: base path}`, or a full configuration. A base path holds version folders with
        integer names.
      port: 0 picks a free one.
      wait: whether to wait for base paths that do not exist or hold no version yet.

    Returns:
      The target, `host:port`.

    Raises:
      ServingError: if the models cannot be loaded, or a port is taken.
    """
    options = self.options
    if isinstance(models, dict):
      models = model_config(models)
    self._manager = ModelManager(
      models, self._load, options.poll_seconds, options.labels_before_loading
    )
    try:
      self._manager.start(wait)
      api = Api(self._manager, self.metrics, options.tensor_content)
      target = self._start_grpc(api, port)
      if options.rest_port is not None:
        # REST needs a library that gRPC alone does without.
        from serving.rest import Rest
        from serving.rest_server import RestServer

        rest = Rest(
          Api(self._manager, self.metrics, tensor_content=True),
          options.rest_threads or default_max_threads(),
          options.rest_timeout,
          options.rest_cors,
          options.prometheus_path,
        )
        self._rest = RestServer(rest, options.host, options.rest_port)
        self.rest_target = self._rest.target
    except BaseException:
      self.stop(0)
      raise
    return target

  def reload(self, config: model_server_config_pb2.ModelServerConfig) -> None:
    """Changes what is served, as `HandleReloadConfigRequest` does.

    Raises:
      ServingError: see `ModelManager.reload`.
    """
    self._manager.reload(config)

  def stop(self, grace: float = 10.0) -> None:
    """Refuses new calls, gives those in flight `grace` seconds to end, and frees the models."""
    end = time.monotonic() + grace
    if self._health is not None:
      self._health.enter_graceful_shutdown()
    stopped = self._server.stop(grace) if self._server is not None else None
    if self._rest is not None:
      self._rest.stop(grace)
    if stopped is not None:
      stopped.wait(max(end - time.monotonic(), 0) + 5)
    if self._manager is not None:
      self._manager.stop()
    self._server = self._rest = self._manager = self._health = self.rest_target = None

  def __enter__(self):
    return self

  def __exit__(self, *_):
    self.stop()

  def _load(self, path: str) -> model.Servable:
    options, start = self.options, time.perf_counter()
    warm_up = None
    if options.warmup_iterations:
      warm_up = functools.partial(warmup.warm_up, iterations=options.warmup_iterations)
    loaded = "fail"
    try:
      servable = model.Servable(
        path,
        model.Options(
          tags=options.tags,
          session_config=options.session_config,
          warm_up=warm_up,
          batch=self._batcher.wrap if self._batcher else None,
          check_method_names=options.check_method_names,
        ),
      )
      loaded = "success"
      return servable
    finally:
      self.metrics.load_count.add(path, loaded)
      microseconds = int((time.perf_counter() - start) * 1e6)
      self.metrics.load_latency.add(path, amount=microseconds)

  def _start_grpc(self, api: Api, port: int) -> str:
    options = self.options
    threads = options.max_threads or default_max_threads()
    server = grpc.server(
      concurrent.futures.ThreadPoolExecutor(threads + _SPARE_THREADS, thread_name_prefix="grpc"),
      handlers=[Services(api, threads)],
      maximum_concurrent_rpcs=threads + _MAX_WAITING,
      options=[
        ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
        ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
        # gRPC unpacks whole and measures then; `Services` stops in time. gzip, but not deflate.
        ("grpc.per_message_decompression", 0),
        ("grpc.compression_enabled_algorithms_bitset", 0b101),
        ("grpc.max_allowed_incoming_connections", _MAX_CONNECTIONS),
        ("grpc.server_handshake_timeout_ms", 1000 * _HANDSHAKE_SECONDS),
        ("grpc.max_connection_idle_ms", 1000 * _IDLE_SECONDS),
        # By default two servers may share a port on Linux, each getting half of the calls.
        ("grpc.so_reuseport", 0),
        *options.channel_arguments,
      ],
    )
    if options.health:
      # Watchers wait in a thread of their own, not in those that work.
      self._health = health.HealthServicer(
        experimental_non_blocking=True,
        experimental_thread_pool=concurrent.futures.ThreadPoolExecutor(1),
      )
      for name in _HEALTH_NAMES:
        self._health.set(name, health_pb2.HealthCheckResponse.SERVING)
      health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
    server.add_generic_rpc_handlers([Unimplemented()])
    add_port = server.add_insecure_port
    if options.credentials is not None:
      add_port = functools.partial(server.add_secure_port, server_credentials=options.credentials)
    target = f"{options.host}:{port}"
    try:
      port = add_port(target)
      if options.socket_path:
        add_port(f"unix:{options.socket_path}")
    except RuntimeError as error:
      raise ServingError(
        grpc.StatusCode.UNAVAILABLE,
        f"cannot listen on {target}: {error}. Is the port taken? --port=0 picks another",
      ) from error
    server.start()
    self._server = server
    return f"{options.host}:{port}"
