"""A replay buffer: the latest steps of a growing stream of episodes, in memory."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from wm_tf.core import Batch, Episode
from wm_tf.data.rows import align


class Replay:
  """Holds the latest steps of a stream of episodes, and draws windows of them.

  Episodes follow each other in the stream, and a window may contain the end of one and the start of
  the next: `is_first` marks the start. Memory is allocated once, at the first episode.

  Attributes:
    capacity: largest number of steps.
  """

  def __init__(self, capacity: int):
    """Makes an empty buffer.

    Args:
      capacity: largest number of steps; older ones are overwritten.
    """
    self.capacity = capacity
    self._steps: Batch | None = None
    self._count = 0  # Steps that were ever added.

  def __len__(self) -> int:
    """Returns the number of steps that are held."""
    return min(self._count, self.capacity)

  def add(self, episode: Episode) -> None:
    """Appends an episode.

    Args:
      episode: NumPy arrays `[T, ...]`.
    """
    steps = align(episode)
    if self._steps is None:
      self._steps = tf.nest.map_structure(
        lambda x: np.zeros((self.capacity, *x.shape[1:]), x.dtype), steps
      )
    num = len(steps.reward)
    index = np.arange(self._count, self._count + num)[-self.capacity :] % self.capacity

    def write(ring, values):
      ring[index] = values[-self.capacity :]

    tf.nest.map_structure(write, self._steps, steps)
    self._count += num

  def draw(self, generator: np.random.Generator, batch_size: int, length: int) -> Batch:
    """Draws windows uniformly; the first row is always the newest window.

    The newest steps are thereby learned from at once (Hafner et al. 2023, arXiv:2301.04104,
    appendix "Replay buffer").

    Args:
      generator: the source of randomness.
      batch_size: B.
      length: T.

    Returns:
      A batch of NumPy arrays `[B, T, ...]`.

    Raises:
      ValueError: if fewer than T steps are held.
    """
    held = len(self)
    if held < length:
      raise ValueError(f"The replay buffer holds {held} steps, and a window has {length}.")
    oldest = self._count - held
    start = oldest + generator.integers(0, held - length + 1, batch_size)
    start[0] = self._count - length
    return self._at(start[:, np.newaxis] + np.arange(length))

  def all(self) -> Batch:
    """Returns all steps that are held as one row, `[1, T, ...]`, the oldest first."""
    return self._at(np.arange(self._count - len(self), self._count)[np.newaxis])

  def _at(self, positions: np.ndarray) -> Batch:
    return tf.nest.map_structure(lambda ring: ring[positions % self.capacity], self._steps)
