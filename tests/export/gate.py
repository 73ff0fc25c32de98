"""SavedModels called through the model server's loader, in a process that has only TensorFlow."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

_GATE = """
import sys
import numpy as np
import tensorflow as tf

for line in sys.stdin:
  folder, inputs, outputs = line.rstrip("\\n").split("\\t")
  calls = np.load(inputs)
  results = {}
  with tf.compat.v1.Session(graph=tf.Graph()) as session:
    meta_graph = tf.compat.v1.saved_model.loader.load(session, ["serve"], folder)
    for name, signature in meta_graph.signature_def.items():
      if name.startswith("__"):
        continue
      feed = {x.name: calls[f"{name}/{key}"] for key, x in signature.inputs.items()}
      fetch = {key: x.name for key, x in signature.outputs.items()}
      for key, value in session.run(fetch, feed).items():
        value = value.astype(bytes) if value.dtype == object else value
        results[f"{name}/{key}"] = value
  np.savez(outputs, **results)
  foreign = {"wm_tf", "serving", "tensorflow_probability"} & set(sys.modules)
  assert not foreign, foreign
  print("done", flush=True)
"""


class Gate:
  """Calls exports in a process that has only TensorFlow, which takes seconds to import.

  Each export is loaded into a graph and a session of its own. A context manager.
  """

  def __init__(self, folder: Path):
    """`folder` is for what is sent and answered."""
    self._folder = folder
    with open(folder / "log", "wb") as log:
      self._process = subprocess.Popen(
        # -I: no PYTHONPATH and no working directory on the path, so that nothing of ours is found.
        [sys.executable, "-I", "-c", _GATE],
        cwd=folder,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=log,
        text=True,
      )

  def __enter__(self) -> Gate:
    return self

  def __exit__(self, *_) -> None:
    self._process.kill()
    self._process.communicate()

  def __call__(self, folder, calls) -> dict[str, dict[str, Any]]:
    """Calls every signature of the export in a folder; `calls` is `{signature: inputs}`."""
    flat = {f"{name}/{key}": x for name, inputs in calls.items() for key, x in inputs.items()}
    sent, answered = self._folder / "in.npz", self._folder / "out.npz"
    np.savez(sent, **flat)
    answered.unlink(missing_ok=True)
    self._process.stdin.write(f"{folder}\t{sent}\t{answered}\n")
    self._process.stdin.flush()
    assert self._process.stdout.readline() == "done\n", (self._folder / "log").read_text()
    results: dict[str, dict[str, Any]] = {}
    with np.load(answered) as found:
      for key, value in found.items():
        name, _, output = key.partition("/")
        results.setdefault(name, {})[output] = value
    return results


def assert_close(results, expected):
  assert set(results) == set(expected)
  for key, value in expected.items():
    value = np.asarray(value)
    assert results[key].dtype == value.dtype, key
    if value.dtype.kind == "f":
      np.testing.assert_allclose(results[key], value, rtol=1e-4, atol=1e-5, err_msg=key)
    else:
      np.testing.assert_array_equal(results[key], value, err_msg=key)
