"""A replay buffer: the latest steps of growing streams of episodes, in memory."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from wm_tf.core import Batch


class Replay:
  """Holds the latest steps of some streams of episodes, and draws windows of them.

  Episodes follow each other in a stream, and a window may contain the end of one and the start of
  the next: `is_first` marks the start. Memory is allocated once, at the first step.

  Attributes:
    capacity: largest number of steps of each stream.
  """

  def __init__(self, capacity: int, num_streams: int = 1, newest: bool = True):
    """Makes an empty buffer.

    Args:
      capacity: largest number of steps in all; older ones are overwritten.
      num_streams: number of streams, which have equal shares of the capacity.
      newest: whether `draw` always returns the newest window of each stream.
    """
    self.capacity = capacity // num_streams
    self._num_streams, self._newest = num_streams, newest
    self._steps: Batch | None = None  # Stream after stream.
    self._counts = np.zeros(num_streams, np.int64)  # Steps that were ever added.

  def __len__(self) -> int:
    """Returns the number of steps that are held."""
    return int(self._held().sum())

  def add(self, steps: Batch, stream: int = 0) -> None:
    """Appends steps to a stream.

    Args:
      steps: NumPy arrays `[T, ...]` in arrival alignment.
      stream: the index of the stream.
    """
    if self._steps is None:
      size = self.capacity * self._num_streams
      self._steps = tf.nest.map_structure(lambda x: np.zeros((size, *x.shape[1:]), x.dtype), steps)
    num, count = len(steps.reward), self._counts[stream]
    positions = np.arange(count, count + num)[-self.capacity :]
    index = self._index(stream, positions)

    def write(ring, values):
      ring[index] = values[-self.capacity :]

    tf.nest.map_structure(write, self._steps, steps)
    self._counts[stream] += num

  def draw(self, generator: np.random.Generator, batch_size: int, length: int) -> Batch:
    """Draws windows uniformly; with `newest`, the first rows are the newest of each stream.

    The newest steps are thereby learned from at once (Hafner et al. 2023, arXiv:2301.04104,
    appendix "Replay buffer").

    Args:
      generator: the source of randomness.
      batch_size: B.
      length: T.

    Returns:
      A batch of NumPy arrays `[B, T, ...]`.

    Raises:
      ValueError: if no stream has T steps.
    """
    held = self._held()
    num_windows = np.maximum(held - length + 1, 0)
    ends = np.cumsum(num_windows)
    if not ends[-1]:
      raise ValueError(f"The streams hold {held.tolist()} steps, and a window has {length}.")
    window = generator.integers(0, ends[-1], batch_size)
    if self._newest:
      newest = (ends - 1)[num_windows > 0][:batch_size]
      window[: len(newest)] = newest
    stream = np.searchsorted(ends, window, side="right")
    # A window's number within its stream, then the position of its first step in the stream.
    first = window - (ends - num_windows)[stream] + (self._counts - held)[stream]
    return self._at(stream[:, np.newaxis], first[:, np.newaxis] + np.arange(length))

  def all(self) -> Batch:
    """Returns all steps that are held as one row, `[1, T, ...]`, the oldest of a stream first."""
    held = self._held()
    positions = [
      np.arange(count - num, count) for count, num in zip(self._counts, held, strict=True)
    ]
    stream = np.repeat(np.arange(self._num_streams), held)
    return self._at(stream[np.newaxis], np.concatenate(positions)[np.newaxis])

  def _held(self) -> np.ndarray:
    return np.minimum(self._counts, self.capacity)

  def _index(self, stream, positions: np.ndarray) -> np.ndarray:
    return stream * self.capacity + positions % self.capacity

  def _at(self, stream, positions: np.ndarray) -> Batch:
    index = self._index(stream, positions)
    return tf.nest.map_structure(lambda ring: ring[index], self._steps)
