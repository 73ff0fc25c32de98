"""Comparing results with goldens."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

_TIMELESS = ("seconds", "sha256")  # Not compared: times, and the checksum of a file with times.


def differences(
  found: Any, golden: Any, rtol: float, atol: float = 0.0, path: str = ""
) -> list[str]:
  """Compares nested JSON values; returns one line for each difference.

  Args:
    found: what there is now. Its dicts may have more keys than those of `golden`.
    golden: what was recorded.
    rtol, atol: of numbers that are not whole; whole numbers must be equal unless `atol` allows it.
    path: where in the values this is.
  """
  if isinstance(golden, dict):
    if not isinstance(found, dict):
      return [f"{path}: {found!r} is no dict"]
    lines = []
    for key in golden.keys() - set(_TIMELESS):
      where = f"{path}/{key}"
      if key in found:
        lines += differences(found[key], golden[key], rtol, atol, where)
      else:
        lines.append(f"{where}: missing")
    return sorted(lines)
  if isinstance(golden, list):
    if not isinstance(found, list) or len(found) != len(golden):
      return [f"{path}: {found!r} instead of {golden!r}"]
    pairs = enumerate(zip(found, golden, strict=True))
    return [line for i, (a, b) in pairs for line in differences(a, b, rtol, atol, f"{path}[{i}]")]
  if _is_number(found) and _is_number(golden):
    tolerance = 0.0 if isinstance(golden, int) else rtol
    same = math.isclose(found, golden, rel_tol=tolerance, abs_tol=atol)
  else:
    same = type(found) is type(golden) and found == golden
  return [] if same else [f"{path}: {found!r} instead of {golden!r}"]


def _is_number(value: Any) -> bool:
  return isinstance(value, int | float) and not isinstance(value, bool)


def read_json(path: Path) -> Any:
  return json.loads(path.read_text())


def read_lines(path: Path) -> list[Any]:
  """Reads a file of JSON lines."""
  return [json.loads(line) for line in path.read_text().splitlines()]


def read_episodes(folder: Path) -> Iterable[tuple[str, np.ndarray]]:
  """Yields the fields of every episode of a dataset folder, read by TensorFlow alone.

  Yields:
    `(name, array)`, in the order of the shards: observations `uint8[T, 64, 64, 3]`, actions
    `float32[T * A]`, rewards `float32[T]`, and the other fields as they were written.
  """
  shards = [str(path) for path in sorted(folder.glob("shard-*.tfrecord"))]
  for number, record in enumerate(tf.data.TFRecordDataset(shards)):
    features = tf.train.Example.FromString(record.numpy()).features.feature
    shape = features["observation_shape"].int64_list.value
    for name, feature in sorted(features.items()):
      kind = feature.WhichOneof("kind")
      value = getattr(feature, kind).value
      if name == "observation":
        raw = tf.io.decode_compressed(value[0], "ZLIB")
        array = tf.reshape(tf.io.decode_raw(raw, tf.uint8), shape).numpy()
      else:
        array = np.array(value, np.float32 if kind == "float_list" else None)
      yield f"{folder.name} {number} {name}", array


def snapshot(folder: Path) -> dict[str, str]:
  """The checksum of every file of a run but locks, times and logs."""
  skipped = {".lock", "seconds.json", "tensorboard"}
  return {
    str(name): hashlib.sha256((folder / name).read_bytes()).hexdigest()
    for path in folder.rglob("*")
    if path.is_file() and skipped.isdisjoint((name := path.relative_to(folder)).parts)
  }
