"""Defines the flags of `tensorflow_model_server` and converts them to options of the server.

All flags of the official binary are accepted, so that its command lines work here. Flags for
features that this server does not have (TPUs, TFLite, loading threads, ...) have no effect. They
are listed in `WITHOUT_EFFECT`.
"""

from __future__ import annotations

from absl import flags

PORT = flags.DEFINE_integer(
  "port", 8500, "TCP port for gRPC; 0 chooses a free port and prints it.", 0, 65535
)
HOST = flags.DEFINE_string(
  "host",
  "127.0.0.1",
  "Address to listen on (not a flag of the official server, which listens on all addresses)."
  " 0.0.0.0 exposes the server to the network; also set --ssl_config_file then.",
)
_SOCKET = flags.DEFINE_string("grpc_socket_path", "", "UNIX socket on which gRPC is served too.")
REST_PORT = flags.DEFINE_integer(
  "rest_api_port", 0, "TCP port for HTTP/REST, usually 8501; 0 disables REST.", 0, 65535
)
_REST_THREADS = flags.DEFINE_integer(
  "rest_api_num_threads", None, "Maximum number of concurrent REST calls. Default: 4 x CPUs.", 1
)
_REST_TIMEOUT = flags.DEFINE_integer(
  "rest_api_timeout_in_ms",
  30000,
  "Timeout of a REST call in milliseconds; then it gets 504.",
  1,
)
_REST_CORS = flags.DEFINE_bool(
  "rest_api_enable_cors_support", False, "Allow browsers to call REST from any origin."
)
_MODEL_NAME = flags.DEFINE_string("model_name", "default", "Name of the model in requests.")
_MODEL_BASE_PATH = flags.DEFINE_string(
  "model_base_path",
  None,
  "Folder with version folders named by integers, such as 1/ and 2/.",
)
_MODEL_CONFIG_FILE = flags.DEFINE_string(
  "model_config_file",
  None,
  "Text proto of a tensorflow.serving.ModelServerConfig, for several models, version policies and"
  " labels. If set, --model_name and --model_base_path are ignored.",
)
CONFIG_POLL = flags.DEFINE_float(
  "model_config_file_poll_wait_seconds",
  0.0,
  "Interval in seconds between checks for changes of --model_config_file; 0: read it once.",
  0,
)
_POLL = flags.DEFINE_float(
  "file_system_poll_wait_seconds",
  1.0,
  "Interval in seconds between checks for new versions; 0: check once.",
  0,
)
_LABELS = flags.DEFINE_bool(
  "allow_version_labels_for_unavailable_models",
  False,
  "Allow a new label for a version that is not available, as at the start of the server.",
)
_BATCHING = flags.DEFINE_bool("enable_batching", False, "Combine waiting calls into batches.")
_BATCHING_FILE = flags.DEFINE_string(
  "batching_parameters_file", None, "Text proto of BatchingParameters; requires --enable_batching."
)
_SSL = flags.DEFINE_string(
  "ssl_config_file",
  None,
  "Text proto of an SSLConfig that contains PEM text; enables TLS for gRPC. With client_verify:"
  " true, clients need a certificate.",
)
_MONITORING = flags.DEFINE_string(
  "monitoring_config_file",
  None,
  "Text proto of a MonitoringConfig, such as `prometheus_config { enable: true }`; serves metrics"
  " on the REST port at /monitoring/prometheus/metrics.",
)
_MAX_THREADS = flags.DEFINE_integer(
  "grpc_max_threads",
  None,
  "Maximum number of concurrent calls; others get RESOURCE_EXHAUSTED. Default: 4 x CPUs.",
  1,
)
_CHANNEL_ARGUMENTS = flags.DEFINE_string(
  "grpc_channel_arguments",
  "",
  "Comma-separated options of gRPC, such as grpc.max_connection_age_ms=2000.",
)
_HEALTH = flags.DEFINE_bool("enable_grpc_healthcheck_service", False, "Serve grpc.health.v1.")
_TENSOR_CONTENT = flags.DEFINE_bool(
  "enable_serialization_as_tensor_content",
  False,
  "Return tensors as raw bytes in tensor_content, not in typed fields; faster for images.",
)
_WARMUP = flags.DEFINE_bool(
  "enable_model_warmup", True, "Run the warmup requests of a version before it becomes available."
)
_WARMUP_ITERATIONS = flags.DEFINE_integer(
  "num_request_iterations_for_warmup", 1, "Number of times that each warmup request is run.", 0
)
_TAGS = flags.DEFINE_list("saved_model_tags", ["serve"], "Tags of the meta graph to load.")
_METHOD_NAMES = flags.DEFINE_bool(
  "enable_signature_method_name_check",
  False,
  "Refuse a signature whose method name differs from the called method.",
)
_SESSION_FILE = flags.DEFINE_string(
  "tensorflow_session_config_file", None, "Text proto of a tensorflow.ConfigProto."
)
_PARALLELISM = flags.DEFINE_integer(
  "tensorflow_session_parallelism",
  0,
  "Number of threads for ops and within each; 0: the number of CPUs.",
  0,
)
_INTRA_OP = flags.DEFINE_integer(
  "tensorflow_intra_op_parallelism", 0, "Number of threads within an op; 0: the number of CPUs.", 0
)
_INTER_OP = flags.DEFINE_integer(
  "tensorflow_inter_op_parallelism", 0, "Number of threads for ops; 0: the number of CPUs.", 0
)
VERSION = flags.DEFINE_bool("version", False, "Print the version and exit.")
DRAIN = flags.DEFINE_float(
  "drain_seconds",
  10.0,
  "Seconds to wait for calls in flight after SIGTERM.",
  0,
)
WITH_STDIN = flags.DEFINE_bool(
  "exit_with_stdin",
  False,
  "Exit when standard input is closed. If it is a pipe, the server exits with its parent process.",
)

# Flags of the official server and their defaults; a value of the wrong type is still an error.
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
# A server that ignored these would not do what the user asked for, so a set value is an error.
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
  name: _DEFINE[type(default)](
    name, default, "Accepted for compatibility with the official server; has no effect."
  )
  for name, default in WITHOUT_EFFECT.items()
}


class FlagError(ValueError):
  """Flags contradict each other, or a flag's file is invalid; the message names the flag."""


def models():
  """Creates the model configuration from the flags.

  Returns:
    A `ModelServerConfig`.

  Raises:
    FlagError: if the flags name no model, or the configuration file is invalid.
  """
  if not (_MODEL_CONFIG_FILE.value or _MODEL_BASE_PATH.value):
    raise FlagError("No model: set --model_base_path (and --model_name), or --model_config_file.")
  if _MODEL_CONFIG_FILE.value:
    from serving import config

    return _from_file("model_config_file", config.read_models)
  # Imports TensorFlow, which takes seconds: an error in a file is told before.
  from serving.manager import model_config

  return model_config({_MODEL_NAME.value: _MODEL_BASE_PATH.value})


def config_file() -> str | None:
  """Returns the path of the configuration file to watch for changes; None to watch none."""
  return _MODEL_CONFIG_FILE.value if CONFIG_POLL.value else None


def options() -> dict:
  """Creates the server options from the flags.

  Returns:
    The keyword arguments of `serving.embedded.Options`.

  Raises:
    FlagError: if flags contradict each other, a feature is not supported, or a file is invalid.
  """
  from serving import config

  for name in _REFUSED:
    if _IGNORED[name].value != WITHOUT_EFFECT[name]:
      raise FlagError(f"--{name} is not supported by this server; the official server supports it.")
  if _BATCHING_FILE.value and not _BATCHING.value:
    raise FlagError("--batching_parameters_file requires --enable_batching.")
  if REST_PORT.value and REST_PORT.value == PORT.value:
    raise FlagError("--rest_api_port must differ from --port.")
  if _MONITORING.value and not REST_PORT.value:
    raise FlagError("--monitoring_config_file requires --rest_api_port, which serves the metrics.")
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
  """Returns the result of `read` for a flag's file; None if the flag is not set."""
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
  """Returns a `ConfigProto`; None if no flag sets anything in it."""
  session, intra, inter = _PARALLELISM.value, _INTRA_OP.value, _INTER_OP.value
  if session and intra and inter:
    raise FlagError(
      "Set --tensorflow_session_parallelism, or --tensorflow_intra_op_parallelism and"
      " --tensorflow_inter_op_parallelism, but not both."
    )
  if not (_SESSION_FILE.value or session or intra or inter):
    return None
  from tensorflow.core.protobuf import config_pb2

  from serving import config

  result = config_pb2.ConfigProto()
  if _SESSION_FILE.value:
    _from_file("tensorflow_session_config_file", lambda path: config.read(path, result))
  else:
    result.allow_soft_placement = True
  result.intra_op_parallelism_threads = intra or session or result.intra_op_parallelism_threads
  result.inter_op_parallelism_threads = inter or session or result.inter_op_parallelism_threads
  return result
