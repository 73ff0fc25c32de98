"""SavedModels called through the model server's loader, in a process that has only TensorFlow."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np

_GATE = """
import sys
import numpy as np
import tensorflow as tf

folder, inputs, outputs = sys.argv[1:]
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
foreign = {"wm_tf", "serving", "keras", "tensorflow_probability"} & set(sys.modules)
assert not foreign - {"keras"}, foreign
"""


def run_gate(folder, calls, tmp_path):
  """Calls every signature in a fresh process; `calls` is `{signature: inputs}`."""
  flat = {f"{name}/{key}": x for name, inputs in calls.items() for key, x in inputs.items()}
  np.savez(tmp_path / "in.npz", **flat)
  subprocess.run(
    # -I: no PYTHONPATH and no working directory on the path, so that nothing of ours is found.
    [sys.executable, "-I", "-c", _GATE, folder, tmp_path / "in.npz", tmp_path / "out.npz"],
    check=True,
    cwd=tmp_path,
    capture_output=True,
  )
  results: dict[str, dict[str, Any]] = {}
  for key, value in np.load(tmp_path / "out.npz").items():
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
