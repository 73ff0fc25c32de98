"""Agents and world models as SavedModels that need nothing of ours.

What every signature has in common: each input and output has the same leading B; randomness comes
from `seed` (`int32[B, 2]`, one for each row) alone; and the state travels. `initial_state` gives
its tensors, each call takes them, and answers with the next ones under the same names.

The model server's loader takes less than Python's: see `_save` for what it asks of an export.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from wm_tf import files
from wm_tf.agent import Agent
from wm_tf.core import EnvSpec, Nest
from wm_tf.envs.frames import resize_matrices
from wm_tf.exported import SavedModelActor, load_agent, saved_versions, version_folder
from wm_tf.models.world_model import WorldModel, to_uint8

__all__ = [
  "SavedModelActor",
  "export_agent",
  "export_world_model",
  "flatten_state",
  "load_agent",
  "observation_of",
  "saved_versions",
  "to_env_action",
  "unflatten_state",
  "version_folder",
]

Tensors = dict[str, tf.Tensor]

_SEED = tf.TensorSpec([None, 2], tf.int32, "seed")
# A signature: its function of keyword arguments, and their specs by name.
_Signature = tuple[Callable[..., Tensors], dict[str, tf.TensorSpec]]


def export_agent(
  agent: Agent,
  path: str | os.PathLike,
  version: int | None = None,
  config: dict[str, Any] | None = None,
) -> Path:
  """Writes an agent (a controller or a planner) as a SavedModel.

  Signatures:
    `initial_state`: seed -> state tensors.
    `act` (also the default): frame `uint8[B, H, W, 3]` (of the environment's own size, or of the
      size that the agent sees), seed, state tensors -> `action` in the environment's own space
      (`float32[B, A_env]`, or `int64[B]` if it is discrete), `agent_action float32[B, A]` in
      [-1, 1], next state tensors.
    `spec`: seed -> what a client must know to drive; the same in each row.

  Args:
    agent: what to export.
    path: the model's base path; the version becomes a folder in it, which appears when whole.
    version: by default one more than the newest there.
    config: written to the version's `config.json`, and part of `spec`.

  Returns:
    The version folder.

  Raises:
    FileExistsError: if there is such a version.
  """
  spec = agent.spec
  initial = agent.initial_state(1)
  state_specs = _state_specs(initial)

  def initial_state(seed):
    return flatten_state(agent.initial_state(tf.shape(seed)[0]))

  def act(frame, seed, **state):
    action, state = agent.act(observation_of(frame, spec), unflatten_state(initial, state), seed)
    action = tf.clip_by_value(action, -1.0, 1.0)
    return {
      "action": to_env_action(action, spec),
      "agent_action": action,
      **flatten_state(state),
    }

  signatures = {
    "initial_state": (initial_state, {"seed": _SEED}),
    "act": (act, {"frame": _frame_spec(), "seed": _SEED, **state_specs}),
    "spec": _spec_signature(spec, state_specs, config),
  }
  state = {name: x.numpy() for name, x in flatten_state(initial).items()}
  seed = np.zeros((1, 2), np.int32)
  warmup = [("initial_state", {"seed": seed}), ("spec", {"seed": seed})]
  for shape in {spec.observation.parts[0].shape, spec.observation.parts[0].native_shape}:
    inputs = {"frame": np.zeros((1, *shape), np.uint8), "seed": seed, **state}
    # A server compiles each signature for itself, also one that is another's double.
    warmup += [("act", inputs), ("serving_default", inputs)]
  return _save(Path(path), version, signatures, "act", warmup, config)


def export_world_model(
  world_model: WorldModel,
  spec: EnvSpec,
  path: str | os.PathLike,
  version: int | None = None,
  config: dict[str, Any] | None = None,
) -> Path:
  """Writes a world model as a SavedModel.

  Signatures:
    `encode` (of models with a VAE): frame -> `loc`, `scale` `float32[B, Z]`.
    `decode`: those state tensors that a frame depends on -> `frame uint8[B, 64, 64, 3]`, and
      `mean float32[B, 64, 64, 3]` in [0, 1].
    `initial_state`: seed -> state tensors.
    `observe`: state tensors, `prev_action float32[B, A]`, frame, `is_first bool[B]`, seed -> next
      state tensors.
    `imagine` (also the default): state tensors, `action float32[B, A]`, seed,
      `temperature float32[B]` -> next state tensors, `reward`, `discount`, `disagreement`
      `float32[B]`.
    `spec`: as in `export_agent`.

  Args:
    world_model: what to export.
    spec: the environment that it models.
    path, version, config: as in `export_agent`.

  Returns:
    The version folder.

  Raises:
    FileExistsError: if there is such a version.
  """
  initial = world_model.initial_state(1)
  state_specs = _state_specs(initial, "latent")
  action_spec = lambda name: tf.TensorSpec([None, world_model.action_size], tf.float32, name)
  row_spec = lambda name, dtype=tf.float32: tf.TensorSpec([None], dtype, name)
  flatten = lambda state: flatten_state(state, "latent")
  unflatten = lambda tensors: unflatten_state(initial, tensors, "latent")

  def encode(frame):
    loc, log_scale = world_model.vae.encode(observation_of(frame, spec))
    return {"loc": loc, "scale": tf.exp(log_scale)}

  def decode(**state):
    rows = tf.shape(next(iter(state.values())))[0]
    state = {**flatten(world_model.initial_state(rows)), **state}
    mean = world_model.decode(unflatten(state))
    return {"frame": to_uint8(mean), "mean": mean}

  def initial_state(seed):
    return flatten(world_model.initial_state(tf.shape(seed)[0]))

  def observe(frame, prev_action, is_first, seed, **state):
    return flatten(
      world_model.observe(
        unflatten(state), prev_action, observation_of(frame, spec), is_first, seed
      )
    )

  def imagine(action, seed, temperature, **state):
    prediction = world_model.imagine(unflatten(state), action, seed, temperature)
    return {
      "reward": prediction.reward,
      "discount": prediction.discount,
      "disagreement": prediction.disagreement,
      **flatten(prediction.state),
    }

  signatures = {
    "decode": (decode, _used_by(decode, state_specs)),
    "initial_state": (initial_state, {"seed": _SEED}),
    "observe": (
      observe,
      {
        "frame": _frame_spec(),
        "prev_action": action_spec("prev_action"),
        "is_first": row_spec("is_first", tf.bool),
        "seed": _SEED,
        **state_specs,
      },
    ),
    "imagine": (
      imagine,
      {
        "action": action_spec("action"),
        "seed": _SEED,
        "temperature": row_spec("temperature"),
        **state_specs,
      },
    ),
    "spec": _spec_signature(
      spec,
      state_specs,
      config,
      usual_disagreement=float(world_model.usual_disagreement),
    ),
  }
  if hasattr(world_model, "vae"):
    signatures["encode"] = (encode, {"frame": _frame_spec()})
  zeros = lambda s: np.zeros(
    [1 if size is None else size for size in s.shape], s.dtype.as_numpy_dtype
  )
  warmup = []
  for name, (_, specs) in signatures.items():
    inputs = {key: zeros(value) for key, value in specs.items()}
    if "frame" in inputs:
      inputs["frame"] = np.zeros((1, *spec.observation.parts[0].native_shape), np.uint8)
    warmup += [
      (key, inputs) for key in ((name, "serving_default") if name == "imagine" else (name,))
    ]
  return _save(Path(path), version, signatures, "imagine", warmup, config)


# --- The state as named tensors ---------------------------------------------------------------


def _leaves(nest: Nest, name: str) -> list[tuple[str, Any]]:
  if hasattr(nest, "_fields"):
    items = zip(nest._fields, nest, strict=True)
  elif isinstance(nest, dict):
    items = sorted(nest.items())
  elif isinstance(nest, tuple | list):
    items = enumerate(nest)
  else:
    return [(name, nest)]
  return [leaf for key, x in items for leaf in _leaves(x, f"{name}_{key}" if name else str(key))]


def flatten_state(state: Nest, name: str = "") -> Tensors:
  """Names every tensor of a nest by its path: `AgentState.latent.z` becomes `latent_z`.

  Args:
    state: of NamedTuples, dicts, tuples and tensors.
    name: what the path begins with.
  """
  return dict(_leaves(state, name))


def unflatten_state(like: Nest, tensors: Tensors, name: str = "") -> Nest:
  """The inverse of `flatten_state`; `like` is any state of the same structure."""
  names = [key for key, _ in _leaves(like, name)]
  # `tf.nest` and `_leaves` go through a nest in the same order (dicts by sorted keys).
  return tf.nest.pack_sequence_as(like, [tensors[key] for key in names])


def _state_specs(state: Nest, name: str = "") -> dict[str, tf.TensorSpec]:
  return {key: tf.TensorSpec([None, *x.shape[1:]], x.dtype, key) for key, x in _leaves(state, name)}


def _used_by(fn, specs):
  """Those of the inputs that the outputs depend on."""
  graph = tf.function(fn).get_concrete_function(**specs).graph
  used = {x.op.name for x in graph.inputs if any(op.type != "Shape" for op in x.consumers())}
  return {key: value for key, value in specs.items() if key in used}


# --- Frames and actions, as the adapter does them ---------------------------------------------


def _frame_spec() -> tf.TensorSpec:
  return tf.TensorSpec([None, None, None, 3], tf.uint8, "frame")


def observation_of(frame: tf.Tensor, spec: EnvSpec) -> tf.Tensor:
  """What the agent sees of a frame, bit for bit as `wm_tf.envs.frames.resize` makes it.

  Args:
    frame: `uint8[B, H, W, 3]`, of the environment's own size or of the agent's; anything else
      fails when the graph runs.
    spec: says the sizes and the crop.

  Returns:
    `uint8[B, 64, 64, 3]`.
  """
  part = spec.observation.parts[0]
  small, native = part.shape, part.native_shape
  # The server does not hold a request to the signature: frames of any rank get here.
  has_shape = lambda shape: tf.reduce_all(
    tf.reshape(
      tf.raw_ops.Equal(x=tf.shape(frame)[1:], y=list(shape), incompatible_shape_error=False), [-1]
    )
  )
  accepted = " or ".join(f"[B, {', '.join(map(str, s))}]" for s in dict.fromkeys([native, small]))
  check = tf.debugging.Assert(
    has_shape(small) | has_shape(native),
    [f"frame must have shape {accepted} ({spec.env_id}), not", tf.shape(frame)],
    summarize=8,
  )
  rows, cols, total = resize_matrices(part.crop, native, small[:2])

  def shrink():
    x = tf.einsum("hH,bHWc->bhWc", tf.constant(rows), tf.cast(frame, tf.float64))
    x = tf.einsum("bhWc,Ww->bhwc", x, tf.constant(cols))
    return tf.cast(tf.floor((2 * x + total) / (2 * total)), tf.uint8)

  with tf.control_dependencies([check]):
    frame = tf.identity(frame)
    if small != native:
      frame = tf.cond(has_shape(native), shrink, lambda: frame)
  return tf.ensure_shape(frame, [None, *small])


def to_env_action(action: tf.Tensor, spec: EnvSpec) -> tf.Tensor:
  """`ActionSpace.to_env` for `float32[B, A]`: `float32[B, A_env]`, or `int64[B]` if discrete."""
  space = spec.action_space
  if space.kind == "discrete":
    return tf.argmax(action, axis=-1)
  return tf.clip_by_value(
    tf.linalg.matmul(action, tf.constant(space.matrix)), space.low, space.high
  )


def _spec_signature(spec: EnvSpec, state_specs, config, **more) -> _Signature:
  """Answers an `EnvSpec`, the state's tensors and what more there is, in every row."""
  space, part = spec.action_space, spec.observation.parts[0]
  plain = lambda x: np.asarray(x).tolist()
  everything = {
    **spec._asdict(),
    "observation": None,
    "observation_shape": part.shape,
    "native_shape": part.native_shape,
    "crop": part.crop,
    "idle_action": plain(spec.idle_action),
    "action_space": {key: plain(value) for key, value in space._asdict().items()},
    "state": {
      name: {"shape": list(s.shape)[1:], "dtype": s.dtype.name} for name, s in state_specs.items()
    },
    "config": config,
    "versions": {"tensorflow": tf.__version__, "keras": keras.__version__},
    **more,
  }
  idle_type = np.int64 if space.is_categorical else np.float32
  answer = {
    "name": spec.name,
    "env_id": spec.env_id,
    "frame_size": np.array(part.native_shape[:2], np.int32),
    "observation_size": np.array(part.shape[:2], np.int32),
    "action_repeat": np.int32(spec.action_repeat),
    "frames_to_skip": np.int32(spec.frames_to_skip),
    "idle_action": np.asarray(spec.idle_action, idle_type),
    "max_steps": np.int32(spec.max_steps),
    "action_names": list(space.env_names),
    "action_low": np.asarray(() if space.low is None else space.low, np.float32),
    "action_high": np.asarray(() if space.high is None else space.high, np.float32),
    "agent_action_names": list(space.names),
    "discrete": np.bool_(space.kind == "discrete"),
    "state_names": list(state_specs),
    "json": json.dumps(everything),
  }

  def answer_spec(seed):
    rows = tf.shape(seed)[0]
    repeat = lambda x: tf.tile(x[tf.newaxis], [rows] + [1] * x.shape.rank)
    return {name: repeat(tf.constant(value)) for name, value in answer.items()}

  return answer_spec, {"seed": _SEED}


# --- Writing ----------------------------------------------------------------------------------


def _save(
  path: Path,
  version: int | None,
  signatures: dict[str, _Signature],
  default: str,
  warmup: list[tuple[str, dict[str, np.ndarray]]],
  config: dict[str, Any] | None,
) -> Path:
  """Writes a version folder that the model server loads.

  Its loader is not `tf.saved_model.load`: variables that nothing but a Keras 3 model tracks are
  missing there, so the module holds every one that a signature uses; names, shapes and dtypes of
  inputs are given by hand; nothing asks for XLA; and a version folder that appears before it is
  whole makes the official server give up on it, so it is renamed into place.
  """
  path = path.absolute()
  path.mkdir(parents=True, exist_ok=True)
  if version is None:
    version = max(saved_versions(path), default=0) + 1
  final = path / str(version)
  if final.exists():
    raise FileExistsError(f"{final} exists: versions are never overwritten; export another number.")

  module = tf.Module()
  functions = {}
  for name, (fn, specs) in signatures.items():
    functions[name] = tf.function(_identities(fn)).get_concrete_function(**specs)
  functions["serving_default"] = functions[default]
  variables = {id(v): v for fn in functions.values() for v in fn.graph.variables}
  module.all_variables = list(variables.values())

  part = path / f".{version}.part"
  shutil.rmtree(part, ignore_errors=True)  # From an export that was killed.
  tf.saved_model.save(module, str(part), signatures=functions)
  _write_warmup(part / "assets.extra", path.name, warmup)
  (part / "config.json").write_text(json.dumps(config or {}, indent=2) + "\n")
  files.write_sums(part, [str(p.relative_to(part)) for p in part.rglob("*") if p.is_file()])
  part.rename(final)
  files.sync(path)
  return final


def _identities(fn):
  """So that an output that is an input, or another output, is a tensor of its own."""
  return lambda **inputs: {name: tf.identity(x) for name, x in fn(**inputs).items()}


def _write_warmup(folder: Path, model: str, requests) -> None:
  """Records requests that a server replays before it calls a version available.

  The first call of a signature optimises its graph, which takes 10 to 100 times as long as a call.
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
