"""The action space of a dream, and the conversion of its actions to those of a world model."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces

from wm_tf.core import ActionSpace


class DreamActions:
  """Converts actions of gymnasium to those of a world model.

  Continuous actions are `float32[A]` in [-1, 1]. Categorical actions are those of the environment
  (an integer, or an array of integers), which become one-hot groups.

  Attributes:
    space: gymnasium's space of one action.
  """

  def __init__(self, size: int, num_choices: tuple[int, ...], described: ActionSpace | None = None):
    """Makes the action space of a world model.

    Args:
      size: A, of the world model.
      num_choices: number of choices in each group of the world model's actions; empty if
        continuous.
      described: the action space of the real environment; None if unknown. Then one group is
        `Discrete`, several are `MultiDiscrete`, and choices are numbered from 0.

    Raises:
      ValueError: if the two do not agree.
    """
    num_choices = tuple(map(int, num_choices))
    if described is not None and (described.size, tuple(described.num_choices)) != (
      size,
      num_choices,
    ):
      raise ValueError(
        f"The world model takes actions of size {size} with choices {num_choices}, the action "
        f"space has size {described.size} with choices {tuple(described.num_choices)}."
      )
    self._size, self._num_choices = size, num_choices
    start = described.start if described is not None else None
    self._start = np.zeros(len(num_choices), np.int64) if start is None else np.asarray(start)
    self.space = self._make_space(described)

  def _make_space(self, described: ActionSpace | None) -> spaces.Space:
    if not self._num_choices:
      return spaces.Box(-1.0, 1.0, (self._size,), np.float32)
    num_groups = len(self._num_choices)
    kind = "discrete" if num_groups == 1 else "multi_discrete"
    shape, dtype = (num_groups,), np.dtype(np.int64)
    if described is not None:
      kind, shape, dtype = described.kind, described.shape, described.dtype
    if kind == "discrete":
      return spaces.Discrete(self._num_choices[0], start=int(self._start[0]))
    if kind == "multi_binary":
      return spaces.MultiBinary(shape[0] if len(shape) == 1 else shape)
    num_choices = np.reshape(self._num_choices, shape)
    return spaces.MultiDiscrete(num_choices, dtype=dtype, start=self._start.reshape(shape))

  def encode(self, actions: Any, used: np.ndarray) -> np.ndarray:
    """Converts a batch of actions.

    Args:
      actions: `[B, ...]`, each of the shape of `space`. Continuous ones are clipped to [-1, 1].
      used: `bool[B]`; actions of other rows are ignored.

    Returns:
      `float32[B, A]`: numbers in [-1, 1], or one-hot groups. Zeros in rows that are not used.

    Raises:
      ValueError: if an action has another shape, is not finite or is not a choice.
    """
    try:
      actions = np.asarray(actions)
    except ValueError:
      raise ValueError(f"Actions must be one array, each row in {self.space}.") from None
    expected = [len(used), *self.space.shape]
    if list(actions.shape) != expected:
      raise ValueError(f"Actions must have shape {expected}, not {list(actions.shape)}.")
    return self._choices(actions, used) if self._num_choices else self._numbers(actions, used)

  def _numbers(self, actions: np.ndarray, used: np.ndarray) -> np.ndarray:
    if actions.dtype.kind not in "fiub":
      raise ValueError(f"Actions must be numbers in {self.space}, not {actions.dtype}.")
    for row in np.flatnonzero(used & ~np.isfinite(actions).all(axis=1)):
      raise ValueError(f"The action {actions[row].tolist()} is not finite.")
    clipped = np.clip(actions.astype(np.float64), -1.0, 1.0)
    return np.where(used[:, np.newaxis], clipped, 0.0).astype(np.float32)

  def _choices(self, actions: np.ndarray, used: np.ndarray) -> np.ndarray:
    if actions.dtype.kind not in "iub":
      raise ValueError(f"Actions must be integers in {self.space}, not {actions.dtype}.")
    choices = actions.reshape(len(used), -1).astype(np.int64) - self._start
    inside = ((choices >= 0) & (choices < self._num_choices)).all(axis=1)
    for row in np.flatnonzero(used & ~inside):
      raise ValueError(f"The action {actions[row].tolist()} is not in {self.space}.")
    choices = np.where(used[:, np.newaxis], choices, 0)
    groups = [
      np.eye(size, dtype=np.float32)[choices[:, group]]
      for group, size in enumerate(self._num_choices)
    ]
    return np.concatenate(groups, axis=1) * used[:, np.newaxis]
