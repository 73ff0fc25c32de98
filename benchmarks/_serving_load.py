"""Closed-loop clients, each in a process of its own, against a served planner or controller.

No TensorFlow in here: the clients must be light, since they share the machine with the server.
"""

from __future__ import annotations

import collections
import dataclasses
import multiprocessing
import queue
import time
import traceback

import numpy as np

from serving.client import CallError, PlannerClient, Retry
from wm_tf.envs import make_env, make_heuristic

_WARM_UP = 120.0  # Seconds; the first call of a planner compiles it, with or without the others.
_PAUSE_AFTER_ERROR = 0.01  # Seconds; or a server that is away would be asked 10,000 times.


@dataclasses.dataclass(frozen=True)
class Load:
  """What to send.

  Attributes:
    target: `host:port`.
    model: the name under which it is served.
    clients: processes, each with one call in flight.
    seconds: for how long.
    rows: environments of each client, in one batched call.
    frames: `recorded` (a drive of the scripted driver, over and over), `episodes` (each client acts
      in real environments), or `noise`.
    timeout: seconds, of each call.
    attempts: 1 shows every failure; more is what an application would do.
    label: the version label to ask for.
  """

  target: str
  model: str = "planner"
  clients: int = 8
  seconds: float = 20.0
  rows: int = 1
  frames: str = "recorded"
  timeout: float = 10.0
  attempts: int = 1
  label: str | None = None


@dataclasses.dataclass
class Result:
  """What came back.

  Attributes:
    milliseconds: `float64[calls]`, of those that succeeded.
    errors: how many failed, by code.
    seconds: from the first call to the last answer.
    versions: how many answers each model version gave.
    returns: of the episodes that were played to their end.
  """

  milliseconds: np.ndarray
  errors: collections.Counter
  seconds: float
  versions: collections.Counter
  returns: list[float]

  def summary(self, rows: int = 1) -> dict:
    """Throughput, percentiles and errors, ready for JSON."""
    calls = len(self.milliseconds)
    quantiles = np.percentile(self.milliseconds, [50, 95, 99, 100]) if calls else [None] * 4
    names = ("p50_ms", "p95_ms", "p99_ms", "max_ms")
    return {
      "calls": calls,
      "calls_per_second": calls / self.seconds,
      "actions_per_second": calls * rows / self.seconds,
      **{n: q if q is None else round(float(q), 3) for n, q in zip(names, quantiles, strict=True)},
      "errors": dict(self.errors),
      "versions": {str(version): count for version, count in sorted(self.versions.items())},
      "returns": self.returns,
    }


def record(environment: str, num_frames: int = 200) -> np.ndarray:
  """`uint8[num_frames, 64, 64, 3]`: what an agent sees while the scripted driver drives."""
  env, driver = make_env(environment), make_heuristic(environment)
  generator, frames = np.random.default_rng(0), []
  while len(frames) < num_frames:
    frame, info = env.reset(seed=len(frames))
    over = False
    while not over and len(frames) < num_frames:
      frames.append(frame)
      action = driver.act(frame[np.newaxis], [info], generator)[0]
      frame, _, terminated, truncated, info = env.step(action)
      over = terminated or truncated
  env.close()
  return np.stack(frames)


class _Frames:
  """The same frames over and over; each row and client begins somewhere else."""

  def __init__(self, frames, rows, client):
    self._frames, self._position = frames, 37 * (client * rows + np.arange(rows))
    self.returns = []

  def next(self, client):
    del client
    self._position = (self._position + 1) % len(self._frames)
    return self._frames[self._position]


class _Episodes:
  """Real environments, driven by the answers."""

  def __init__(self, environment, rows, client):
    self._envs = [make_env(environment) for _ in range(rows)]
    self._seed, self.returns = 100_000 * (client + 1), []
    self._frames = [self._reset(env) for env in self._envs]

  def next(self, client):
    over = np.zeros(len(self._envs), bool)
    if "agent_action" in client.extras:  # Not before the first answer.
      for row, env in enumerate(self._envs):
        step = env.step(client.extras["agent_action"][row])
        self._frames[row], _, terminated, truncated, info = step
        over[row] = terminated or truncated
        if over[row]:
          self.returns.append(info["episode_return"])
          self._frames[row] = self._reset(env)
    if over.any():
      client.restart(over)
    return np.stack(self._frames)

  def _reset(self, env):
    self._seed += 1
    return env.reset(seed=self._seed)[0]


def _client(load: Load, number: int, recorded, environment, start, answers, watched) -> None:
  """A client process."""
  try:
    result = _drive(load, number, recorded, environment, start, watched)
  except Exception:  # Told to the parent, which raises it.
    answers.put(traceback.format_exc())
    start.abort()
  else:
    answers.put(result)


def _drive(load, number, recorded, environment, start, watched):
  if load.frames == "episodes":
    source = _Episodes(environment, load.rows, number)
  else:
    source = _Frames(recorded, load.rows, number)
  milliseconds, errors, versions = [], collections.Counter(), collections.Counter()
  with PlannerClient(load.target, load.model, label=load.label, timeout=_WARM_UP) as client:
    client.reset(load.rows)
    client.act(source.next(client))  # The server may see this batch size for the first time.
  client = PlannerClient(
    load.target,
    load.model,
    label=load.label,
    timeout=load.timeout,
    retry=Retry(attempts=load.attempts),
  )
  with client:
    start.wait()
    begin = time.perf_counter()
    frame = None
    while time.perf_counter() < begin + load.seconds:
      try:
        if client.state is None:
          client.reset(load.rows, seed=1000 * number)
        if frame is None:
          frame = source.next(client)
        inputs = {"frame": frame, "seed": client.seed, **client.state}
        sent = time.perf_counter()
        action = client.act(frame)
      except CallError as error:
        errors[error.code.name] += 1
        time.sleep(_PAUSE_AFTER_ERROR)
        continue
      milliseconds.append(1000 * (time.perf_counter() - sent))
      versions[client.version] += 1
      frame = None
      if watched is not None:
        watched.put((client.version, inputs, {"action": action, **client.state}))
    seconds = time.perf_counter() - begin
  return Result(np.array(milliseconds), errors, seconds, versions, source.returns)


def run(load: Load, watched=None, meanwhile=None) -> Result:
  """Starts the clients together, waits for them and adds up what they saw.

  Args:
    load: see there.
    watched: a queue of the context "spawn", which gets `(version, inputs, outputs)` of each call.
    meanwhile: called about ten times a second until all clients have ended.

  Raises:
    CallError: if there is no such server or model.
    RuntimeError: if a client breaks; with its traceback.
  """
  context = multiprocessing.get_context("spawn")
  start, answers = context.Barrier(load.clients), context.Queue()
  with PlannerClient(load.target, load.model, label=load.label, retry=Retry(attempts=3)) as client:
    client.reset()  # Is it there at all?
    environment = None if load.frames == "noise" else client.spec().name
  recorded = None
  if load.frames == "recorded":
    recorded = record(environment)
  elif load.frames == "noise":
    recorded = np.random.default_rng(0).integers(0, 256, (200, 64, 64, 3), np.uint8)
  processes = [
    context.Process(
      target=_client,
      args=(load, i, recorded, environment, start, answers, watched),
      daemon=True,
    )
    for i in range(load.clients)
  ]
  results = []
  try:
    for process in processes:
      process.start()
    while len(results) < load.clients:
      try:
        results.append(answers.get(timeout=0.1))
      except queue.Empty:
        if meanwhile is not None:
          meanwhile()
        if any(process.exitcode for process in processes):
          raise RuntimeError("A client process died.") from None
        continue
      if isinstance(results[-1], str):
        raise RuntimeError(f"A client failed:\n{results[-1]}")
    while meanwhile is not None and any(process.is_alive() for process in processes):
      meanwhile()  # They end when everything that they sent has been taken.
  finally:
    for process in processes:
      if len(results) < load.clients:
        process.terminate()
      process.join(10)
  return Result(
    np.concatenate([r.milliseconds for r in results]),
    sum((r.errors for r in results), collections.Counter()),
    max(r.seconds for r in results),
    sum((r.versions for r in results), collections.Counter()),
    [x for r in results for x in r.returns],
  )
