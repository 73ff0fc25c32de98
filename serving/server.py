"""A model server in one Python process, with TensorFlow Serving's gRPC and REST APIs.

  python -m serving.server --model_name=planner --model_base_path=/models/planner \
    --port=8500 --rest_api_port=8501

It accepts the flags of `tensorflow_model_server`, so that the same flags work in production. It
serves the newest folder with an integer name under the base path, looks for a newer one every
second, and replaces the version without failing a call.

Two behaviours differ from the official server. If a version folder is incomplete or damaged, the
old version keeps serving, the status has the reason, and the folder is loaded again when its files
change. After SIGTERM, the server waits for the calls in flight before it exits.
"""

from __future__ import annotations

import gc
import logging
import os
import resource
import signal
import sys
import threading

import absl.flags
from absl import app

from serving import flags

absl.flags.adopt_module_key_flags(flags)  # So that --help shows them.
_LOG = logging.getLogger("serving")
_LOOPBACK = ("127.0.0.1", "localhost", "::1", "[::1]")


def main(argv):
  """Runs the server until SIGTERM or SIGINT.

  Args:
    argv: the command line after absl has parsed the flags; no other argument is allowed.

  Returns:
    The exit status.

  Raises:
    app.UsageError: if a flag or a configuration file is invalid.
  """
  if len(argv) > 1:
    raise app.UsageError(f"Unexpected argument {argv[1]!r}: the server takes flags only.")
  if flags.VERSION.value:
    return _print_version()
  over, serves = threading.Event(), threading.Event()
  if flags.WITH_STDIN.value:
    threading.Thread(target=_end_with_stdin, args=(over, serves), daemon=True).start()
  logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s", level=logging.INFO)
  try:
    options, models = flags.options(), flags.models()
  except flags.FlagError as error:
    raise app.UsageError(str(error)) from error
  # Imported here because TensorFlow takes seconds to import; --help and wrong flags do not need it.
  from serving import config
  from serving.embedded import EmbeddedServer
  from serving.errors import ServingError

  _warn_of_open_ports(options)
  _allow_many_files()
  # The garbage collection after an unload blocks all calls. This excludes TensorFlow's modules.
  gc.freeze()
  try:
    server = EmbeddedServer(**options)
  except config.ConfigError as error:
    raise app.UsageError(f"--batching_parameters_file: {error}") from error
  try:
    target = server.start(models, flags.PORT.value, wait=True)
  except ServingError as error:
    print(f"Failed to start server. Error: {error}", file=sys.stderr)
    return 255
  serves.set()
  for number in (signal.SIGTERM, signal.SIGINT):
    signal.signal(number, lambda *_: over.set())
  if path := flags.config_file():
    watch = threading.Thread(target=_watch_config, args=(server, path, over), daemon=True)
    watch.start()
  print(f"Running gRPC ModelServer at {target} ...", flush=True)
  if server.rest_target:
    print(f"Exporting HTTP/REST API at:{server.rest_target} ...", flush=True)
  over.wait()
  _LOG.info("Draining: waiting at most %g seconds for calls in flight", flags.DRAIN.value)
  server.stop(flags.DRAIN.value)
  return 0


def _end_with_stdin(over: threading.Event, serves: threading.Event) -> None:
  """Ends the server when its standard input ends, even while it imports and loads."""
  sys.stdin.read()
  over.set()
  if not serves.is_set():  # There is nothing to drain.
    os._exit(0)


def _watch_config(server, path: str, over: threading.Event) -> None:
  """Reloads the configuration file when it changes, and logs errors in it."""
  from serving import config

  before = None
  while not over.wait(flags.CONFIG_POLL.value):
    try:
      info = os.stat(path)
      now = info.st_mtime_ns, info.st_size, info.st_ino
      if now == before:
        continue
      server.reload(config.read_models(path))
      before = now
    except Exception as error:  # An invalid file must not stop the watch.
      _LOG.error("--model_config_file is not reloaded: %s", error)


def _warn_of_open_ports(options: dict) -> None:
  if options["host"] in _LOOPBACK:
    return
  if options["credentials"] is None:
    _LOG.warning(
      "--host=%s: anyone who can reach this address can call the server, change its configuration"
      " and read its traffic. --ssl_config_file enables TLS; its client_verify requires client"
      " certificates",
      options["host"],
    )
  if options["rest_port"] is not None:
    _LOG.warning("--host=%s: REST is not encrypted, even if gRPC is", options["host"])


def _allow_many_files() -> None:
  """Raises the limit on open files from the usual 1024, since connections and models share it."""
  soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
  wanted = 65536 if hard == resource.RLIM_INFINITY else min(hard, 65536)
  if soft != resource.RLIM_INFINITY and soft < wanted:
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _print_version() -> int:
  import importlib.metadata

  version = importlib.metadata.version("tensorflow-serving-api")
  print(f"TensorFlow ModelServer: {version} (embedded)")
  print(f"TensorFlow Library: {importlib.metadata.version('tensorflow')}")
  return 0


if __name__ == "__main__":
  app.run(main)
