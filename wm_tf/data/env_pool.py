"""A pool of environments, each in its own worker process."""

from __future__ import annotations

import contextlib
import os
import pickle
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from multiprocessing import Pipe, connection
from typing import Any, NamedTuple

import numpy as np

from wm_tf.core import EnvSpec, Nest
from wm_tf.data.env_worker import WorkerTraceback
from wm_tf.data.recording import array_specs


class WorkerError(RuntimeError):
  """Environment workers keep dying. The message contains the last worker's traceback."""


class Reply(NamedTuple):
  """A worker's reply to `reset` or `step`.

  Attributes:
    observation: one array or a dict of arrays, without a batch dimension.
    reward: the reward of the step; 0 after `reset`.
    terminated: whether the episode ended in a terminal state.
    truncated: whether the episode was cut off.
    info: the environment's `info`.
  """

  observation: Nest
  reward: float
  terminated: bool
  truncated: bool
  info: dict[str, Any]


class _Worker:
  """One worker process and its open request, if any."""

  def __init__(self, factory: bytes, timeout: float, start_timeout: float):
    ours, theirs = Pipe()
    # The worker's output is shown only if it dies.
    self._output = tempfile.TemporaryFile()  # noqa: SIM115
    # The worker searches the same folders for imports as this process, and not the working
    # directory first.
    path = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
    variables = {"PYTHONPATH": path, "PYTHONSAFEPATH": "1", "OMP_NUM_THREADS": "1"}
    with theirs:
      self._process = subprocess.Popen(
        [sys.executable, "-m", "wm_tf.data.env_worker", str(theirs.fileno())],
        pass_fds=[theirs.fileno()],
        stdin=subprocess.DEVNULL,
        stdout=self._output,
        stderr=self._output,
        env={**os.environ, **variables},
      )
    self.connection = ours
    self.timeout = timeout
    self.busy = True  # The worker is starting.
    self._overdue = False
    self.deadline = time.monotonic() + start_timeout
    self._send((factory, timeout))

  @property
  def pid(self) -> int:
    return self._process.pid

  def request(self, kind: str, argument) -> None:
    self.busy, self.deadline = True, time.monotonic() + 1.5 * self.timeout + 1.0
    self._send((kind, argument))

  def _send(self, message) -> None:
    # If the worker is dead, `read` raises the error.
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
      self.connection.send(message)

  def read(self):
    """Returns the reply that has arrived.

    Raises:
      WorkerError: if the worker is dead instead.
    """
    self.busy = False
    try:
      answer = self.connection.recv()
    except (EOFError, OSError):
      code = self._end(5.0)
      how = f"ended by signal {-code}" if code < 0 else f"ended with exit code {code}"
      if self._overdue:
        how = "did not answer in time"
      raise WorkerError(f"An environment worker {how}. {self._last_output()}") from None
    if isinstance(answer, WorkerTraceback):
      raise WorkerError(f"An environment failed:\n{answer}")
    return answer

  def _last_output(self) -> str:
    size = self._output.seek(0, os.SEEK_END)
    self._output.seek(max(0, size - 4000))
    text = self._output.read().decode(errors="replace").strip()
    return f"Its last output:\n{text}" if text else "It printed nothing."

  def give_up(self) -> None:
    """Kills a process that does not reply; `read` then raises the error."""
    self._overdue = True
    self._process.kill()

  def close(self) -> None:
    """Ends the process. An idle one exits when the connection is closed; a busy one is killed."""
    self.connection.close()
    self._end(0.0 if self.busy else 5.0)
    self._output.close()

  def _end(self, patience: float) -> int:
    """Waits `patience` seconds for the process to end, then kills it; returns its exit code."""
    try:
      return self._process.wait(patience)
    except subprocess.TimeoutExpired:
      self._process.kill()
      return self._process.wait()


class EnvPool:
  """Environments in worker processes, one for each process. The workers do not import TensorFlow.

  The pool is a context manager. `reset` and `step` send a request to a row, which can have one open
  request at a time. `poll` returns the replies. A worker that dies or hangs is replaced, and `poll`
  reports this once.

  An environment has `spec_` (an `EnvSpec`), `reset(seed=)` and `step(action)` as in gymnasium, and
  `close()`. Its `info` contains `frames`, the number of environment frames since the reset, and
  `episode_return`, the official return so far.

  Attributes:
    num_workers: B, the number of rows.
    spec: the environments' `EnvSpec`.
    array_specs: the shape and dtype of each array of an observation, by name.
    num_replaced: the number of workers replaced so far.
  """

  def __init__(
    self,
    make_env_fn: Callable[[], Any],
    num_workers: int,
    *,
    timeout: float = 60.0,
    start_timeout: float = 120.0,
  ):
    """Starts the workers.

    Args:
      make_env_fn: builds an environment; picklable, such as `functools.partial(make_env,
        "car_racing")`.
      num_workers: B, the number of workers.
      timeout: seconds after which a reset or a step counts as hung.
      start_timeout: seconds that importing and building an environment may take.

    Raises:
      TypeError: if `make_env_fn` cannot be sent to another process.
      WorkerError: if environments cannot be built.
    """
    try:
      self._factory = pickle.dumps(make_env_fn)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
      raise TypeError(
        f"make_env_fn {make_env_fn!r} cannot be sent to a worker process ({error}); use a function "
        'of an importable module, such as functools.partial(make_env, "car_racing").'
      ) from error
    self._timeouts = timeout, start_timeout
    self.num_workers = num_workers
    self.num_replaced = 0
    self._workers: list[_Worker] = []
    try:
      self._workers.extend(self._start() for _ in range(num_workers))
      specs = [self._wait(worker) for worker in self._workers]
      self.spec: EnvSpec = specs[0]
      self.array_specs = array_specs(self.spec)
    except BaseException:
      self.close()
      raise

  def _start(self) -> _Worker:
    return _Worker(self._factory, *self._timeouts)

  def _wait(self, worker: _Worker):
    if not worker.connection.poll(max(0.0, worker.deadline - time.monotonic())):
      worker.give_up()
    return worker.read()

  @property
  def pids(self) -> list[int]:
    """The process ids of the workers, by row."""
    return [worker.pid for worker in self._workers]

  def reset(self, row: int, seed: int) -> None:
    """Sends a request to begin an episode.

    Args:
      row: the index of the environment.
      seed: the environment's seed.
    """
    self._workers[row].request("reset", int(seed))

  def step(self, row: int, action: np.ndarray) -> None:
    """Sends an action to an environment.

    Args:
      row: the index of the environment.
      action: `float32[A]`.
    """
    self._workers[row].request("step", action)

  def poll(self) -> list[tuple[int, Reply | WorkerError]]:
    """Waits until at least one request has a reply.

    Returns:
      A list of `(row, reply)`. A `WorkerError` instead of a `Reply` means that the row's worker
      died and was replaced, and that its episode is lost.

    Raises:
      ValueError: if no request is open.
      WorkerError: if a worker's replacements keep dying.
    """
    busy = {w.connection: row for row, w in enumerate(self._workers) if w.busy}
    if not busy:
      raise ValueError("No request is open; call reset() or step() first.")
    wait = max(0.0, min(self._workers[row].deadline for row in busy.values()) - time.monotonic())
    ready = connection.wait(list(busy), wait)
    if not ready:  # The worker's own watchdog has failed to end it in time.
      now = time.monotonic()
      ready = [c for c, row in busy.items() if self._workers[row].deadline <= now]
      for conn in ready:
        self._workers[busy[conn]].give_up()
    answers = []
    for conn in ready:
      row = busy[conn]
      try:
        answers.append((row, Reply(*self._workers[row].read())))
      except WorkerError as error:
        self._replace(row)
        answers.append((row, error))
    return answers

  def _replace(self, row: int) -> None:
    for last in (False, False, True):  # A replacement may die from the same cause.
      self._workers[row].close()
      self.num_replaced += 1
      self._workers[row] = self._start()
      try:
        self._wait(self._workers[row])
        return
      except WorkerError:
        if last:
          raise

  def drain(self) -> None:
    """Waits for the replies to open requests and discards them."""
    while any(worker.busy for worker in self._workers):
      self.poll()

  def close(self) -> None:
    """Ends the workers."""
    for worker in self._workers:
      worker.connection.close()
    for worker in self._workers:
      worker.close()
    self._workers = []

  def __enter__(self) -> EnvPool:
    return self

  def __exit__(self, *_) -> None:
    self.close()
