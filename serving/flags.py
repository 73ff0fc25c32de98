"""The flags of `tensorflow_model_server`, under their own names, and the server options they set.

All flags of the official binary are accepted, so that its command lines work here. Flags for
features that this server lacks (TPUs, TFLite, loading threads, ...) have no effect; they are listed
in `WITHOUT_EFFECT`. The server rejects those whose absence would change results or security.
"""

from __future__ import annotations

from absl import flags

PORT = flags.DEFINE_integer(
  "port", 8500, "TCP port for gRPC; 0 picks a free one, which is printed.", 0, 65535
)
HOST = flags.DEFINE_string(
  "host",
  "127.0.0.1",
  "Address to listen on (not a flag of the official server, which listens on all). 0.0.0.0 opens"
  " the server to the network: give --ssl_config_file too.",
)
_SOCKET = flags.DEFINE_string("grpc_socket_path", "", "UNIX socket to answer gRPC on too.")
REST_PORT = flags.DEFINE_integer(
  "rest_api_port", 0, "TCP port for HTTP/REST, 8501 by custom; 0 leaves it out.", 0, 65535
)
_REST_THREADS = flags.DEFINE_integer(
  "rest_api_num_threads", None, "REST calls that may run at once. Default: 4 x CPUs.", 1
)
_REST_TIMEOUT = flags.DEFINE_integer(
  "rest_api_timeout_in_ms", 30000, "Milliseconds for a REST call; then it gets 504.", 1
)
_REST_CORS = flags.DEFINE_bool(
  "rest_api_enable_cors_support", False, "Let browsers call REST from any origin."
)
_MODEL_NAME = flags.DEFINE_string("model_name", "default", "Name under which clients ask for it.")
_MODEL_BASE_PATH = flags.DEFINE_string(
  "model_base_path", None, "Folder that holds version folders named by integers, such as 1/, 2/."
)
_MODEL_CONFIG_FILE = flags.DEFINE_string(
  "model_config_file",
  None,
  "Text proto of a tensorflow.serving.ModelServerConfig, for several models, for version policies"
  " and labels; --model_name and --model_base_path are ignored then.",
)
CONFIG_POLL = flags.DEFINE_float(
  "model_config_file_poll_wait_seconds",
  0.0,
  "Seconds between looks at --model_config_file, whose changes are taken on; 0: one look.",
  0,
)
_POLL = flags.DEFINE_float(
  "file_system_poll_wait_seconds", 1.0, "Seconds between looks for new versions; 0: one look.", 0
)
_LABELS = flags.DEFINE_bool(
  "allow_version_labels_for_unavailable_models",
  False,
  "Let a new label name a version that is not available; needed for labels in a start-up file.",
)
_BATCHING = flags.DEFINE_bool("enable_batching", False, "Put calls that wait together into one.")
_BATCHING_FILE = flags.DEFINE_string(
  "batching_parameters_file", None, "Text proto of BatchingParameters; with --enable_batching."
)
_SSL = flags.DEFINE_string(
  "ssl_config_file",
  None,
  "Text proto of an SSLConfig, with PEM text in it: TLS for gRPC, and with client_verify: true"
  " clients need a certificate.",
)
_MONITORING = flags.DEFINE_string(
  "monitoring_config_file",
  None,
  "Text proto of a MonitoringConfig, such as `prometheus_config { enable: true }`: metrics on the"
  " REST port, at /monitoring/prometheus/metrics.",
)
_MAX_THREADS = flags.DEFINE_integer(
  "grpc_max_threads",
  None,
  "Calls that may run at once; more get RESOURCE_EXHAUSTED. Default: 4 x CPUs.",
  1,
)
_CHANNEL_ARGUMENTS = flags.DEFINE_string(
  "grpc_channel_arguments", "", "Options of gRPC, such as grpc.max_connection_age_ms=2000,..."
)
_HEALTH = flags.DEFINE_bool("enable_grpc_healthcheck_service", False, "Answer grpc.health.v1.")
_TENSOR_CONTENT = flags.DEFINE_bool(
  "enable_serialization_as_tensor_content",
  False,
  "Reply with raw bytes in tensor_content, which is faster for frames, instead of typed fields.",
)
_WARMUP = flags.DEFINE_bool(
  "enable_model_warmup", True, "Run a version's recorded requests before it serves."
)
_WARMUP_ITERATIONS = flags.DEFINE_integer(
  "num_request_iterations_for_warmup", 1, "How often each of them is run.", 0
)
_TAGS = flags.DEFINE_list("saved_model_tags", ["serve"], "Tags of the meta graph to load.")
_METHOD_NAMES = flags.DEFINE_bool(
  "enable_signature_method_name_check",
  False,
  "Refuse signatures whose method name is not that of the call.",
)
_SESSION_FILE = flags.DEFINE_string(
  "tensorflow_session_config_file", None, "Text proto of a tensorflow.ConfigProto."
)
_PARALLELISM = flags.DEFINE_integer(
  "tensorflow_session_parallelism", 0, "Threads for ops and within them; 0: as many as CPUs.", 0
)
_INTRA_OP = flags.DEFINE_integer(
  "tensorflow_intra_op_parallelism", 0, "Threads within an op; 0: as many as CPUs.", 0
)
_INTER_OP = flags.DEFINE_integer(
  "tensorflow_inter_op_parallelism", 0, "Threads for ops; 0: as many as CPUs.", 0
)
VERSION = flags.DEFINE_bool("version", False, "Print the version and end.")
DRAIN = flags.DEFINE_float(
  "drain_seconds", 10.0, "How long SIGTERM waits for calls in flight to end.", 0
)
WITH_STDIN = flags.DEFINE_bool(
  "exit_with_stdin",
  False,
  "Also end when standard input does: given a pipe, the server does not outlive who started it.",
)

# Flags of the official server with its defaults. A value of another type is still an error.
WITHOUT_EFFECT = {
  "enable_per_model_batching_parameters": False,
  "num_load_threads": 0,
  "num_unload_threads": 0,
  "max_num_load_retries": 5,
  "load_retry_interval_micros": 60_000_000,
  "flush_filesystem_caches": True,
  "use_alts_credentials": False,
  "platform_config_file": "",
  "per_process_gpu_memory_fraction": 0.0,
  "remove_unused_fields_from_bundle_metagraph": True,
  "prefer_tflite_model": False,
  "num_tflite_pools": 0,
  "num_tflite_interpreters_per_pool": 1,
  "xla_cpu_compilation_enabled": False,
  "xla_gpu_compilation_enabled": False,
  "enable_profiler": True,
  "thread_pool_factory_config_file": "",
  "mixed_precision": "",
  "skip_initialize_tpu": False,
}
# Flags that are rejected unless they have their default value: they change security or results.
_REFUSED = (
  "use_alts_credentials",
  "platform_config_file",
  "prefer_tflite_model",
  "thread_pool_factory_config_file",
  "mixed_precision",
)
_DEFINE = {
  bool: flags.DEFINE_bool,
  int: flags.DEFINE_integer,
  float: flags.DEFINE_float,
  str: flags.DEFINE_string,
}
_IGNORED = {
  name: _DEFINE[type(default)](name, default, "Taken for the official server's sake; no effect.")
  for name, default in WITHOUT_EFFECT.items()
}


class FlagError(ValueError):
  """The error for flags that contradict each other or name a bad file; it names the flag."""


def models():
  """Returns the `ModelServerConfig` that the flags define.

  Raises:
    FlagError: if neither a base path nor a file is given, or the file is invalid.
  """
  from serving import config
  from serving.manager import model_config

  if not (_MODEL_CONFIG_FILE.value or _MODEL_BASE_PATH.value):
    raise FlagError("Give --model_base_path (and --model_name), or --model_config_file.")
  if _MODEL_CONFIG_FILE.value:
    return _from_file("model_config_file", config.read_models)
  return model_config({_MODEL_NAME.value: _MODEL_BASE_PATH.value})


def config_file() -> str | None:
  """Returns the configuration file to watch for changes; None if no file is watched."""
  return _MODEL_CONFIG_FILE.value if CONFIG_POLL.value else None


def options() -> dict:
  """Returns the fields of `serving.embedded.Options` that the flags set, by name.

  Raises:
    FlagError: if flags contradict each other or ask for an unsupported feature, or a file is
      invalid.
  """
  from serving import config

  for name in _REFUSED:
    if _IGNORED[name].value != WITHOUT_EFFECT[name]:
      raise FlagError(f"--{name} is not supported here; the official server has it.")
  if _BATCHING_FILE.value and not _BATCHING.value:
    raise FlagError("--batching_parameters_file needs --enable_batching.")
  if REST_PORT.value and REST_PORT.value == PORT.value:
    raise FlagError("--rest_api_port must be another than --port.")
  if _MONITORING.value and not REST_PORT.value:
    raise FlagError("--monitoring_config_file needs --rest_api_port, which shows the metrics.")
  batching = None
  if _BATCHING.value:
    batching = config.BatchingParameters()
    if _BATCHING_FILE.value:
      batching = _from_file("batching_parameters_file", lambda p: config.read(p, batching))
  return {
    "host": HOST.value,
    "max_threads": _MAX_THREADS.value,
    "socket_path": _SOCKET.value or None,
    "credentials": _from_file("ssl_config_file", config.server_credentials),
    "channel_arguments": _channel_arguments(),
    "health": _HEALTH.value,
    "rest_port": REST_PORT.value or None,
    "rest_threads": _REST_THREADS.value,
    "rest_timeout": _REST_TIMEOUT.value / 1000,
    "rest_cors": _REST_CORS.value,
    "prometheus_path": _from_file("monitoring_config_file", config.prometheus_path),
    "poll_seconds": _POLL.value,
    "labels_before_loading": _LABELS.value,
    "tensor_content": _TENSOR_CONTENT.value,
    "tags": tuple(_TAGS.value),
    "session_config": _session_config(),
    "warmup_iterations": max(_WARMUP_ITERATIONS.value, 1) if _WARMUP.value else 0,
    "batching": batching,
    "check_method_names": _METHOD_NAMES.value,
  }


def _from_file(name: str, read):
  """Reads the file that a flag names; returns None if the flag is not set."""
  from serving import config

  path = flags.FLAGS[name].value
  if not path:
    return None
  try:
    return read(path)
  except config.ConfigError as error:
    raise FlagError(f"--{name}={error}") from error


def _channel_arguments() -> tuple[tuple[str, int | str], ...]:
  arguments = []
  for text in filter(None, _CHANNEL_ARGUMENTS.value.split(",")):
    key, equals, value = text.partition("=")
    if not key or not equals:
      raise FlagError(f"--grpc_channel_arguments: {text!r} is not of the form name=value.")
    arguments.append((key, int(value) if value.lstrip("-").isdigit() else value))
  return tuple(arguments)


def _session_config():
  """Makes a `ConfigProto`; returns None if no flag sets any of its fields."""
  from tensorflow.core.protobuf import config_pb2

  from serving import config

  session, intra, inter = _PARALLELISM.value, _INTRA_OP.value, _INTER_OP.value
  if session and intra and inter:
    raise FlagError(
      "Give --tensorflow_session_parallelism, or --tensorflow_intra_op_parallelism and"
      " --tensorflow_inter_op_parallelism."
    )
  result = config_pb2.ConfigProto(allow_soft_placement=True)
  if _SESSION_FILE.value:
    _from_file("tensorflow_session_config_file", lambda path: config.read(path, result))
  elif not (session or intra or inter):
    return None
  result.intra_op_parallelism_threads = intra or session or result.intra_op_parallelism_threads
  result.inter_op_parallelism_threads = inter or session or result.inter_op_parallelism_threads
  return result
