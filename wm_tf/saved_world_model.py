"""An exported world model, to dream in without the code or the configuration that made it."""

from __future__ import annotations

import json
import os

import numpy as np
import tensorflow as tf

from wm_tf.core import Prediction
from wm_tf.export import Tensors, version_folder

_SIGNATURES = ("decode", "imagine", "initial_state", "observe", "spec")


class SavedWorldModel:
  """The part of `WorldModel` that a SavedModel of `export_world_model` can be.

  A state is a dict of its tensors by name. `features` are not exported: here they are the state's
  tensors, flat and side by side in the order of their names.

  Attributes:
    spec: what the export says of its environment: `EnvSpec` as a dict, and more.
    action_size, feature_size: as of `WorldModel`.
    max_decisions: as of `EnvSpec`.
  """

  def __init__(self, path: str | os.PathLike):
    """Loads an export.

    Args:
      path: a version folder, or the base path, whose newest version is taken.

    Raises:
      FileNotFoundError: if there is no SavedModel.
      ValueError: if it is not an exported world model.
    """
    path = version_folder(path)
    # The loaded object must stay alive: its signatures do not own the variables.
    self._loaded = tf.saved_model.load(str(path))
    self._signatures = self._loaded.signatures
    for name in _SIGNATURES:
      if name not in self._signatures:
        raise ValueError(
          f"{path} has no signature {name!r} but {sorted(self._signatures)}: it is not an exported "
          "world model."
        )
    answer = self._signatures["spec"](seed=tf.zeros([1, 2], tf.int32))
    self.spec = json.loads(answer["json"].numpy()[0])
    self.action_size = len(self.spec["action_space"]["names"])
    frames = self.spec["max_steps"] - self.spec["frames_to_skip"]
    self.max_decisions = -(-frames // self.spec["action_repeat"])
    shapes = [tensor["shape"] for tensor in self.spec["state"].values()]
    self.feature_size = int(sum(np.prod(shape) for shape in shapes))
    _, keywords = self._signatures["decode"].structured_input_signature
    self._decoded = sorted(keywords)

  def initial_state(self, batch_size) -> Tensors:
    return self._signatures["initial_state"](seed=tf.zeros([batch_size, 2], tf.int32))

  def features(self, state: Tensors) -> tf.Tensor:
    rows = tf.shape(next(iter(state.values())))[0]
    flat = [tf.reshape(state[name], [rows, -1]) for name in sorted(state)]
    return tf.ensure_shape(tf.concat(flat, axis=-1), [None, self.feature_size])

  def decode(self, state: Tensors) -> tf.Tensor:
    return self._signatures["decode"](**{name: state[name] for name in self._decoded})["mean"]

  def observe(self, state: Tensors, prev_action, observation, is_first, seed) -> Tensors:
    """As `WorldModel.observe`, of frames only, with one seed per row (`int32[B, 2]`)."""
    return self._signatures["observe"](
      prev_action=prev_action, frame=observation, is_first=is_first, seed=seed, **state
    )

  def imagine(self, state: Tensors, action, seed, temperature=1.0) -> Prediction:
    """As `WorldModel.imagine`, with one seed per row (`int32[B, 2]`)."""
    temperature = tf.broadcast_to(tf.cast(temperature, tf.float32), tf.shape(action)[:1])
    found = self._signatures["imagine"](action=action, seed=seed, temperature=temperature, **state)
    return Prediction(
      {name: found[name] for name in state},
      *(found[name] for name in ("reward", "discount", "disagreement")),
    )

  def unfamiliarity(self, disagreement: tf.Tensor) -> tf.Tensor:
    """As `WorldModel.unfamiliarity`."""
    return tf.nn.relu(disagreement - self.spec.get("usual_disagreement", 0.0))


def first_states(model: SavedWorldModel, frames: np.ndarray) -> Tensors:
  """The states after the first frames of S episodes, `uint8[S, H, W, 3]`."""
  rows = len(frames)
  return model.observe(
    model.initial_state(rows),
    tf.zeros([rows, model.action_size]),
    tf.constant(frames),
    tf.ones([rows], tf.bool),
    tf.zeros([rows, 2], tf.int32),
  )
