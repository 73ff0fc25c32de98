"""Version folders that a model server loads: the SavedModel, its warmup requests, its sums."""

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
  """A signature to be written.

  Attributes:
    fn: takes the inputs as keyword arguments and returns the outputs by name.
    specs: the inputs by name.
    warmup: inputs `[1, ...]` by name, of requests that a server replays before it serves.
  """

  fn: Callable[..., Tensors]
  specs: dict[str, tf.TensorSpec]
  warmup: tuple[dict[str, np.ndarray], ...] = ()


def saved_versions(path: str | os.PathLike) -> list[int]:
  """The versions under a model's base path, in order."""
  return sorted(int(p.name) for p in Path(path).glob("*") if p.name.isdigit() and p.is_dir())


def write_version(
  path: str | os.PathLike,
  version: int | None,
  signatures: dict[str, Signature],
  default: str,
  config: dict[str, Any] | None,
) -> Path:
  """Writes a version folder that the model server loads.

  The server's loader is stricter than `tf.saved_model.load`. Variables that only a Keras 3 model
  tracks are missing there, so the module holds every variable that a signature uses. Names, shapes
  and dtypes of inputs are given explicitly. Nothing asks for XLA. A version folder that appears
  before it is complete makes the official server give up on it, so it is renamed into place.

  Args:
    path: the model's base path.
    version: the folder's name; one more than the newest version if None.
    signatures: what to write, by name.
    default: the signature that is `serving_default` too.
    config: written to `config.json`.

  Returns:
    The version folder.

  Raises:
    FileExistsError: if the version exists.
  """
  path = Path(path).absolute()
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
  shutil.rmtree(part, ignore_errors=True)  # Of an export that was killed.
  tf.saved_model.save(module, str(part), signatures=functions)
  # A server compiles each signature for itself, the default one too.
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
  """Records requests that a server replays before it calls a version available.

  The first call of a signature optimises its graph, which takes 10 to 100 times as long as a call.

  Args:
    folder: `assets.extra` of the version folder; made here.
    model: the name of the model in the requests.
    requests: pairs of a signature's name and its inputs by name.
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
  """Wraps `fn` so that an output that is an input, or another output, is a tensor of its own."""

  def wrapped(**inputs):
    return {name: tf.identity(x) for name, x in fn(**inputs).items()}

  return wrapped
