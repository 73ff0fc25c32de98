"""Writes version folders for a model server: SavedModel, warm-up requests and checksums."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from wm_tf import files
from wm_tf.export.state import Tensors


class Signature(NamedTuple):
  """A signature to write.

  Attributes:
    fn: takes the inputs as keyword arguments and returns the outputs by name.
    specs: the inputs by name.
    warmup: inputs `[1, ...]` by name of the requests that a server runs before it serves.
  """

  fn: Callable[..., Tensors]
  specs: dict[str, tf.TensorSpec]
  warmup: tuple[dict[str, np.ndarray], ...] = ()


def saved_versions(path: str | os.PathLike) -> list[int]:
  """Returns the version numbers in a model's base path, in increasing order.

  Args:
    path: the base path; a leading `~` is expanded.
  """
  folders = files.user_path(path).glob("*")
  return sorted(int(p.name) for p in folders if p.name.isdigit() and p.is_dir())


def write_version(
  path: str | os.PathLike,
  version: int | None,
  signatures: dict[str, Signature],
  default: str,
  config: dict[str, Any] | None,
) -> Path:
  """Writes a version folder that the model server loads.

  The server's loader is stricter than `tf.saved_model.load`. It lacks variables that only a Keras 3
  model tracks, so the module tracks every variable that a signature uses. Names, shapes and dtypes
  of inputs are explicit. No function uses XLA. The official server does not retry a version folder
  that it found incomplete, so the folder is renamed when it is complete.

  Args:
    path: the model's base path; a leading `~` is expanded.
    version: the folder's name; None for the newest version plus one.
    signatures: the signatures by name.
    default: the signature that is also `serving_default`.
    config: written to `config.json`.

  Returns:
    The version folder.

  Raises:
    FileExistsError: if the version exists.
  """
  path = files.user_path(path).absolute()
  path.mkdir(parents=True, exist_ok=True)
  if version is None:
    version = max(saved_versions(path), default=0) + 1
  final = path / str(version)
  if final.exists():
    raise FileExistsError(f"{final} exists: versions are never overwritten; export another number.")

  module = tf.Module()
  functions = {}
  for name, signature in signatures.items():
    function = tf.function(_with_own_outputs(signature.fn), autograph=False)
    functions[name] = function.get_concrete_function(**signature.specs)
  functions["serving_default"] = functions[default]
  variables = {id(v): v for fn in functions.values() for v in fn.graph.variables}
  module.all_variables = list(variables.values())

  part = path / f".{version}.part"
  shutil.rmtree(part, ignore_errors=True)  # Left by an export that was killed.
  tf.saved_model.save(module, str(part), signatures=functions)
  # A server compiles each signature separately, including the default one.
  aliased = {**signatures, "serving_default": signatures[default]}
  requests = [(name, inputs) for name, x in aliased.items() for inputs in x.warmup]
  write_warmup(part / "assets.extra", path.name, requests)
  (part / "config.json").write_text(json.dumps(config or {}, indent=2) + "\n")
  files.write_sums(part, [str(p.relative_to(part)) for p in part.rglob("*") if p.is_file()])
  part.rename(final)
  files.sync(path)
  return final


def write_warmup(
  folder: Path, model: str, requests: Iterable[tuple[str, dict[str, np.ndarray]]]
) -> None:
  """Records requests that a server runs before a version becomes available.

  The first call of a signature optimises its graph, which takes 10 to 100 times as long as a later
  call.

  Args:
    folder: `assets.extra` of the version folder; created here.
    model: the name of the model in the requests.
    requests: pairs of a signature's name and its inputs by name.

  Raises:
    ImportError: if tensorflow-serving-api is not installed.
  """
  try:
    from tensorflow_serving.apis import prediction_log_pb2
  except ImportError as error:
    raise ImportError(
      "Exporting needs tensorflow-serving-api, for the warmup requests; install wm_tf[serving]."
    ) from error
  folder.mkdir()
  with tf.io.TFRecordWriter(str(folder / "tf_serving_warmup_requests")) as writer:
    for signature, inputs in requests:
      log = prediction_log_pb2.PredictionLog()
      request = log.predict_log.request
      request.model_spec.name, request.model_spec.signature_name = model, signature
      for name, value in inputs.items():
        request.inputs[name].CopyFrom(tf.make_tensor_proto(value))
      writer.write(log.SerializeToString())


def _with_own_outputs(fn: Callable[..., Tensors]) -> Callable[..., Tensors]:
  """Wraps `fn` so that no output is the same tensor as an input or another output."""

  def wrapped(**inputs):
    return {name: tf.identity(x) for name, x in fn(**inputs).items()}

  return wrapped
