"""SavedModels of agents, found and driven with: what `wm_tf.export` wrote, read."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import tensorflow as tf

from wm_tf import files


def saved_versions(path: str | os.PathLike) -> list[int]:
  """The versions under a model's base path, in order."""
  return sorted(int(p.name) for p in Path(path).glob("*") if p.name.isdigit() and p.is_dir())


def version_folder(path: str | os.PathLike) -> Path:
  """The folder of a SavedModel: `path`, or its newest version if it is a base path.

  Raises:
    FileNotFoundError: if there is no SavedModel.
    DamagedFileError: if a file is not the one that was exported.
  """
  path = Path(path)
  if not (path / "saved_model.pb").exists():
    versions = saved_versions(path)
    if not versions or not (path / str(versions[-1]) / "saved_model.pb").exists():
      raise FileNotFoundError(
        f"{path} holds no SavedModel: neither saved_model.pb nor folders of versions."
      )
    path = path / str(versions[-1])
  if (path / files.SUMS).exists():
    for problem in files.check_sums(path):
      if problem.path.name != files.SUMS:  # Else it is the sums that cannot be read.
        raise problem
  return path


class SavedModelActor:
  """A SavedModel of `wm_tf.export.export_agent` as an actor for collection and evaluation.

  Attributes:
    spec: what the export says of its environment: `EnvSpec` as a dict, and more.
  """

  def __init__(self, path: str | os.PathLike):
    """Loads an export.

    Args:
      path: a version folder, or the base path, whose newest version is taken.

    Raises:
      FileNotFoundError: if there is no SavedModel.
      DamagedFileError: if a file is not the one that was exported.
      ValueError: if it has no signature `act`.
    """
    path = version_folder(path)
    # The loaded object must stay alive: its signatures do not own the variables.
    self._loaded = tf.saved_model.load(str(path))
    signatures = self._loaded.signatures
    for name in ("act", "initial_state", "spec"):
      if name not in signatures:
        raise ValueError(
          f"{path} has no signature {name!r} but {sorted(signatures)}: it is not an exported agent."
        )
    self._act, self._initial_state = signatures["act"], signatures["initial_state"]
    self.spec = json.loads(signatures["spec"](seed=_zero_seed(1))["json"].numpy()[0])

  def begin(self, rows: int) -> None:
    """Makes ready for `rows` environments."""
    self._fresh = self._initial_state(seed=_zero_seed(rows))
    self._state = dict(self._fresh)
    self._steps = np.zeros(rows, np.int64)

  def act(self, observation, is_first, seeds, infos=None) -> np.ndarray:
    """Actions `float32[B, A]` for frames `uint8[B, 64, 64, 3]`; `seeds` are the episodes'."""
    del infos  # It sees frames only.
    is_first = np.asarray(is_first)
    self._steps = np.where(is_first, 0, self._steps + 1)
    seed = np.stack([np.asarray(seeds) & 0x7FFFFFFF, self._steps], axis=1).astype(np.int32)
    mask = lambda x: tf.reshape(is_first, [-1] + [1] * (x.shape.rank - 1))
    state = {name: tf.where(mask(x), self._fresh[name], x) for name, x in self._state.items()}
    outputs = self._act(frame=tf.constant(observation), seed=tf.constant(seed), **state)
    self._state = {name: outputs[name] for name in state}
    return outputs["agent_action"].numpy()


def _zero_seed(rows: int) -> tf.Tensor:
  return tf.zeros([rows, 2], tf.int32)


def load_agent(path: str | os.PathLike) -> SavedModelActor:
  """An exported agent, ready to be evaluated; see `SavedModelActor`."""
  return SavedModelActor(path)
