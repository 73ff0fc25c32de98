"""Runs a model server in a separate process for the duration of a `with` block."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple


class ServerProcess(NamedTuple):
  """A running server.

  Attributes:
    target: `host:port` of gRPC.
    rest_target: `host:port` of REST; None if it is disabled.
    process: the server's process.
  """

  target: str
  rest_target: str | None
  process: subprocess.Popen


@contextlib.contextmanager
def serve(
  *flags: str,
  rest: bool = False,
  log: str | os.PathLike | None = None,
  timeout: float = 60.0,
  **options,
) -> Iterator[ServerProcess]:
  """Runs `python -m serving.server` on free ports, and stops it at the end of the block.

  Args:
    *flags: the server's flags, without the ports.
    rest: whether to serve REST too.
    log: file for the server's log; None to use it only in the error message.
    timeout: seconds that the server may take to stop, after which it is killed.
    **options: further arguments of `subprocess.Popen`.

  Yields:
    The server, once it is ready.

  Raises:
    RuntimeError: if the server does not start; the message has the end of its log.
  """
  command = [sys.executable, "-m", "serving.server", "--port=0", "--exit_with_stdin", *flags]
  if rest:
    command.append(f"--rest_api_port={_free_port()}")
  with listening(command, 1 + rest, log, timeout, **options) as (process, addresses):
    yield ServerProcess(addresses[0], addresses[1] if rest else None, process)


@contextlib.contextmanager
def listening(
  command: Sequence[str],
  num_addresses: int = 1,
  log: str | os.PathLike | None = None,
  timeout: float = 60.0,
  start_timeout: float = 600.0,
  **options,
) -> Iterator[tuple[subprocess.Popen, list[str]]]:
  """Runs a program that prints a line with `host:port` for each address that it listens on.

  The program should exit when its standard input is closed, so that it also exits if this process
  is killed.

  Args:
    command: the command line. Its `PYTHONPATH` is this process's `sys.path`.
    num_addresses: the number of lines to wait for.
    log: file for the program's standard error; None to use it only in the error message.
    timeout: seconds that the program may take to stop, after which it is killed.
    start_timeout: seconds that the program may take to listen on all addresses.
    **options: further arguments of `subprocess.Popen`.

  Yields:
    The process and its addresses.

  Raises:
    RuntimeError: if the program exits or takes too long; the message has the end of its standard
      error.
  """
  path = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
  with tempfile.TemporaryDirectory() as folder:
    log = Path(folder) / "log" if log is None else Path(log)
    with open(log, "w") as errors:
      process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=errors,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
        **options,
      )
    deadline = threading.Timer(start_timeout, process.kill)  # Ends the wait for a line.
    with process:
      try:
        deadline.start()
        addresses = []
        for _ in range(num_addresses):
          found = re.search(r"\bat:? ?(\S+:\d+)", process.stdout.readline())
          if found is None:
            said = log.read_text(errors="replace")[-2000:]
            raise RuntimeError(f"{' '.join(command[1:3])} did not start; its output: {said}")
          addresses.append(found[1])
        deadline.cancel()
        yield process, addresses
      finally:
        deadline.cancel()
        process.terminate()
        try:
          process.wait(timeout)
        except subprocess.TimeoutExpired:
          process.kill()


def _free_port() -> int:
  with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    return free.getsockname()[1]
