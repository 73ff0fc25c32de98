"""Malformed and random requests over gRPC and REST: none may crash, hang, leak, or mislead.

  python -m tests.serving.fuzz --requests=100000 --seconds=1200

starts a server of its own on loopback, sends it what `fuzz_requests.py` makes up, and ends with 1
if an answer had another code than its kind of request may have, if a good call in between was not
answered rightly, or if memory, threads or open files grew.
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import http.client
import os
import pathlib
import re
import resource
import socket
import sys
import tempfile
import threading
import time

import grpc
import numpy as np

from serving.process import serve
from tests.serving import calls, fuzz_requests

_TIMEOUT = 60  # Seconds: later answers count as hangs.
_CHECK_EVERY = 200
_MAX_PROBLEMS = 20
_PARTS = 5
_MAX_BYTES = 12 << 30
_MAX_GROWTH = {"MB": 64, "threads": 8, "files": 8}


@dataclasses.dataclass
class Report:
  """What came of it.

  Attributes:
    codes: how often each `(kind, code)` was answered.
    problems: what must not be, one text each.
    seconds: how long it took.
  """

  codes: collections.Counter
  problems: list[str]
  seconds: float

  @property
  def requests(self) -> int:
    return sum(self.codes.values())


def run(
  target: str, rest: str, requests: int, seconds: float, seed: int = 0, clients: int = 4
) -> Report:
  """Sends requests to a server that serves `triv`.

  Args:
    target: its gRPC address.
    rest: its REST address.
    requests: how many.
    seconds: when to stop in any case.
    seed: of what is made up.
    clients: threads that send.
  """
  report = Report(collections.Counter(), [], 0.0)
  start = time.monotonic()
  lock = threading.Lock()
  left = iter(range(requests))

  def client(i):
    sender = _Sender(target, rest)
    rng = np.random.default_rng([seed, i])
    try:
      while time.monotonic() < start + seconds and len(report.problems) < _MAX_PROBLEMS:
        with lock:
          number = next(left, None)
        if number is None:
          break
        request = fuzz_requests.make(rng)
        code, problem = sender.send(request)
        if problem is None and number % _CHECK_EVERY == 0:
          problem = sender.check()
        with lock:
          report.codes[request.kind, code] += 1
          if problem:
            report.problems.append(problem)
    finally:
      sender.close()

  calls.in_threads(client, clients)
  report.seconds = time.monotonic() - start
  return report


class _Sender:
  def __init__(self, target: str, rest: str):
    self._rest = rest
    self._channel = grpc.insecure_channel(target, [("grpc.max_send_message_length", -1)])
    self._http = None

  def send(self, request: fuzz_requests.Request) -> tuple[str, str | None]:
    """The code that a request was answered with, and what is wrong with that."""
    if request.method.startswith("/"):
      code = self._grpc(request)
    elif request.method == "RAW":
      code = self._raw(request)
    else:
      code = self._http_call(request)
    if code in request.allowed:
      return code, None
    shown = request.body[:200]
    return code, f"{request.kind}: {request.method} {request.path!r} {shown!r} answered {code}"

  def check(self) -> str | None:
    """A good call over both: what is wrong with the answers."""
    request = calls.request_of({"x": [1.5]}, "echo")
    call = self._channel.unary_unary("/tensorflow.serving.PredictionService/Predict")
    for attempt in range(20):  # The server may be full at the moment.
      try:
        reply = call(request.SerializeToString(), timeout=_TIMEOUT)
        break
      except grpc.RpcError as error:
        if error.code() != grpc.StatusCode.RESOURCE_EXHAUSTED or attempt == 19:
          return f"a good call failed: {error}"
        time.sleep(0.1)
    values = fuzz_requests.outputs_of(reply)["x"]
    body = {"signature_name": "echo", "instances": [1.5]}
    answer = calls.http_call(self._rest, "POST", "/v1/models/triv:predict", body)
    if list(values) != [1.5] or answer.json != {"predictions": [1.5]}:
      return f"a good call was answered {values} and {answer}"
    return None

  def close(self) -> None:
    self._channel.close()
    if self._http is not None:
      self._http.close()

  def _grpc(self, request) -> str:
    try:
      self._channel.unary_unary(request.method)(request.body, timeout=_TIMEOUT)
    except grpc.RpcError as error:
      return error.code().name
    return "OK"

  def _http_call(self, request) -> str:
    for _ in range(2):
      if self._http is None:
        self._http = http.client.HTTPConnection(self._rest, timeout=_TIMEOUT)
      try:
        self._http.request(request.method, request.path, request.body, dict(request.headers))
        response = self._http.getresponse()
        response.read()
        if response.will_close:
          self._http.close()
        return str(response.status)
      except TimeoutError:
        return "TIMEOUT"
      except (http.client.HTTPException, OSError):  # A kept connection may have been closed.
        self._http.close()
        self._http = None
    return "BROKEN"

  def _raw(self, request) -> str:
    host, port = self._rest.split(":")
    with socket.create_connection((host, int(port)), timeout=_TIMEOUT) as connection:
      try:
        connection.sendall(request.body)
        connection.shutdown(socket.SHUT_WR)
        answer = connection.recv(100)
      except TimeoutError:
        return "TIMEOUT"
      except OSError:
        return "CLOSED"
    found = re.match(rb"HTTP/1\.[01] (\d+) ", answer)
    return found[1].decode() if found else "CLOSED"


def _usage(pid: int) -> dict[str, int]:
  """What a process holds: memory in MB, threads, open files."""
  status = pathlib.Path(f"/proc/{pid}/status").read_text()

  def field(name):
    return int(re.search(rf"^{name}:\s+(\d+)", status, re.MULTILINE)[1])

  files = len(os.listdir(f"/proc/{pid}/fd"))
  return {"MB": field("VmRSS") // 1024, "threads": field("Threads"), "files": files}


def _limit_memory() -> None:
  """Makes a request that needs more memory a finding rather than the end of the machine."""
  resource.setrlimit(resource.RLIMIT_AS, (_MAX_BYTES, _MAX_BYTES))


def main() -> int:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--requests", type=int, default=100_000, help="how many to send")
  parser.add_argument("--seconds", type=float, default=1200, help="when to stop in any case")
  parser.add_argument("--seed", type=int, default=0, help="of what is made up")
  parser.add_argument("--clients", type=int, default=4, help="threads that send")
  args = parser.parse_args()
  from tests.serving import models

  with tempfile.TemporaryDirectory() as folder:
    models.write_triv(f"{folder}/triv/1")
    flags = ("--model_name=triv", f"--model_base_path={folder}/triv")
    with serve(*flags, rest=True, log=f"{folder}/log", preexec_fn=_limit_memory) as (
      target,
      rest,
      process,
    ):
      print(f"{args.requests} requests to {target} and {rest}, load {os.getloadavg()[0]:.1f}")
      # What a server sets up once (threads, pruned graphs, buffers) is no leak: the first part of
      # the requests does not count.
      reports, usage, end = [], [], time.monotonic() + args.seconds
      for part in range(_PARTS):
        requests = args.requests * (part + 1) // _PARTS - args.requests * part // _PARTS
        left = (end - time.monotonic()) / (_PARTS - part)
        reports.append(run(target, rest, requests, left, args.seed + part, args.clients))
        if process.poll() is None:
          usage.append(_usage(process.pid))
          print(f"  after {sum(r.requests for r in reports):7} requests: {usage[-1]}")
      time.sleep(1)
      alive = process.poll() is None
    log = pathlib.Path(f"{folder}/log").read_text(errors="replace")
  codes = sum((report.codes for report in reports), collections.Counter())
  problems = [problem for report in reports for problem in report.problems]
  for (kind, code), count in sorted(codes.items()):
    print(f"  {kind:24} {code:20} {count:8}")
  seconds = sum(report.seconds for report in reports)
  total = sum(codes.values())
  print(f"{total} requests in {seconds:.0f} s")
  if not alive:
    problems.append(f"the server ended with {process.returncode}:\n{log[-3000:]}")
  else:
    for name, bound in _MAX_GROWTH.items():
      if usage[-1][name] > usage[0][name] + bound:
        problems.append(f"{name} grew: {usage}")
  if "Traceback" in log:
    problems.append("the server logged:\n" + log[log.index("Traceback") :][:3000])
  for problem in problems:
    print("PROBLEM", problem)
  return 1 if problems else 0


if __name__ == "__main__":
  sys.exit(main())
