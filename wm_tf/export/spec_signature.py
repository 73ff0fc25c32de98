"""The signature `spec`, which describes a model's environment to its clients."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from wm_tf.core import ActionSpace, EnvSpec, ObservationPart
from wm_tf.export.conversions import input_names
from wm_tf.export.state import Tensors
from wm_tf.export.writing import Signature

SEED = tf.TensorSpec([None, 2], tf.int32, "seed")


def zero_seed(rows: int = 1) -> np.ndarray:
  """Returns seeds of zeros, `int32[rows, 2]`.

  Args:
    rows: B, the number of rows.
  """
  return np.zeros((rows, 2), np.int32)


def spec_signature(
  spec: EnvSpec,
  states: Mapping[str, tf.TensorSpec],
  config: dict[str, Any] | None,
  **more: Any,
) -> Signature:
  """Makes the signature that returns an `EnvSpec` and the state's tensors, the same in each row.

  Outputs, with P parts of the observation:
    `name`, `env_id`, `action_repeat`, `frames_to_skip`, `idle_action`, `max_steps`: see `EnvSpec`.
    `frame_size`, `observation_size`: height and width of a single image, of the environment and of
      the agent; zeros if the observation is not one image.
    `observation_names`, `observation_inputs`, `observation_kinds`, `observation_dtypes`:
      `string[B, P]`: each part's name, its input, `image` or `vector`, and its dtype.
    `observation_shapes`: `int32[B, P, R]`, the environment's own shapes, padded with -1.
    `agent_observation_shapes`: `int32[B, P, 3]`, the shapes that the agent sees, padded with -1.
    `observation_low`, `observation_high`: `float32[B, N]`, the concatenated bounds of the parts:
    one
      number for an image, one for each element of a vector. Infinite if unbounded.
    `rendered`: whether the observation is the frame that `render()` returns.
    `action_kind`, `action_dtype`: one of `wm_tf.core.ACTION_KINDS`, and the action's dtype.
    `action_shape`: `int32[B, R]`.
    `action_low`, `action_high`: `float32[B, A_env]`; for choices the first and the last one.
    `action_num_choices`: `int32[B, G]`.
    `action_names`, `agent_action_names`: of the environment's and the agent's action dimensions.
    `discrete`: whether an action is one integer.
    `state_names`: the names of the state tensors.
    `json`: all of this and more; a number that is not finite is null.

  Args:
    spec: the environment.
    states: the state's tensors.
    config: the configuration that the model was made with; part of `json`.
    **more: further parts of `json`.

  Returns:
    The signature, to be written.
  """
  space = spec.action_space
  images = spec.observation.images if len(spec.observation.parts) == 1 else ()
  native_size, seen_size = (0, 0), (0, 0)
  if images:
    native_size, seen_size = _native_size(images[0]), images[0].shape[:2]
  idle_type = np.int64 if space.is_categorical else np.float32
  answer = {
    "name": spec.name,
    "env_id": spec.env_id,
    "frame_size": np.array(native_size, np.int32),
    "observation_size": np.array(seen_size, np.int32),
    "action_repeat": np.int32(spec.action_repeat),
    "frames_to_skip": np.int32(spec.frames_to_skip),
    "idle_action": np.asarray(_idle_action(spec), idle_type),
    "max_steps": np.int32(spec.max_steps),
    "rendered": np.bool_(spec.rendered),
    **_observation_outputs(spec),
    **_action_outputs(space),
    "state_names": list(states),
    "json": json.dumps(_plain(_everything(spec, states, config, more)), default=repr),
  }

  def answer_spec(seed: tf.Tensor) -> Tensors:
    rows = tf.shape(seed)[0]

    def repeated(value):
      value = tf.constant(value)
      return tf.tile(value[tf.newaxis], [rows] + [1] * value.shape.rank)

    return {name: repeated(value) for name, value in answer.items()}

  return Signature(answer_spec, {"seed": SEED}, ({"seed": zero_seed()},))


def _native_size(part: ObservationPart) -> tuple[int, ...]:
  if part.axes is None:
    return tuple(part.native_shape[:2])
  return tuple(part.native_shape[axis] for axis in part.axes[:2])


def _idle_action(spec: EnvSpec) -> Any:
  """Returns the action for `frames_to_skip`; an action of the space if the spec has none."""
  if spec.idle_action is not None:
    return spec.idle_action
  return spec.action_space.to_env(np.zeros(spec.action_size, np.float32))


def _observation_outputs(spec: EnvSpec) -> dict[str, Any]:
  parts = spec.observation.parts
  low, high = zip(*(_range(part) for part in parts), strict=True)
  return {
    "observation_names": [part.name for part in parts],
    "observation_inputs": list(input_names(spec.observation)),
    "observation_kinds": [part.kind for part in parts],
    "observation_dtypes": [part.native_dtype for part in parts],
    "observation_shapes": _padded([part.native_shape for part in parts]),
    "agent_observation_shapes": _padded([part.shape for part in parts], 3),
    "observation_low": np.concatenate(low),
    "observation_high": np.concatenate(high),
  }


def _range(part: ObservationPart) -> tuple[np.ndarray, np.ndarray]:
  """Returns the bounds of an image's pixels, `float32[1]`, or a vector's numbers, `float32[n]`."""
  size = 1 if part.kind == "image" else math.prod(part.native_shape)
  if part.num_choices:
    low = np.zeros(size) if part.start is None else np.asarray(part.start)
    bounds = low, low + np.asarray(part.num_choices) - 1
  elif part.low is None:
    bounds = (0, 255) if part.kind == "image" else (-np.inf, np.inf)
  else:
    bounds = part.low, part.high
  low, high = (np.broadcast_to(np.ravel(x).astype(np.float32), [size]) for x in bounds)
  return low, high


def _padded(shapes, rank: int = 1) -> np.ndarray:
  """Returns `int32[P, R]`: shapes of different ranks, padded with -1."""
  padded = np.full((len(shapes), max(rank, *map(len, shapes))), -1, np.int32)
  for row, shape in zip(padded, shapes, strict=True):
    row[: len(shape)] = shape
  return padded


def _action_outputs(space: ActionSpace) -> dict[str, Any]:
  low, high = space.low, space.high
  if space.is_categorical:
    low = np.zeros(len(space.num_choices)) if space.start is None else np.asarray(space.start)
    high = low + np.asarray(space.num_choices) - 1
  return {
    "action_kind": space.kind,
    "action_shape": np.array(space.shape, np.int32),
    "action_dtype": space.dtype.name,
    "action_names": list(space.env_names),
    "action_low": np.asarray(low, np.float32),
    "action_high": np.asarray(high, np.float32),
    "action_num_choices": np.array(space.num_choices, np.int32),
    "agent_action_names": list(space.names),
    "discrete": np.bool_(space.kind == "discrete"),
  }


def _everything(spec: EnvSpec, states, config, more) -> dict[str, Any]:
  observation, space = spec.observation, spec.action_space
  parts = [
    {"input": name, **part._asdict()}
    for name, part in zip(input_names(observation), observation.parts, strict=True)
  ]
  only = observation.parts[0] if len(parts) == 1 else None
  return {
    **spec._asdict(),
    "observation": parts,
    "observation_shape": only and only.shape,
    "native_shape": only and only.native_shape,
    "crop": only and only.crop,
    "idle_action": _idle_action(spec),
    "make_kwargs": spec.make_kwargs or {},
    "action_space": {
      **space._asdict(),
      "env_shape": space.shape,
      "env_dtype": space.dtype.name,
      # For clients of earlier exports.
      "discrete": space.kind == "discrete",
    },
    "state": {
      name: {"shape": list(s.shape)[1:], "dtype": s.dtype.name} for name, s in states.items()
    },
    "config": config,
    "versions": {"tensorflow": tf.__version__, "keras": keras.__version__},
    **more,
  }


def _plain(value: Any) -> Any:
  """Converts a value to JSON types: arrays to lists, numbers that are not finite to None."""
  if isinstance(value, dict):
    return {str(key): _plain(x) for key, x in value.items()}
  if isinstance(value, np.ndarray | np.generic):
    value = value.tolist()
  if isinstance(value, list | tuple):
    return [_plain(x) for x in value]
  if isinstance(value, float) and not math.isfinite(value):
    return None
  return value
