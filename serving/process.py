"""A model server in a process of its own, for as long as a block of code runs."""

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
  """A server that serves.

  Attributes:
    target: `host:port` of gRPC.
    rest_target: `host:port` of REST, or None.
    process: the process itself.
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
  """Runs `python -m serving.server` on free ports: yields when it serves, stops it at the end.

  Args:
    *flags: its flags, but for the ports.
    rest: whether it serves REST too.
    log: file for what it logs; None to keep that for the error only.
    timeout: seconds that it may take to end.
    **options: of `subprocess.Popen`.

  Raises:
    RuntimeError: if it does not come up; with what it said.
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
  """Starts a program that prints a line with `host:port` for each address it listens at.

  It should end with its standard input: so it ends even if this process is killed.

  Args:
    command: what to run; it imports what this process does.
    num_addresses: how many lines to wait for.
    log: file for its standard error; None to keep that for the error only.
    timeout: seconds that it may take to end, once it is asked to.
    start_timeout: seconds that it may take until it listens.
    **options: of `subprocess.Popen`.

  Yields:
    The process and its addresses.

  Raises:
    RuntimeError: if it ends instead, or takes too long; with what it said.
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
    deadline = threading.Timer(start_timeout, process.kill)  # Which ends the wait for a line.
    with process:
      try:
        deadline.start()
        addresses = []
        for _ in range(num_addresses):
          found = re.search(r"\bat:? ?(\S+:\d+)", process.stdout.readline())
          if found is None:
            said = log.read_text(errors="replace")[-2000:]
            raise RuntimeError(f"{' '.join(command[1:3])} did not start; it said: {said}")
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
