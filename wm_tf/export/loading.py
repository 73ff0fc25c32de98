"""Exported agents, loaded in this process."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from wm_tf import files
from wm_tf.core import Nest
from wm_tf.export.observations import described_observation, inputs_of
from wm_tf.export.spec_signature import zero_seed
from wm_tf.export.writing import saved_versions


def version_folder(path: str | os.PathLike) -> Path:
  """Returns the folder of a SavedModel: `path`, or its newest version if it is a base path.

  Raises:
    FileNotFoundError: if there is no SavedModel.
    DamagedFileError: if a file differs from the one that was exported.
  """
  path = Path(path).expanduser()
  if not (path / "saved_model.pb").exists():
    versions = saved_versions(path)
    if not versions or not (path / str(versions[-1]) / "saved_model.pb").exists():
      raise FileNotFoundError(
        f"{path} holds no SavedModel: neither saved_model.pb nor folders of versions."
      )
    path = path / str(versions[-1])
  if (path / files.SUMS).exists():
    for problem in files.check_sums(path):
      if problem.path.name != files.SUMS:  # Otherwise the sums themselves cannot be read.
        raise problem
  return path


class LoadedExport:
  """A SavedModel of this package with the signatures of its kind.

  Attributes:
    signatures: by name.
    spec: the parsed `json` of the signature `spec`: `EnvSpec` as a dict, and more.
    observation: describes the observation.
    input_names: the input for each part of the observation.
  """

  def __init__(self, path: str | os.PathLike, signatures: Iterable[str], kind: str):
    """Loads an export.

    Args:
      path: a version folder, or the base path, whose newest version is loaded.
      signatures: the names of those that it must have.
      kind: what it must be, for messages.

    Raises:
      FileNotFoundError: if there is no SavedModel.
      DamagedFileError: if a file differs from the one that was exported.
      ValueError: if it lacks a signature.
    """
    path = version_folder(path)
    # The loaded object must stay alive: its signatures do not own the variables.
    self._loaded = tf.saved_model.load(str(path))
    self.signatures = self._loaded.signatures
    for name in signatures:
      if name not in self.signatures:
        raise ValueError(
          f"{path} has no signature {name!r} but {sorted(self.signatures)}: it is not an exported "
          f"{kind}."
        )
    answer = self.signatures["spec"](seed=tf.constant(zero_seed()))
    self.spec: dict[str, Any] = json.loads(answer["json"].numpy()[0])
    self.observation, self.input_names = described_observation(self.spec)

  def inputs_of(self, observation: Nest, rows: int | None = None) -> dict[str, np.ndarray]:
    """Converts a batch of observations to inputs: see `wm_tf.export.observations.inputs_of`."""
    return inputs_of(self.observation, self.input_names, observation, rows)


class SavedModelActor:
  """A SavedModel of `wm_tf.export.export_agent` as an actor for collection and evaluation.

  Attributes:
    spec: what the export says of its environment: `EnvSpec` as a dict, and more.
  """

  def __init__(self, path: str | os.PathLike):
    """Loads an export.

    Args:
      path: a version folder, or the base path, whose newest version is loaded.

    Raises:
      FileNotFoundError: if there is no SavedModel.
      DamagedFileError: if a file differs from the one that was exported.
      ValueError: if it has no signature `act`.
    """
    self._export = LoadedExport(path, ("act", "initial_state", "spec"), "agent")
    self.spec = self._export.spec
    self._rows: int | None = None

  def begin(self, rows: int) -> None:
    """Starts new episodes in `rows` environments."""
    initial_state = self._export.signatures["initial_state"]
    self._fresh = initial_state(seed=tf.constant(zero_seed(rows)))
    self._state = dict(self._fresh)
    self._steps = np.zeros(rows, np.int64)
    self._rows = rows

  def act(self, observation: Nest, is_first, seeds, infos=None) -> np.ndarray:
    """Chooses the agent's actions.

    Args:
      observation: an array, or a dict of arrays by name of the part, `[B, ...]` each; as the agent
        sees them, or as the environment shows them.
      is_first: `bool[B]`, which rows begin an episode.
      seeds: `int64[B]`, the seeds of the episodes.
      infos: not used: an exported agent sees observations only.

    Returns:
      `float32[B, A]`: numbers in [-1, 1], or one-hot vectors.

    Raises:
      RuntimeError: if `begin` was not called.
      ValueError: if the observation has another shape or dtype, or is not finite.
    """
    del infos
    if self._rows is None:
      raise RuntimeError("Call begin(rows) first: it makes the state of the episodes.")
    inputs = self._export.inputs_of(observation, self._rows)
    is_first = np.asarray(is_first)
    self._steps = np.where(is_first, 0, self._steps + 1)
    seed = np.stack([np.asarray(seeds) & 0x7FFFFFFF, self._steps], axis=1).astype(np.int32)

    def restarted(name):
      old = self._state[name]
      mask = tf.reshape(is_first, [-1] + [1] * (old.shape.rank - 1))
      return tf.where(mask, self._fresh[name], old)

    state = {name: restarted(name) for name in self._state}
    tensors = {name: tf.constant(x) for name, x in inputs.items()}
    outputs = self._export.signatures["act"](**tensors, seed=tf.constant(seed), **state)
    self._state = {name: outputs[name] for name in state}
    return outputs["agent_action"].numpy()


def load_agent(path: str | os.PathLike) -> SavedModelActor:
  """Loads an exported agent, to be evaluated; see `SavedModelActor`."""
  return SavedModelActor(path)
