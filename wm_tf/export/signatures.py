"""Writes agents and world models as SavedModels that do not need the code of this package.

All signatures follow three rules. Each input and output has the same leading B. Randomness comes
only from `seed` (`int32[B, 2]`, one for each row). The model keeps no state: `initial_state`
returns the state's tensors, and each call takes them and returns the next ones under the same
names.

Observations are the environment's own arrays. One image is the input `frame`, one vector is the
input `observation`, and each part of a dict is a separate input. `wm_tf.export.conversions` defines
shapes and names.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from wm_tf.agent import Agent
from wm_tf.core import EnvSpec, ObservationSpec
from wm_tf.export.conversions import (
  accepted_shapes,
  canonical_action,
  input_names,
  input_specs,
  mean_name,
  observation_of,
  require_finite,
  to_env_action,
)
from wm_tf.export.spec_signature import SEED, spec_signature, zero_seed
from wm_tf.export.state import Tensors, flatten_state, inputs_used, state_specs, unflatten_state
from wm_tf.export.writing import Signature, write_version
from wm_tf.models.world_model import WorldModel, to_uint8


def export_agent(
  agent: Agent,
  path: str | os.PathLike,
  version: int | None = None,
  config: dict[str, Any] | None = None,
) -> Path:
  """Writes an agent (a controller or a planner) as a SavedModel.

  Signatures:
    `initial_state`: seed -> state tensors.
    `act` (also the default): observation, seed, state tensors -> `action` in the environment's
      format, next state tensors, and `agent_action float32[B, A]`: numbers in [-1, 1], or one-hot
      vectors. `action` is `float32[B, ...]` (continuous), `int64[B]` (discrete), `int64[B, ...]`
      (multi-discrete) or `int8[B, ...]` (multi-binary).
    `spec`: seed -> a description of the environment for clients; the same in each row.

  If an input has a NaN or infinite number, `act` fails with INVALID_ARGUMENT and the input's name.

  Args:
    agent: the agent to export.
    path: the model's base path. The version folder in it appears when it is complete.
    version: the version number; None for the newest version plus one.
    config: written to the version's `config.json`, and part of `spec`.

  Returns:
    The version folder.

  Raises:
    FileExistsError: if the version exists.
    ValueError: if an exported model cannot accept the environment's observations.
  """
  spec = agent.spec
  initial = agent.initial_state(1)
  states = state_specs(initial)

  def initial_state(seed):
    return flatten_state(agent.initial_state(tf.shape(seed)[0]))

  def act(seed, **inputs):
    inputs = require_finite(inputs)
    state = unflatten_state(initial, inputs)
    action, state = agent.act(observation_of(inputs, spec), state, seed)
    action = canonical_action(action, spec.action_space)
    if spec.action_space.is_categorical:
      state = state._replace(prev_action=action)
    return {
      "action": to_env_action(action, spec),
      "agent_action": action,
      **flatten_state(state),
    }

  act_specs = {**input_specs(spec.observation), "seed": SEED, **states}
  first_state = {name: x.numpy() for name, x in flatten_state(initial).items()}
  signatures = {
    "initial_state": Signature(initial_state, {"seed": SEED}, ({"seed": zero_seed()},)),
    "act": Signature(
      act,
      act_specs,
      tuple(
        {**observation, "seed": zero_seed(), **first_state}
        for observation in _example_inputs(spec.observation)
      ),
    ),
    "spec": spec_signature(spec, states, config),
  }
  return write_version(path, version, signatures, "act", config)


def export_world_model(
  world_model: WorldModel,
  spec: EnvSpec,
  path: str | os.PathLike,
  version: int | None = None,
  config: dict[str, Any] | None = None,
) -> Path:
  """Writes a world model as a SavedModel.

  Signatures:
    `encode` (of models with `encode_outputs`): observation -> those outputs; for a model with a VAE
      `loc` and `scale`, `float32[B, Z]`.
    `decode`: the state tensors that the observation depends on -> the mean observation. An image is
      `uint8[B, H, W, C]` under the name of its input, and `float32` in [0, 1] as `mean` (a single
      image) or `<input>_mean`. A vector is `float32[B, ...]` in the environment's units and shape;
      integers are probabilities `float32[B, D]`.
    `initial_state`: seed -> state tensors.
    `observe`: state tensors, `prev_action float32[B, A]`, observation, `is_first bool[B]`, seed ->
      next state tensors.
    `imagine` (also the default): state tensors, `action float32[B, A]`, seed,
      `temperature float32[B]` -> next state tensors, `reward`, `discount`, `disagreement`
      `float32[B]`.
    `spec`: see `export_agent`.

  Args:
    world_model: the world model to export.
    spec: the environment that it models.
    path: see `export_agent`.
    version: see `export_agent`.
    config: see `export_agent`.

  Returns:
    The version folder.

  Raises:
    FileExistsError: if the version exists.
    ValueError: if an exported model cannot accept the environment's observations.
  """
  initial = world_model.initial_state(1)
  states = state_specs(initial, "latent")
  observation_specs = input_specs(spec.observation)

  def flatten(state):
    return flatten_state(state, "latent")

  def unflatten(tensors):
    return unflatten_state(initial, tensors, "latent")

  def action_spec(name):
    return tf.TensorSpec([None, world_model.action_size], tf.float32, name)

  def encode(**inputs):
    return world_model.encode_outputs(observation_of(inputs, spec))

  def decode(**state):
    rows = tf.shape(next(iter(state.values())))[0]
    state = {**flatten(world_model.initial_state(rows)), **state}
    mean = world_model.decode(unflatten(state))
    return _decoded(spec.observation, mean)

  def initial_state(seed):
    return flatten(world_model.initial_state(tf.shape(seed)[0]))

  def observe(prev_action, is_first, seed, **inputs):
    observation = observation_of(inputs, spec)
    return flatten(world_model.observe(unflatten(inputs), prev_action, observation, is_first, seed))

  def imagine(action, seed, temperature, **state):
    prediction = world_model.imagine(unflatten(state), action, seed, temperature)
    return {
      "reward": prediction.reward,
      "discount": prediction.discount,
      "disagreement": prediction.disagreement,
      **flatten(prediction.state),
    }

  specs = {
    "decode": (decode, inputs_used(decode, states)),
    "initial_state": (initial_state, {"seed": SEED}),
    "observe": (
      observe,
      {
        **observation_specs,
        "prev_action": action_spec("prev_action"),
        "is_first": tf.TensorSpec([None], tf.bool, "is_first"),
        "seed": SEED,
        **states,
      },
    ),
    "imagine": (
      imagine,
      {
        "action": action_spec("action"),
        "seed": SEED,
        "temperature": tf.TensorSpec([None], tf.float32, "temperature"),
        **states,
      },
    ),
  }
  if _encodes(world_model, observation_specs, spec):
    specs["encode"] = (encode, observation_specs)
  example = next(_example_inputs(spec.observation))
  signatures = {
    name: Signature(fn, inputs, ({**_zeros(inputs, set(example)), **_subset(example, inputs)},))
    for name, (fn, inputs) in specs.items()
  }
  signatures["spec"] = spec_signature(
    spec, states, config, usual_disagreement=float(world_model.usual_disagreement)
  )
  return write_version(path, version, signatures, "imagine", config)


def _encodes(world_model: WorldModel, specs: dict[str, tf.TensorSpec], spec: EnvSpec) -> bool:
  """Returns whether the model has outputs for the signature `encode`."""
  outputs = {}

  def encode(**inputs):
    outputs.update(world_model.encode_outputs(observation_of(inputs, spec)))

  tf.function(encode, autograph=False).get_concrete_function(**specs)
  return bool(outputs)


def _decoded(observation: ObservationSpec, mean: Any) -> Tensors:
  """Returns the outputs of `decode` for a mean observation of the world model."""
  outputs = {}
  parts = zip(input_names(observation), observation.parts, observation.unpack(mean), strict=True)
  for name, part, x in parts:
    if part.kind == "image":
      outputs[name] = to_uint8(x)
      outputs["mean" if observation.is_array else mean_name(name)] = x
    elif part.num_choices:
      outputs[name] = x
    else:
      outputs[name] = tf.reshape(x, [-1, *part.native_shape])
  return outputs


def _example_inputs(observation: ObservationSpec) -> Iterator[dict[str, np.ndarray]]:
  """Yields observations `[1, ...]` for warm-up requests: of the native size and of the agent's."""
  shapes = [accepted_shapes(part) for part in observation.parts]
  for i in range(max(map(len, shapes))):
    yield {
      name: _example(part, shape[min(i, len(shape) - 1)])
      for name, part, shape in zip(input_names(observation), observation.parts, shapes, strict=True)
    }


def _example(part, shape: tuple[int, ...]) -> np.ndarray:
  value = np.zeros(shape) if part.start is None else np.reshape(part.start, shape)
  return value[np.newaxis].astype(part.native_dtype)


def _zeros(specs: dict[str, tf.TensorSpec], but: set[str]) -> dict[str, np.ndarray]:
  """Returns an input `[1, ...]` of zeros for each spec, except for the names in `but`."""
  return {
    name: np.zeros([1, *spec.shape[1:]], spec.dtype.as_numpy_dtype)
    for name, spec in specs.items()
    if name not in but
  }


def _subset(inputs: dict[str, np.ndarray], specs) -> dict[str, np.ndarray]:
  return {name: x for name, x in inputs.items() if name in specs}
