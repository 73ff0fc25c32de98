"""A model server in one Python process that speaks TensorFlow Serving's gRPC API.

  python -m serving.server --model_name=planner --model_base_path=/models/planner --port=8500

It takes the flags of `tensorflow_model_server`, so that production swaps one word for the other.
It serves the newest integer-named folder under the base path, looks for a newer one every second,
and changes over without failing a call. Better than the official one: a half-written or broken
version folder never wedges it (the old version serves on, the status says why, and the folder is
tried again when its files change), and SIGTERM drains the calls in flight before it exits.
"""

from __future__ import annotations

import logging
import signal
import sys
import threading

from absl import app, flags

_LOG = logging.getLogger("serving")

_PORT = flags.DEFINE_integer(
  "port", 8500, "TCP port for gRPC; 0 picks a free one, which is printed.", 0, 65535
)
_HOST = flags.DEFINE_string(
  "host", "127.0.0.1", "Address to listen on. 0.0.0.0 opens the server to the network, unencrypted."
)
_MODEL_NAME = flags.DEFINE_string("model_name", "default", "Name under which clients ask for it.")
_MODEL_BASE_PATH = flags.DEFINE_string(
  "model_base_path", None, "Folder that holds version folders named by integers, such as 1/, 2/."
)
_MODEL_CONFIG_FILE = flags.DEFINE_string(
  "model_config_file",
  None,
  "Text proto of a tensorflow.serving.ModelServerConfig, for several models or for version"
  " policies; --model_name and --model_base_path are ignored then.",
)
_POLL = flags.DEFINE_float(
  "file_system_poll_wait_seconds", 1.0, "Seconds between looks for new versions; 0: one look.", 0
)
_MAX_THREADS = flags.DEFINE_integer(
  "grpc_max_threads",
  None,
  "Calls that may run at once; more get RESOURCE_EXHAUSTED. Default: 4 x CPUs.",
  1,
)
_TENSOR_CONTENT = flags.DEFINE_bool(
  "enable_serialization_as_tensor_content",
  False,
  "Reply with raw bytes in tensor_content, which is faster for frames, instead of typed fields.",
)
_DRAIN = flags.DEFINE_float(
  "drain_seconds", 10.0, "How long SIGTERM waits for calls in flight to end.", 0
)
_WITH_STDIN = flags.DEFINE_bool(
  "exit_with_stdin",
  False,
  "Also end when standard input does: given a pipe, the server does not outlive who started it.",
)


def _configuration():
  """The `ModelServerConfig` that the flags name."""
  from google.protobuf import text_format
  from tensorflow_serving.config import model_server_config_pb2

  from serving.manager import model_config

  if not _MODEL_CONFIG_FILE.value:
    return model_config({_MODEL_NAME.value: _MODEL_BASE_PATH.value})
  path = _MODEL_CONFIG_FILE.value
  try:
    with open(path) as file:
      return text_format.Parse(file.read(), model_server_config_pb2.ModelServerConfig())
  except (OSError, text_format.ParseError) as error:
    raise app.UsageError(f"--model_config_file={path}: {error}") from error


def main(argv):
  if len(argv) > 1:
    raise app.UsageError(f"Unexpected argument {argv[1]!r}: everything is given by flags.")
  if not (_MODEL_CONFIG_FILE.value or _MODEL_BASE_PATH.value):
    raise app.UsageError("Give --model_base_path (and --model_name), or --model_config_file.")
  # TensorFlow takes seconds to import: --help and wrong flags are answered without it.
  from serving.embedded import EmbeddedServer
  from serving.model import ServingError

  logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s", level=logging.INFO)
  if _HOST.value not in ("127.0.0.1", "localhost", "::1", "[::1]"):
    _LOG.warning("--host=%s: anyone who reaches this address can call it, unencrypted", _HOST.value)
  over = threading.Event()
  if _WITH_STDIN.value:
    threading.Thread(target=lambda: (sys.stdin.read(), over.set()), daemon=True).start()
  server = EmbeddedServer(_HOST.value, _MAX_THREADS.value, _POLL.value, _TENSOR_CONTENT.value)
  try:
    target = server.start(_configuration(), _PORT.value, wait=True)
  except ServingError as error:
    print(f"Failed to start server. Error: {error}", file=sys.stderr)
    return 255
  for number in (signal.SIGTERM, signal.SIGINT):
    signal.signal(number, lambda *_: over.set())
  print(f"Running gRPC ModelServer at {target} ...", flush=True)
  over.wait()
  _LOG.info("Draining: calls in flight have %g seconds to end", _DRAIN.value)
  server.stop(_DRAIN.value)
  return 0


if __name__ == "__main__":
  app.run(main)
