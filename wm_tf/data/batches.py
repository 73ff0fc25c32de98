"""Batches of slices of episodes, in an order that is drawn before any data is read."""

from __future__ import annotations

import collections
import functools
import itertools
import threading
from collections.abc import Callable, Iterator
from concurrent import futures
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from wm_tf.core import Batch, Embedded
from wm_tf.data import observations, rollouts, rows
from wm_tf.data.sources import Source

_SHUFFLE_BYTES = 32 << 20
_AHEAD = 2  # The number of batches to read in advance.


class Windows(NamedTuple):
  """N slices of episodes.

  Attributes:
    episode: `int32[N]`, the index of the episode in a `Source`.
    first: `int32[N]`, the first step of the slice.
    count: `int32[N]`, the number of steps.
  """

  episode: np.ndarray
  first: np.ndarray
  count: np.ndarray


def batched(
  source: Source,
  windows: Windows,
  length: int | None,
  *,
  batch_size: int,
  rng: np.random.Generator | None,
  shuffle_buffer: int | None = None,
  drop_remainder: bool = False,
  fewest: int | None = None,
) -> tf.data.Dataset:
  """Shuffles slices of episodes and reads them in batches.

  Args:
    source: the episodes.
    windows: the slices, in the order of the source.
    length: T, to which slices are padded; None for single observations.
    batch_size: B.
    rng: draws the order; None keeps the order of `windows`.
    shuffle_buffer: the number of slices to decode and shuffle at a time, if the source must be
      decoded; None for 32 MiB.
    drop_remainder: whether to drop a last batch that is smaller, unless `fewest` is less than B.
    fewest: the smallest number of slices in any epoch; None if all epochs have the same number.

  Returns:
    A dataset of `Batch`, or of observations if `length` is None.
  """
  num = len(windows.count)
  drop_remainder = drop_remainder and (num if fewest is None else fewest) >= batch_size
  num_batches = num // batch_size if drop_remainder else -(-num // batch_size)
  size = rows.row_type(source.manifest).itemsize
  max_decoded = (length or 1) * shuffle_buffer if shuffle_buffer else _SHUFFLE_BYTES // size
  if rng is not None:
    group = np.zeros(len(source.steps), np.int32)
    if source.decodes:  # Shuffle groups of episodes, then the slices within each group.
      order = rng.permutation(len(group))
      group[order] = np.cumsum(source.steps[order], dtype=np.int64) // max(1, max_decoded)
    order = np.lexsort((rng.random(num, np.float32), group[windows.episode]))
    windows = Windows(*(values[order] for values in windows))
  spec = _spec(source, length, batch_size if drop_remainder else None)
  reader = _Reader(source, windows, length, batch_size, max_decoded)
  return _Located(reader, spec, range(num_batches))


def _spec(source: Source, length: int | None, batch_size: int | None) -> Any:
  manifest = source.manifest
  leading = [batch_size] if length is None else [batch_size, length]

  def field(dtype, *shape):
    return tf.TensorSpec([*leading, *shape], dtype)

  arrays = {name: field(dtype, *shape) for name, (shape, dtype) in manifest.arrays.items()}
  observation = observations.pack(arrays)
  if manifest.is_embedded:
    observation = Embedded(observation)
  if length is None:
    return observation
  return Batch(
    observation=observation,
    prev_action=field(tf.float32, manifest.action_size),
    reward=field(tf.float32),
    discount=field(tf.float32),
    is_first=field(tf.bool),
    mask=field(tf.bool),
  )


class _Reader:
  """Reads the batches of an epoch by index into one buffer of rows."""

  def __init__(
    self, source: Source, windows: Windows, length: int | None, batch_size: int, max_decoded: int
  ):
    """Prepares to read; see `batched`.

    Args:
      source, windows, length, batch_size: the slices to read.
      max_decoded: the number of steps of decoded episodes to keep in memory, in addition to the
        longest episode.
    """
    self._source, self._windows, self._length = source, windows, length
    self._batch_size = batch_size
    self._row = rows.row_type(source.manifest)
    # The order in which `tf.nest` flattens `_spec`.
    self._fields = [rows.observation_field(name) for name in source.manifest.arrays]
    if length is not None:
      self._fields += [name for name in Batch._fields if name not in ("observation", "mask")]
    self._files = rows.RowFiles([folder / shard.file for folder, shard, _ in source.shards])
    self._buffer = np.empty((min(batch_size, len(windows.count)), length or 1), self._row)
    self._padding = np.zeros((), self._row)
    self._padding["discount"] = 1.0
    # For each episode: the index of its shard, its index in the shard, and its first row.
    self._where = []
    for i, (_, shard, keep) in enumerate(source.shards):
      starts = itertools.accumulate((info.steps for info in shard.episodes), initial=0)
      numbered = zip(itertools.count(), starts, keep, strict=False)
      self._where += [(i, number, start) for number, start, keeps in numbered if keeps]
    self._is_rows = [rows.is_rows(shard) for _, shard, _ in source.shards]
    self._decoded: dict[int, np.ndarray] = {}  # Rows by episode, least recently used first.
    self._max_decoded = max_decoded + int(source.steps.max())
    self._lock = threading.Lock()

  def read(self, index: int, copy_fn: Callable[[np.ndarray], Any] = np.copy) -> list:
    """Returns the flat list of a batch's arrays, each copied out of the buffer by `copy_fn`."""
    with self._lock:
      return list(map(copy_fn, self._read(index)))

  def _read(self, index: int) -> list[np.ndarray]:
    part = slice(index * self._batch_size, (index + 1) * self._batch_size)
    episode, first, count = (values[part] for values in self._windows)
    buffer = self._buffer[: len(episode)]
    first_rows = []
    for row, e, f, n in zip(buffer, episode.tolist(), first.tolist(), count.tolist(), strict=True):
      shard, _, start = self._where[e]
      if self._is_rows[shard]:
        self._files.read(shard, start + f, row[:n])
      else:
        row[:n] = self._decode(e)[f : f + n]
      if n < len(row):
        row[n:] = self._padding
      first_rows.append(start + f)
    mask = np.arange(buffer.shape[1]) < count[:, None]
    if (bad := rows.find_bad(buffer, first_rows, mask)) is not None:
      i, step = bad
      shard = self._where[episode[i]][0]
      raise self._files.error(shard, first_rows[i] + step, self._row, rows.MISMATCH)
    if self._length is None:
      return [buffer[name][:, 0] for name in self._fields]
    return [*(buffer[name] for name in self._fields), mask]

  def _decode(self, episode: int) -> np.ndarray:
    found = self._decoded.pop(episode, None)
    if found is None:
      shard, number, start = self._where[episode]
      folder, shard, _ = self._source.shards[shard]
      room = self._max_decoded - shard.episodes[number].steps
      while self._decoded and sum(map(len, self._decoded.values())) > room:
        del self._decoded[next(iter(self._decoded))]
      decoded, _ = rollouts.read_episode(folder, self._source.manifest, shard, number)
      found = rows.pack(rows.align(decoded), self._row, start)
    self._decoded[episode] = found
    return found


class _Located(tf.data.Dataset):
  """A dataset whose errors name the file.

  `take` and `skip` return a dataset of the same class; skipped batches are not read. Direct
  iteration reads ahead in a thread, without TensorFlow. Other transformations convert the dataset
  to `tf.data` ops.
  """

  def __init__(self, reader: _Reader, spec: Any, batches: range):
    self._reader, self._spec, self._batches = reader, spec, batches
    super().__init__(None)

  def _inputs(self):
    return []

  @property
  def element_spec(self):
    return self._spec

  def cardinality(self):
    return tf.constant(len(self._batches), tf.int64)

  def take(self, count, name=None):
    return self._part(self._batches[: count if count >= 0 else None])

  def skip(self, count, name=None):
    return self._part(self._batches[count if count >= 0 else len(self._batches) :])

  def _part(self, batches: range) -> _Located:
    return _Located(self._reader, self._spec, batches)

  def __iter__(self) -> Iterator:
    return self._iterate() if tf.executing_eagerly() else iter(self._ops)

  def _iterate(self) -> Iterator:
    pool = futures.ThreadPoolExecutor(1)
    try:
      ahead = collections.deque()
      for index in self._batches:
        ahead.append(pool.submit(self._read, index))
        if len(ahead) > _AHEAD:
          yield ahead.popleft().result()
      while ahead:
        yield ahead.popleft().result()
    finally:
      pool.shutdown(cancel_futures=True)

  def _read(self, index: int) -> Any:
    # `tf.constant` copies the buffer; `tf.convert_to_tensor` may share its memory.
    return tf.nest.pack_sequence_as(self._spec, self._reader.read(index, tf.constant))

  @functools.cached_property
  def _ops(self) -> tf.data.Dataset:
    specs = tf.nest.flatten(self._spec)

    def read(index):
      values = tf.numpy_function(self._reader.read, [index], [s.dtype for s in specs])
      values = [tf.ensure_shape(v, s.shape) for v, s in zip(values, specs, strict=True)]
      return tf.nest.pack_sequence_as(self._spec, values)

    options = tf.data.Options()
    options.deterministic = True
    options.autotune.enabled = False  # Autotuning lets buffers grow to half of the memory.
    batches = tf.data.Dataset.range(self._batches.start, self._batches.stop)
    return batches.map(read).prefetch(_AHEAD).with_options(options)

  @property
  def _variant_tensor(self):
    return self._ops._variant_tensor
