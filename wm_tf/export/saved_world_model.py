"""An exported world model, which runs without the code and the configuration that made it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from wm_tf.core import ActionSpace, Nest, Prediction
from wm_tf.export.conversions import mean_name
from wm_tf.export.loading import LoadedExport
from wm_tf.export.state import Tensors

_SIGNATURES = ("decode", "imagine", "initial_state", "observe", "spec")


class SavedWorldModel:
  """Those methods of `WorldModel` that a SavedModel of `export_world_model` supports.

  A state is a dict of tensors by name. `features` are not exported; this class uses the state's
  tensors, flattened and concatenated in the order of their names.

  Attributes:
    spec: the export's description of its environment: an `EnvSpec` as a dict, and more.
    observation: describes the observation.
    action_space: describes the action.
    action_size: see `WorldModel`.
    feature_size: F, the number of elements of all state tensors of a row.
    num_choices: see `WorldModel`.
    max_decisions: see `EnvSpec`.
  """

  def __init__(self, path: str | os.PathLike):
    """Loads an export.

    Args:
      path: a version folder, or a base path, whose newest version is loaded.

    Raises:
      FileNotFoundError: if there is no SavedModel.
      DamagedFileError: if a file differs from the exported one.
      ValueError: if the SavedModel is not an exported world model.
    """
    self._export = LoadedExport(path, _SIGNATURES, "world model")
    self._signatures = self._export.signatures
    self.spec, self.observation = self._export.spec, self._export.observation
    self.action_space = _described_actions(self.spec["action_space"])
    self.action_size = self.action_space.size
    self.num_choices = self.action_space.num_choices
    frames = self.spec["max_steps"] - self.spec["frames_to_skip"]
    self.max_decisions = -(-frames // self.spec["action_repeat"])
    shapes = [tensor["shape"] for tensor in self.spec["state"].values()]
    self.feature_size = int(sum(np.prod(shape) for shape in shapes))
    _, keywords = self._signatures["decode"].structured_input_signature
    self._decode_inputs = sorted(keywords)

  def initial_state(self, batch_size) -> Tensors:
    """Returns the state before any observation. See `WorldModel.initial_state`."""
    return self._signatures["initial_state"](seed=tf.zeros([batch_size, 2], tf.int32))

  def features(self, state: Tensors) -> tf.Tensor:
    """Returns the concatenated state tensors, `float32[B, F]`. See `WorldModel.features`."""
    rows = tf.shape(next(iter(state.values())))[0]
    flat = [tf.cast(tf.reshape(state[name], [rows, -1]), tf.float32) for name in sorted(state)]
    return tf.ensure_shape(tf.concat(flat, axis=-1), [None, self.feature_size])

  def decode(self, state: Tensors) -> Nest:
    """Returns the mean observation of a state. See `WorldModel.decode`."""
    outputs = self._signatures["decode"](**{name: state[name] for name in self._decode_inputs})
    values = []
    for name, part in zip(self._export.input_names, self.observation.parts, strict=True):
      if part.kind == "image":
        values.append(outputs["mean" if self.observation.is_array else mean_name(name)])
      else:
        values.append(tf.reshape(outputs[name], [-1, *part.shape]))
    return self.observation.pack(values)

  def observe(
    self, state: Tensors, prev_action, observation: Nest, is_first, seed: tf.Tensor
  ) -> Tensors:
    """Moves the state along a real step. See `WorldModel.observe`.

    Args:
      state: of B rows.
      prev_action: `float32[B, A]`.
      observation: an array, or a dict of arrays by name of the part, `[B, ...]` each, in the
        agent's or the environment's format.
      is_first: `bool[B]`.
      seed: `int32[B, 2]`, one seed for each row.

    Returns:
      The next state.

    Raises:
      ValueError: if the observation has another shape or dtype, or is not finite.
    """
    rows = len(next(iter(state.values())))
    inputs = self._export.inputs_of(observation, rows)
    return self._signatures["observe"](
      prev_action=prev_action,
      is_first=is_first,
      seed=seed,
      **{name: tf.constant(x) for name, x in inputs.items()},
      **state,
    )

  def imagine(self, state: Tensors, action, seed, temperature=1.0) -> Prediction:
    """Moves the state along an imagined step. See `WorldModel.imagine`.

    Args:
      state: of B rows.
      action: `float32[B, A]`.
      seed: `int32[B, 2]`, one seed for each row.
      temperature: scalar or `float32[B]`.

    Returns:
      The prediction for the step.
    """
    temperature = tf.broadcast_to(tf.cast(temperature, tf.float32), tf.shape(action)[:1])
    found = self._signatures["imagine"](action=action, seed=seed, temperature=temperature, **state)
    return Prediction(
      {name: found[name] for name in state},
      *(found[name] for name in ("reward", "discount", "disagreement")),
    )

  def unfamiliarity(self, disagreement: tf.Tensor) -> tf.Tensor:
    """Returns how far the disagreement exceeds its usual level on the data.

    See `WorldModel.unfamiliarity`.
    """
    return tf.nn.relu(disagreement - self.spec.get("usual_disagreement", 0.0))


def _described_actions(described: Mapping[str, Any]) -> ActionSpace:
  """Reads the description of the action space from the `json` of the signature `spec`."""
  fields = {
    key: tuple(x) if isinstance(x, list) else x
    for key, x in described.items()
    if key in ActionSpace._fields
  }
  for name in ("matrix", "offset", "low", "high"):
    if fields.get(name) is not None:
      fields[name] = np.asarray(fields[name], np.float32)
  return ActionSpace(**fields)


def first_states(model: SavedWorldModel, observation: Nest) -> Tensors:
  """Returns the states after the first observations of S episodes.

  Args:
    model: the world model.
    observation: an array, or a dict of arrays by name of the part, `[S, ...]` each.

  Raises:
    ValueError: if the observation has another shape or dtype, or is not finite.
  """
  rows = len(next(iter(observation.values())) if isinstance(observation, dict) else observation)
  return model.observe(
    model.initial_state(rows),
    tf.zeros([rows, model.action_size]),
    observation,
    tf.ones([rows], tf.bool),
    tf.zeros([rows, 2], tf.int32),
  )
