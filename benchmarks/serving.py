"""Load on a model server: throughput, latencies and errors of closed-loop clients.

    python -m benchmarks.serving                                # a trivial model: the overhead
    python -m benchmarks.serving --export=runs/quickstart/export/planner   # against in process
    python -m benchmarks.serving --target=localhost:8500 --model=planner --clients=8 --seconds=60
    python -m benchmarks.serving --target=localhost:8500 --frames=episodes # real drives
    python -m benchmarks.serving --soak=900 --export=runs/quickstart/export/controller

With --target any server that speaks TensorFlow Serving's API is driven, the official one too.
Without it, the embedded one is started, and measured beside the same model called in process and
beside a gRPC server in Python that does nothing: the floor. With --soak a new version is published
every 10 seconds while the clients drive, each answer is checked against the numbers of the version
that gave it, and the server's memory is watched.

A client is a process with one call in flight. It sends 12 KB frames, or drives CarRacing itself
(the time that its simulator takes is in the throughput, not in the latencies).
"""

from __future__ import annotations

import argparse
import concurrent.futures
import json
import os
import sys
import tempfile
import time
from pathlib import Path

import grpc
import numpy as np

from benchmarks import _serving_load as load_lib
from serving import process, protos, tensors
from serving.client import CallError

_STATE_SIZE = 32


def _write_trivial(path: Path) -> None:
  """A recurrent controller that computes next to nothing on a 64x64 frame."""
  import tensorflow as tf

  module = tf.Module()
  module.scale = tf.Variable(1.0 / 255.0)

  def spec(shape, dtype, name):
    return tf.TensorSpec([None, *shape], dtype, name)

  frame, seed = spec((64, 64, 3), tf.uint8, "frame"), spec((2,), tf.int32, "seed")
  state = spec((_STATE_SIZE,), tf.float32, "h")

  @tf.function(input_signature=[frame, seed, state])
  def act(frame, seed, h):
    del seed
    pixel = tf.cast(frame[:, 32, 32], tf.float32) * module.scale
    return {"action": tf.identity(pixel), "agent_action": pixel[:, :2], "h": h + pixel[:, :1]}

  @tf.function(input_signature=[seed])
  def initial_state(seed):
    return {"h": tf.zeros([tf.shape(seed)[0], _STATE_SIZE])}

  tf.saved_model.save(module, str(path), {"act": act, "initial_state": initial_state})


def newest_version(base: Path) -> Path:
  """The newest version folder under a model's base path.

  Raises:
    FileNotFoundError: if there is none.
  """
  versions = [path for path in base.glob("*") if path.name.isdigit()]
  if not versions:
    raise FileNotFoundError(f"--export={base}: no version folder in there; see make quickstart.")
  return max(versions, key=lambda path: int(path.name))


def _in_process(version: Path, frames: np.ndarray, seconds: float) -> np.ndarray:
  """Milliseconds of `act` in a session of this process, the state carried from call to call."""
  from benchmarks._serving_soak import Reference

  reference = Reference(version)
  state, milliseconds = reference.initial_state(), []
  begin = None
  for step in range(10**9):
    inputs = {"frame": frames[step % len(frames)][np.newaxis], **state}
    inputs["seed"] = np.array([[0, step]], np.int32)
    start = time.perf_counter()
    outputs = reference.act(inputs)
    end = time.perf_counter()
    state = {name: outputs[name] for name in state}
    if step < 2:  # The first call compiles.
      begin = end
    else:
      milliseconds.append(1000 * (end - start))
    if milliseconds and end > begin + seconds:
      return np.array(milliseconds)


def _floor(seconds: float) -> np.ndarray:
  """Milliseconds of a call that carries the same bytes to a gRPC server that does nothing."""
  request = protos.PredictRequest()
  tensors.encode(np.zeros((1, 64, 64, 3), np.uint8), request.inputs["frame"], as_content=True)
  payload, milliseconds = request.SerializeToString(), []

  class Echo(grpc.GenericRpcHandler):
    def service(self, details):
      return grpc.unary_unary_rpc_method_handler(lambda request, context: request[:512])

  server = grpc.server(concurrent.futures.ThreadPoolExecutor(1), handlers=[Echo()])
  port = server.add_insecure_port("127.0.0.1:0")
  server.start()
  with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
    call = channel.unary_unary("/floor/Echo")
    begin = time.perf_counter()
    while time.perf_counter() < begin + seconds:
      start = time.perf_counter()
      call(payload)
      milliseconds.append(1000 * (time.perf_counter() - start))
  server.stop(0).wait()
  return np.array(milliseconds[20:])


def _print_row(name: str, milliseconds: np.ndarray, rate: float, errors=None) -> None:
  quantiles = np.percentile(milliseconds, [50, 95, 99]) if len(milliseconds) else [np.nan] * 3
  cells = "".join(f"{q:10.2f}" for q in quantiles)
  text = ", ".join(f"{code} {count}" for code, count in sorted((errors or {}).items())) or "none"
  print(f"{name:28}{cells}{rate:12.1f}   {text}", flush=True)


def _print_head() -> None:
  titles = "".join(f"{t:>10}" for t in ("p50 ms", "p95 ms", "p99 ms")) + f"{'calls/s':>12}"
  print(f"{'':28}{titles}   errors (load average {os.getloadavg()[0]:.1f})")


def _compare(export: Path | None, clients: list[int], seconds: float, load: dict) -> dict:
  """The embedded server beside the floor and the same model in this process."""
  with tempfile.TemporaryDirectory() as folder:
    base, frames = Path(folder) / "trivial", load["frames"]
    if export is None:
      _write_trivial(base / "1")
      frames, version = "noise", base / "1"
    else:
      version = newest_version(export)
      base = export
    noise = np.random.default_rng(0).integers(0, 256, (200, 64, 64, 3), np.uint8)
    found = {}
    _print_head()
    for name, milliseconds in (
      ("gRPC alone, 1 client", _floor(min(seconds, 5.0))),
      ("in process", _in_process(version, noise, min(seconds, 10.0))),
    ):
      _print_row(name, milliseconds, 1000 / milliseconds.mean())
      found[name] = float(np.median(milliseconds))
    flags = ("--model_name=model", f"--model_base_path={base.resolve()}")
    with process.serve("--grpc_max_threads=64", *flags) as server:
      for count in clients:
        options = {**load, "frames": frames, "clients": count, "seconds": seconds}
        result = load_lib.run(load_lib.Load(server.target, "model", **options))
        summary = result.summary()
        name = f"served, {count} client{'s' if count > 1 else ''}"
        _print_row(name, result.milliseconds, summary["calls_per_second"], result.errors)
        found[name] = summary
  if "served, 1 client" in found:
    served, inside = found["served, 1 client"]["p50_ms"], found["in process"]
    print(f"overhead at p50: {served - inside:.2f} ms; served / in process: {served / inside:.2f}")
  return found


def main() -> int:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--target", help="host:port of a running server; default: start one")
  parser.add_argument("--model", default="planner", help="its name on the server")
  parser.add_argument("--label", help="version label to ask for")
  parser.add_argument("--export", type=Path, help="base path of an exported model to serve")
  parser.add_argument("--clients", help="with --target a number; else several: 1,8")
  parser.add_argument("--seconds", type=float, default=10.0)
  parser.add_argument("--rows", type=int, default=1, help="environments in one batched call")
  parser.add_argument("--frames", choices=("recorded", "episodes", "noise"), default="recorded")
  parser.add_argument("--timeout", type=float, default=10.0, help="seconds, of each call")
  parser.add_argument("--attempts", type=int, default=1, help="1 shows every failure")
  parser.add_argument("--soak", type=float, default=0.0, metavar="SECONDS")
  parser.add_argument("--reload_every", type=float, default=10.0, help="seconds, in a soak")
  parser.add_argument("--output", type=Path, help="JSON file for the numbers")
  args = parser.parse_args()
  options = {name: getattr(args, name) for name in ("rows", "frames", "timeout", "attempts")}
  try:
    if args.soak:
      from benchmarks import _serving_soak

      export = args.export or Path("runs/quickstart/export/controller")
      options |= {"clients": int(args.clients or 8), "seconds": args.soak}
      found = _serving_soak.soak(newest_version(export), args.reload_every, options)
    elif args.target:
      options |= {"clients": int(args.clients or 8), "seconds": args.seconds, "label": args.label}
      result = load_lib.run(load_lib.Load(args.target, args.model, **options))
      found = result.summary(args.rows)
      _print_head()
      name = f"{args.model}, {options['clients']} clients"
      _print_row(name, result.milliseconds, found["calls_per_second"], result.errors)
      print(f"versions that answered: {found['versions']}")
      if args.rows > 1:
        print(f"{found['actions_per_second']:.1f} actions/s in batches of {args.rows}")
      if result.returns:
        mean, std = np.mean(result.returns), np.std(result.returns)
        print(f"episode returns: mean {mean:.1f}, std {std:.1f}, n {len(result.returns)}")
    else:
      counts = [int(count) for count in (args.clients or "1,8").split(",")]
      found = _compare(args.export, counts, args.seconds, options)
  except (CallError, OSError) as error:
    print(f"{error}", file=sys.stderr)
    return 1
  if args.output:
    args.output.parent.mkdir(parents=True, exist_ok=True)
    args.output.write_text(json.dumps(found, indent=2) + "\n")
  return 0 if not isinstance(found, dict) or found.get("passed", True) else 1


if __name__ == "__main__":
  sys.exit(main())
