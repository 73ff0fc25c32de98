"""Hot reloads under load: every answer checked, the server's memory watched."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import tempfile
import time
from pathlib import Path

import numpy as np
import tensorflow as tf

from benchmarks import _serving_load as load_lib
from serving import process

tf.get_logger().setLevel("ERROR")  # The loader that the model server uses is "deprecated".

_VARIANTS = 4  # Different weights, in turn: an answer of the wrong version does not pass.
_KEPT_VERSIONS = 3  # Folders; an older one may go while it is still being served.
_TOLERANCE = 1e-4
_QUEUE_SIZE = 64  # Answers that wait to be checked; the clients wait when it is full.
_SETTLED = 180.0  # Seconds after which the memory should not grow; half as long is not judged.
_GROWTH = 0.05


class Reference:
  """A version folder in a session of this process."""

  def __init__(self, path: Path):
    graph = tf.Graph()
    self._session = tf.compat.v1.Session(graph=graph)
    with graph.as_default():
      meta = tf.compat.v1.saved_model.loader.load(self._session, ["serve"], str(path))
    self._signatures = meta.signature_def
    self._calls = {}

  def act(self, inputs: dict[str, np.ndarray], outputs: tuple[str, ...] = ()):
    """The outputs of `act` by name, all or some."""
    return self._run("act", inputs, outputs)

  def initial_state(self, rows: int = 1) -> dict[str, np.ndarray]:
    """The state of new episodes."""
    return self._run("initial_state", {"seed": np.zeros((rows, 2), np.int32)}, ())

  def _run(self, name, inputs, outputs):
    signature = self._signatures[name]
    outputs = outputs or tuple(signature.outputs)
    key = name, tuple(inputs), outputs
    if key not in self._calls:

      def tensor(info):
        return self._session.graph.get_tensor_by_name(info.name)

      self._calls[key] = self._session.make_callable(
        {alias: tensor(signature.outputs[alias]) for alias in outputs},
        [tensor(signature.inputs[alias]) for alias in inputs],
      )
    return self._calls[key](*inputs.values())


def write_variant(version: Path, number: int, path: Path) -> None:
  """Copies a version folder with all its weights multiplied by `1 + number / 100`."""
  shutil.copytree(version, path)
  (path / "SHA256SUMS").unlink(missing_ok=True)  # Of the weights as they were.
  prefix = str(path / "variables" / "variables")
  checkpoint = tf.train.load_checkpoint(prefix)
  values = {name: checkpoint.get_tensor(name) for name in checkpoint.get_variable_to_shape_map()}
  shutil.rmtree(path / "variables")
  os.mkdir(path / "variables")
  scaled = [
    value * np.float32(1 + number / 100)
    if getattr(value, "dtype", None) == np.float32 and np.ndim(value) > 1
    else value
    for value in values.values()
  ]
  tf.raw_ops.SaveV2(
    prefix=prefix,
    tensor_names=list(values),
    shape_and_slices=[""] * len(values),
    tensors=[tf.constant(value) for value in scaled],
  )


def _difference(a: np.ndarray, b: np.ndarray) -> float:
  """The largest difference, of booleans too."""
  return np.abs(np.subtract(a, b, dtype=np.float64)).max(initial=0.0)


def _resident_mb(pid: int) -> float:
  with open(f"/proc/{pid}/status") as file:
    (line,) = (line for line in file if line.startswith("VmRSS"))
  return int(line.split()[1]) / 1024


class _Publisher:
  """Puts one version after the other into a base path, as an export does: whole, at once."""

  def __init__(self, variants: list[Path], base: Path):
    self._variants, self._base = variants, base
    self.newest = 0

  def variant(self, version: int) -> int:
    return version % len(self._variants)

  def publish(self) -> None:
    self.newest += 1
    part = self._base / f".{self.newest}.part"
    shutil.copytree(self._variants[self.variant(self.newest)], part)
    part.rename(self._base / str(self.newest))
    shutil.rmtree(self._base / str(self.newest - _KEPT_VERSIONS), ignore_errors=True)


def soak(version: Path, reload_every: float, options: dict) -> dict:
  """Drives a server while versions change; see the module `benchmarks.serving`.

  Args:
    version: a version folder of an exported agent, which is copied.
    reload_every: seconds between new versions.
    options: for `Load`.

  Returns:
    What was found; `passed` says whether it is as it should be.
  """
  watched = multiprocessing.get_context("spawn").Queue(_QUEUE_SIZE)
  with tempfile.TemporaryDirectory() as folder:
    variants = [Path(folder) / f"variant{i}" for i in range(_VARIANTS)]
    for i, path in enumerate(variants):
      write_variant(version, i, path)
    references = [Reference(path) for path in variants]
    base = Path(folder) / "model"
    base.mkdir()
    publisher = _Publisher(variants, base)
    publisher.publish()
    checked, wrong, worst, memory = 0, [], 0.0, []
    flags = ("--grpc_max_threads=64", "--model_name=model", f"--model_base_path={base}")
    with process.serve(*flags) as server:
      begin = time.monotonic()
      next_reload = next_line = begin + reload_every

      def check_one(number, inputs, outputs):
        nonlocal checked, worst
        checked += 1
        found = references[publisher.variant(number)].act(inputs, tuple(outputs))
        error = max(_difference(found[name], outputs[name]) for name in outputs)
        worst = max(worst, float(error))
        if not error <= _TOLERANCE:
          wrong.append({"version": number, "error": float(error)})

      def meanwhile():
        tick()
        while not watched.empty():
          check_one(*watched.get())
          tick()

      def tick():
        nonlocal next_reload, next_line
        now = time.monotonic()
        if now >= next_reload:
          publisher.publish()
          next_reload = now + reload_every
        if now >= next_line:
          memory.append((now - begin, _resident_mb(server.process.pid)))
          print(
            f"{memory[-1][0]:6.0f} s  version {publisher.newest:4}  {checked:8} answers checked,"
            f" {len(wrong)} wrong  server {memory[-1][1]:7.1f} MB",
            flush=True,
          )
          next_line = now + max(10.0, options["seconds"] / 60)

      load = load_lib.Load(server.target, "model", **options)
      result = load_lib.run(load, watched, meanwhile)
      memory.append((time.monotonic() - begin, _resident_mb(server.process.pid)))
  begin, end = memory[0][0], memory[-1][0]
  early = [mb for seconds, mb in memory if _SETTLED / 2 <= seconds <= _SETTLED] or [memory[0][1]]
  late = [mb for seconds, mb in memory if seconds >= end - (end - begin) / 5]
  growth = float(np.median(late) / np.median(early) - 1)
  judged = options["seconds"] >= 2 * _SETTLED
  found = {
    **result.summary(options["rows"]),
    "versions_published": publisher.newest,
    "answers_checked": checked,
    "answers_wrong": len(wrong),
    "worst_error": worst,
    "server_mb": [[round(seconds), round(mb, 1)] for seconds, mb in memory],
    "memory_growth": growth,
  }
  found["passed"] = (
    checked > 0 and not wrong and not found["errors"] and (growth <= _GROWTH or not judged)
  )
  print(
    f"{found['calls']} calls, {found['calls_per_second']:.1f} calls/s, failed:"
    f" {found['errors'] or 'none'}; p50 {found['p50_ms']} ms, p99 {found['p99_ms']} ms,"
    f" longest {found['max_ms']} ms"
  )
  print(
    f"{len(found['versions'])} of {publisher.newest} versions answered; {checked} answers checked,"
    f" {len(wrong)} wrong, largest difference {worst:.2g}"
  )
  print(
    f"memory {np.median(early):.0f} MB, at the end {np.median(late):.0f} MB ({100 * growth:+.1f}%"
    f"{'' if judged else ', too short to judge'}): {'passed' if found['passed'] else 'FAILED'}"
  )
  return found
