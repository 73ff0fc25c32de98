"""The model server as an object, for tests, notebooks, the quickstart and `serving.server`."""

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

# Extra threads, which refuse calls when all workers are busy.
_SPARE_THREADS = 4
# Calls that wait for a thread. gRPC refuses more calls before it reads their requests.
_MAX_WAITING = 1000
# The number of connections, and the limits on the HTTP/2 handshake and on idle time.
_MAX_CONNECTIONS = 1000
_HANDSHAKE_SECONDS = 10
_IDLE_SECONDS = 1800
_HEALTH_NAMES = ("", "ModelService", "PredictionService")


def default_max_threads() -> int:
  """Returns the default number of concurrent calls, as in the official server: four per CPU."""
  return 4 * (os.cpu_count() or 1)


@dataclasses.dataclass(frozen=True)
class Options:
  """Options of a server. The defaults are those of the official server, except for `host`.

  Attributes:
    host: the address to listen on. An address other than loopback opens the server to the network.
    max_threads: maximal number of concurrent gRPC calls; `4 x CPUs` if None.
    socket_path: path of a UNIX socket to listen on too; None for no socket.
    credentials: TLS credentials for gRPC; plain text if None.
    channel_arguments: further `(name, value)` options of gRPC.
    health: whether to serve `grpc.health.v1`.
    rest_port: TCP port for REST; 0 selects a free port, None disables REST.
    rest_threads: maximal number of concurrent REST calls; `4 x CPUs` if None.
    rest_timeout: seconds for a REST call.
    rest_cors: whether browsers may call REST from other origins.
    prometheus_path: URL path of the metrics on the REST port; None disables them.
    poll_seconds: seconds between two searches for new versions; 0 searches only at the start.
    labels_before_loading: whether new labels may name versions that are not available.
    tensor_content: whether Predict replies with raw bytes instead of typed fields.
    tags: tags of the meta graph to load.
    session_config: configuration of TensorFlow; its defaults if None.
    warmup_iterations: number of times that recorded requests are run before a version serves; 0
      disables the warmup.
    batching: parameters for combining concurrent calls; None runs each call separately.
    check_method_names: whether the method name of a signature must match the method of the call.
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
    options: the server's `Options`.
    metrics: the server's metrics.
    rest_target: `host:port` of REST; None if REST is disabled or the server does not run.
  """

  def __init__(self, **options):
    """
    Args:
      **options: the fields of `Options`.

    Raises:
      ConfigError: if the batching parameters contradict each other, or are not supported.
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
    """Loads the models, then opens the ports. All models are ready when a port is open.

    Args:
      models: `{name: base path}`, or a full configuration. A base path contains version folders
        with integer names.
      port: the TCP port for gRPC; 0 selects a free one.
      wait: whether to wait for base paths that do not exist or have no version yet.

    Returns:
      The target of gRPC, `host:port`.

    Raises:
      ServingError: if the models cannot be loaded, or a port is in use.
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
        # REST needs a library that gRPC does not need.
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
    """Replaces the configuration, as `HandleReloadConfigRequest` does. See `ModelManager.reload`.

    Args:
      config: the new configuration.

    Raises:
      ServingError: if the configuration is invalid, or a new model cannot be loaded.
    """
    self._manager.reload(config)

  def stop(self, grace: float = 10.0) -> None:
    """Refuses new calls, waits for the calls in flight, and frees the models.

    Args:
      grace: the longest time to wait for calls in flight, in seconds.
    """
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
        # gRPC checks sizes only after decompression, so `Services` decompresses; gzip only.
        ("grpc.per_message_decompression", 0),
        ("grpc.compression_enabled_algorithms_bitset", 0b101),
        ("grpc.max_allowed_incoming_connections", _MAX_CONNECTIONS),
        ("grpc.server_handshake_timeout_ms", 1000 * _HANDSHAKE_SECONDS),
        ("grpc.max_connection_idle_ms", 1000 * _IDLE_SECONDS),
        # By default two servers may share a port on Linux, and each gets half of the calls.
        ("grpc.so_reuseport", 0),
        *options.channel_arguments,
      ],
    )
    if options.health:
      # Watchers wait in a separate thread, not in the worker threads.
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
        f"cannot listen on {target}: {error}. Is the port in use? --port=0 chooses a free one",
      ) from error
    server.start()
    self._server = server
    return f"{options.host}:{port}"
