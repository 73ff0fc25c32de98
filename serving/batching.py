"""Combines concurrent calls into one run, along the leading dimension.

There are no extra threads. The thread of a batch's first call waits until the batch is full or its
timeout has passed, and then for a free slot. More calls may join the batch during both waits. Then
the thread runs the batch and distributes the results. Without a timeout, a server with free slots
adds no delay, and a busy one combines all calls that arrive while it waits for a slot.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence

import grpc
import numpy as np

from serving.config import BatchingParameters, ConfigError
from serving.errors import RUN_ERRORS, ServingError, invalid
from serving.model import Run


class Batcher:
  """Wraps the functions that run signatures. All models of a server share one, and its slots.

  Attributes:
    max_size: the maximal number of rows in a batch.
    timeout: the longest time to wait for a full batch, in seconds.
    max_waiting: the maximal number of waiting batches for each set of feeds and fetches.
    allowed_sizes: the sizes to which batches are padded, in increasing order; empty for no padding.
    slots: semaphore that limits the number of batches that run at once.
  """

  def __init__(self, parameters: BatchingParameters):
    """
    Args:
      parameters: the official server's parameters; unset fields have its defaults. Calls with
        tensors of different shapes go to different batches and are not padded.

    Raises:
      ConfigError: if the parameters contradict each other, or are not supported.
    """

    def given(name, default):
      return getattr(parameters, name).value if parameters.HasField(name) else default

    self.max_size = given("max_batch_size", 1000)
    self.timeout = given("batch_timeout_micros", 0) / 1e6
    self.max_waiting = given("max_enqueued_batches", 10)
    threads = given("num_batch_threads", os.cpu_count() or 1)
    self.allowed_sizes = tuple(parameters.allowed_batch_sizes)
    if self.max_size < 1 or threads < 1 or self.max_waiting < 1 or self.timeout < 0:
      raise ConfigError("max_batch_size, num_batch_threads and max_enqueued_batches must be >= 1")
    if self.allowed_sizes and (
      list(self.allowed_sizes) != sorted(set(self.allowed_sizes))
      or self.allowed_sizes[-1] != self.max_size
    ):
      raise ConfigError("allowed_batch_sizes must increase and end with max_batch_size")
    if parameters.pad_variable_length_inputs or given("enable_large_batch_splitting", False):
      raise ConfigError(
        "pad_variable_length_inputs and enable_large_batch_splitting are not supported"
      )
    self.slots = threading.Semaphore(threads)

  def wrap(self, run: Run) -> Run:
    """Makes a function that runs a signature combine concurrent calls.

    Args:
      run: maps feeds to fetches. All of them have the same leading dimension.

    Returns:
      A function with the arguments and results of `run`. It raises ServingError if the feeds are
      scalars or differ in their leading dimension, or if too many batches wait for a slot.
    """
    return _Queue(self, run)


class _Batch:
  """Calls whose tensors have the same dtypes, and the same shapes except for the number of rows."""

  def __init__(self):
    self.calls: list[_Call] = []
    self.size = 0
    self.full = threading.Event()


class _Call:
  def __init__(self, feeds: Sequence[np.ndarray], size: int):
    self.feeds, self.size = feeds, size
    self.values: Sequence[np.ndarray] | None = None
    self.error: Exception | None = None
    self.done = threading.Event()


class _Queue:
  """The batches of calls with the same feeds and fetches."""

  def __init__(self, batcher: Batcher, run: Run):
    self._batcher, self._run = batcher, run
    self._lock = threading.Lock()
    self._open: dict[tuple, _Batch] = {}
    self._waiting = 0

  def __call__(self, *feeds: np.ndarray) -> Sequence[np.ndarray]:
    if not feeds:
      return self._run()
    call = _Call(feeds, self._size(feeds))
    key = tuple((x.dtype, x.shape[1:]) for x in feeds)
    batch, leads = self._join(key, call)
    if leads:
      self._lead(key, batch)
    call.done.wait()
    if call.error is not None:
      raise call.error
    return call.values

  def _size(self, feeds) -> int:
    if any(not x.ndim for x in feeds):
      raise invalid("Batching Run() input tensors must have at least one dimension.")
    sizes = {len(x) for x in feeds}
    if len(sizes) > 1:
      raise invalid("Batching Run() input tensors must have equal 0th-dimension size.")
    (size,) = sizes
    if size > self._batcher.max_size:
      raise invalid(
        f"Task size {size} is larger than maximum input batch size {self._batcher.max_size}"
      )
    return size

  def _join(self, key: tuple, call: _Call) -> tuple[_Batch, bool]:
    """Adds a call to an open batch of its shapes, or to a new one; returns whether it is new."""
    with self._lock:
      batch = self._open.get(key)
      leads = batch is None or batch.size + call.size > self._batcher.max_size
      if leads:
        if self._waiting >= self._batcher.max_waiting:
          raise ServingError(
            grpc.StatusCode.UNAVAILABLE,
            "The batch scheduling queue to which this task was submitted is full; currently"
            f" {self._waiting} batches enqueued and max_enqueued_batches is"
            f" {self._batcher.max_waiting}",
          )
        if batch is not None:
          batch.full.set()
        batch = self._open[key] = _Batch()
        self._waiting += 1
      batch.calls.append(call)
      batch.size += call.size
      if batch.size == self._batcher.max_size:
        batch.full.set()
      return batch, leads

  def _lead(self, key: tuple, batch: _Batch) -> None:
    if self._batcher.timeout:
      batch.full.wait(self._batcher.timeout)
    with self._batcher.slots:
      with self._lock:  # After this, no call joins the batch.
        self._waiting -= 1
        if self._open.get(key) is batch:
          del self._open[key]
      try:
        self._run_all(batch)
      except Exception as error:
        self._run_each(batch, error)
      finally:
        for call in batch.calls:
          call.done.set()

  def _run_all(self, batch: _Batch) -> None:
    calls = batch.calls
    missing = self._padding(batch.size)
    if len(calls) == 1 and not missing:
      calls[0].values = self._run(*calls[0].feeds)
      return
    feeds = []
    for parts in zip(*(call.feeds for call in calls), strict=True):
      padding = [np.repeat(parts[0][:1], missing, 0)] if missing else []
      feeds.append(np.concatenate([*parts, *padding]))
    values = self._run(*feeds)
    if any(not np.ndim(x) or len(x) != batch.size + missing for x in values):
      raise ServingError(
        grpc.StatusCode.FAILED_PRECONDITION,
        "Batched output tensor's 0th dimension does not equal the sum of the 0th dimension sizes of"
        " the input tensors",
      )
    start = 0
    for call in calls:
      call.values = [x[start : start + call.size] for x in values]
      start += call.size

  def _run_each(self, batch: _Batch, error: Exception) -> None:
    """Sets the error of all calls; if only one of them may be invalid, runs each separately."""
    for call in batch.calls:
      call.error = error
      if len(batch.calls) > 1 and isinstance(error, RUN_ERRORS):
        try:
          call.values, call.error = self._run(*call.feeds), None
        except Exception as own:
          call.error = own

  def _padding(self, size: int) -> int:
    """Returns the number of rows to add to reach an allowed size."""
    fitting = [allowed for allowed in self._batcher.allowed_sizes if allowed >= size]
    return fitting[0] - size if fitting and size else 0
