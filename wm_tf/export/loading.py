"""Loads exported agents in this process."""

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
  """Returns the folder of a SavedModel, after a check of its files.

  Args:
    path: a version folder, or a base path, whose newest version is used.

  Returns:
    The version folder.

  Raises:
    FileNotFoundError: if there is no SavedModel.
    DamagedFileError: if a file differs from the exported one.
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
      if problem.path.name != files.SUMS:  # An unreadable list of checksums is not an error.
        raise problem
  return path


class LoadedExport:
  """A SavedModel of this package with the signatures of its kind.

  Attributes:
    signatures: the signatures by name.
    spec: the parsed `json` of the signature `spec`: an `EnvSpec` as a dict, and more.
    observation: describes the observation.
    input_names: the name of the input for each part of the observation.
  """

  def __init__(self, path: str | os.PathLike, signatures: Iterable[str], kind: str):
    """Loads an export.

    Args:
      path: a version folder, or a base path, whose newest version is loaded.
      signatures: the names of the required signatures.
      kind: the kind of export, for error messages.

    Raises:
      FileNotFoundError: if there is no SavedModel.
      DamagedFileError: if a file differs from the exported one.
      ValueError: if a signature is missing.
    """
    path = version_folder(path)
    # Keep the loaded object, because its signatures do not own the variables.
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
    """Converts a batch of observations to inputs. See `wm_tf.export.observations.inputs_of`."""
    return inputs_of(self.observation, self.input_names, observation, rows)


class SavedModelActor:
  """An `Actor` that runs a SavedModel of `wm_tf.export.export_agent`.

  Attributes:
    spec: the export's description of its environment: an `EnvSpec` as a dict, and more.
  """

  def __init__(self, path: str | os.PathLike):
    """Loads an export.

    Args:
      path: a version folder, or a base path, whose newest version is loaded.

    Raises:
      FileNotFoundError: if there is no SavedModel.
      DamagedFileError: if a file differs from the exported one.
      ValueError: if a signature of an agent, such as `act`, is missing.
    """
    self._export = LoadedExport(path, ("act", "initial_state", "spec"), "agent")
    self.spec = self._export.spec
    self._rows: int | None = None

  def begin(self, rows: int) -> None:
    """Begins new episodes.

    Args:
      rows: B, the number of environments.
    """
    initial_state = self._export.signatures["initial_state"]
    self._fresh = initial_state(seed=tf.constant(zero_seed(rows)))
    self._state = dict(self._fresh)
    self._steps = np.zeros(rows, np.int64)
    self._rows = rows

  def act(self, observation: Nest, is_first, seeds, infos=None) -> np.ndarray:
    """Chooses the agent's actions.

    Args:
      observation: an array, or a dict of arrays by name of the part, `[B, ...]` each, in the
        agent's or the environment's format.
      is_first: `bool[B]`, the rows that begin an episode.
      seeds: `int64[B]`, the seeds of the episodes.
      infos: ignored; an exported agent takes only observations.

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
  """Loads an exported agent as an actor for evaluation.

  Args:
    path: a version folder, or a base path, whose newest version is loaded.

  Returns:
    The actor.

  Raises:
    FileNotFoundError: if there is no SavedModel.
    DamagedFileError: if a file differs from the exported one.
    ValueError: if a signature of an agent is missing.
  """
  return SavedModelActor(path)
