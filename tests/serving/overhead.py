"""What a call costs beside the model: a trivial model over gRPC against an echo of the same bytes.

  python -m tests.serving.overhead

The echo is the least that gRPC's synchronous Python server can do: it hands back bytes of the same
sizes and knows neither messages nor TensorFlow. What lies between the two is this server's own.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import os
import sys
import tempfile
import threading
import time

import grpc
import numpy as np

from serving import process

_METHOD = "/tensorflow.serving.PredictionService/Predict"


def measure(target: str, data: bytes, clients: int, seconds: float) -> tuple[float, float]:
  """`(p50 in ms, calls/s)` of so many closed loops, each on a channel of its own."""
  times: list[list[float]] = [[] for _ in range(clients)]
  begin, end = threading.Barrier(clients), [0.0]

  def client(i):
    # Without this option, channels to one address share a connection.
    options = [("grpc.use_local_subchannel_pool", 1)]
    with grpc.insecure_channel(target, options) as channel:
      call = channel.unary_unary(_METHOD)
      for _ in range(50):
        call(data, wait_for_ready=True)
      if begin.wait() == 0:
        end[0] = time.perf_counter() + seconds
      begin.wait()
      now = time.perf_counter()
      while now < end[0]:
        call(data)
        now, before = time.perf_counter(), now
        times[i].append(now - before)

  with concurrent.futures.ThreadPoolExecutor(clients) as pool:
    list(pool.map(client, range(clients)))
  found = np.concatenate(times)
  return float(np.median(found)) * 1e3, len(found) / seconds


def echo_server(reply_size: int) -> None:
  """Serves the floor, prints its port, and ends with standard input."""
  reply = bytes(reply_size)
  handler = grpc.unary_unary_rpc_method_handler(lambda request, context: reply)
  service, _, method = _METHOD[1:].partition("/")
  server = grpc.server(concurrent.futures.ThreadPoolExecutor(12))
  handlers = grpc.method_handlers_generic_handler(service, {method: handler})
  server.add_generic_rpc_handlers([handlers])
  print(f"at 127.0.0.1:{server.add_insecure_port('127.0.0.1:0')} ...", flush=True)
  server.start()
  sys.stdin.read()


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--seconds", type=float, default=5.0, help="for each figure")
  parser.add_argument("--rounds", type=int, default=3, help="of all figures, by turns")
  parser.add_argument("--echo", type=int, help=argparse.SUPPRESS)
  args = parser.parse_args()
  if args.echo is not None:
    return echo_server(args.echo)
  from tests.serving import calls, models

  with tempfile.TemporaryDirectory() as folder:
    models.write_triv(f"{folder}/triv/1")
    inputs = {
      "frame": np.zeros((1, 64, 64, 3), np.uint8),
      "seed": np.zeros((1, 2), np.int32),
      "h": np.zeros((1, 4), np.float32),
      "c": np.zeros((1, 4), np.float32),
    }
    data = calls.request_of(inputs).SerializeToString()
    flags = ("--grpc_max_threads=16", "--model_name=triv", f"--model_base_path={folder}/triv")
    with process.serve(*flags) as server:
      with grpc.insecure_channel(server.target) as channel:
        size = len(channel.unary_unary(_METHOD)(data))
      print(f"{len(data)} bytes there, {size} back; {os.cpu_count()} CPUs")
      echo = [sys.executable, "-m", "tests.serving.overhead", f"--echo={size}"]
      with process.listening(echo) as (_, (floor,)):
        for _ in range(args.rounds):
          for name, address in (("echo", floor), ("trivial model", server.target)):
            p50, _ = measure(address, data, 1, args.seconds)
            _, rate = measure(address, data, 8, args.seconds)
            load = os.getloadavg()[0]
            print(f"{name:14} p50 {p50:.2f} ms, 8 clients {rate:.0f} calls/s, load {load:.1f}")


if __name__ == "__main__":
  main()
