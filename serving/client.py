"""A client for served controllers and planners. Needs gRPC, protobuf and NumPy; no TensorFlow.

  client = PlannerClient("localhost:8500", model="planner")
  spec = client.spec()                 # frame size, action repeat, frames to skip, ...
  client.reset(seed=0)
  action = client.act(frame)           # uint8[96, 96, 3] -> float32[3], the environment's own

The server keeps nothing between calls. The recurrent state and the plan travel: they come out of
every call and go into the next one, which is what this client does for its caller.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import random
import time
import urllib.parse
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import grpc
import numpy as np

from serving import protos, tensors

_RETRIED = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED)
_HINTS = {
  grpc.StatusCode.UNAVAILABLE: "Is a model server listening there?",
  grpc.StatusCode.RESOURCE_EXHAUSTED: "The server has no free thread; raise --grpc_max_threads.",
  grpc.StatusCode.DEADLINE_EXCEEDED: "A longer timeout may help; so do warmup requests.",
  grpc.StatusCode.NOT_FOUND: "Does the server serve a model and version of this name?",
  grpc.StatusCode.FAILED_PRECONDITION: "Was the model exported with this signature?",
}


class CallError(Exception):
  """A call that failed, after the retries.

  Attributes:
    code: a `grpc.StatusCode`.
    message: the server's own text.
  """

  def __init__(self, code: grpc.StatusCode, message: str, call: str):
    super().__init__(f"{call}: {code.name}: {message} {_HINTS.get(code, '')}".rstrip())
    self.code = code
    self.message = message


@dataclasses.dataclass(frozen=True)
class Retry:
  """How often to call again when the server is away (UNAVAILABLE) or full (RESOURCE_EXHAUSTED).

  Every signature is stateless, so that calling twice does no harm. Other failures would fail again.
  """

  attempts: int = 8
  first_wait: float = 0.05  # seconds
  max_wait: float = 2.0

  def wait(self, attempt: int) -> float:
    """Seconds before the next attempt: doubling, with jitter to keep clients out of step."""
    return min(self.first_wait * 2**attempt, self.max_wait) * random.uniform(0.5, 1.0)


class Spec(NamedTuple):
  """What a client must know of the environment that a served model acts in.

  Attributes:
    name: the environment's short name, such as `car_racing`.
    env_id: the gymnasium id.
    frame_size: `(height, width)` of the environment's own frames, which `act` takes.
    observation_size: `(height, width)` of what the agent sees, which `act` takes too.
    action_repeat: environment frames for which each action is held.
    frames_to_skip: frames to pass with `idle_action` before the first call.
    idle_action: `float32[A_env]`, or an integer for a discrete environment.
    max_steps: frames in a full episode, skipped ones included.
    action_names: of the environment's action dimensions, or of its choices.
    action_low: `float32[A_env]`.
    action_high: `float32[A_env]`.
    discrete: whether an action is one integer.
    state_names: the tensors that travel.
    details: everything else that the export recorded.
  """

  name: str
  env_id: str
  frame_size: tuple[int, int]
  observation_size: tuple[int, int]
  action_repeat: int
  frames_to_skip: int
  idle_action: Any
  max_steps: int
  action_names: tuple[str, ...]
  action_low: np.ndarray
  action_high: np.ndarray
  discrete: bool
  state_names: tuple[str, ...]
  details: dict[str, Any]


class PlannerClient:
  """Drives one or many environments with a served `planner` or `controller`.

  Attributes:
    extras: the outputs of the last `act` beside the action and the state, such as `agent_action`
      `float32[B, A]` (in [-1, 1]) or `value` `float32[B]`; by name.
    version: the model version that answered last.
  """

  def __init__(
    self,
    target: str,
    model: str = "planner",
    version: int | None = None,
    timeout: float = 30.0,
    retry: Retry = Retry(),
    credentials: grpc.ChannelCredentials | None = None,
  ):
    """
    Args:
      target: `host:port`.
      model: the name under which it is served.
      version: pins one version; by default the newest answers, and may change between two calls.
      timeout: seconds for a call with all its retries.
      retry: see `Retry`; `Retry(attempts=1)` never calls again.
      credentials: for TLS; plain text by default.
    """
    self._target, self._model, self._version = target, model, version
    self._timeout, self._retry = timeout, retry
    options = [
      ("grpc.max_receive_message_length", -1),
      # By default gRPC waits 1 s, then ever longer, before it looks for a lost server again.
      ("grpc.initial_reconnect_backoff_ms", 100),
      ("grpc.max_reconnect_backoff_ms", 2000),
    ]
    if credentials is None:
      self._channel = grpc.insecure_channel(target, options)
    else:
      self._channel = grpc.secure_channel(target, credentials, options)
    self._call = self._channel.unary_unary(
      protos.PREDICT,
      protos.PredictRequest.SerializeToString,
      protos.PredictResponse.FromString,
    )
    self._state: dict[str, np.ndarray] | None = None
    self.extras: dict[str, np.ndarray] = {}
    self.version: int | None = None

  def spec(self) -> Spec:
    """Asks the model what environment it is for."""
    raw = {k: v[0] for k, v in self.predict("spec", {"seed": np.zeros((1, 2), np.int32)}).items()}
    text = lambda names: tuple(name.decode() for name in names)
    discrete = bool(raw["discrete"])
    return Spec(
      name=raw["name"].decode(),
      env_id=raw["env_id"].decode(),
      frame_size=tuple(raw["frame_size"].tolist()),
      observation_size=tuple(raw["observation_size"].tolist()),
      action_repeat=int(raw["action_repeat"]),
      frames_to_skip=int(raw["frames_to_skip"]),
      idle_action=int(raw["idle_action"]) if discrete else raw["idle_action"],
      max_steps=int(raw["max_steps"]),
      action_names=text(raw["action_names"]),
      action_low=raw["action_low"],
      action_high=raw["action_high"],
      discrete=discrete,
      state_names=text(raw["state_names"]),
      details=json.loads(raw["json"]),
    )

  def reset(self, batch_size: int = 1, seed: int | Iterable[int] = 0) -> None:
    """Begins new episodes in all rows.

    Args:
      batch_size: the number of environments that are driven side by side.
      seed: of the first row (the others count on from it), or one for each row. An action depends
        on its row's seed and step and on nothing else that is random.
    """
    if np.ndim(seed) == 0:
      seed = int(seed) + np.arange(batch_size)
    self._seeds = np.asarray(seed, np.int64)
    if self._seeds.shape != (batch_size,):
      raise ValueError(f"seed has shape {self._seeds.shape}; batch_size is {batch_size}")
    self._steps = np.zeros(batch_size, np.int64)
    self._fresh = self.predict("initial_state", {"seed": self._seed()})
    self._state = dict(self._fresh)
    self.extras = {}

  def restart(self, rows: np.ndarray, seed: Iterable[int] | None = None) -> None:
    """Begins new episodes in some rows.

    Args:
      rows: `bool[B]`, which ones.
      seed: `int[B]` of all rows; kept as they are by default.
    """
    self._require_reset()
    rows = np.asarray(rows, bool)
    if seed is not None:
      self._seeds = np.where(rows, np.asarray(list(seed), np.int64), self._seeds)
    self._steps = np.where(rows, 0, self._steps)
    mask = lambda x: rows.reshape((-1,) + (1,) * (x.ndim - 1))
    self._state = {
      name: np.where(mask(fresh), fresh, self._state[name]) for name, fresh in self._fresh.items()
    }

  def act(self, frame: np.ndarray) -> np.ndarray | int:
    """Chooses the next action, or one for each row.

    Args:
      frame: `uint8[H, W, 3]`, or `uint8[B, H, W, 3]` after `reset(B)`; of the environment's own
        size or of the size that the agent sees.

    Returns:
      The environment's action, `float32[A_env]` or an int; with a leading B if `frame` has one.

    Raises:
      CallError: if the call fails.
      ValueError: if the frame's type or the number of frames is wrong.
    """
    self._require_reset()
    frame = np.asarray(frame)
    single = frame.ndim == 3
    frames = frame[None] if single else frame
    rows = len(self._steps)
    if frames.ndim != 4 or frames.dtype != np.uint8:
      raise ValueError(f"frames are uint8[B, H, W, 3], not {frame.dtype}{list(frame.shape)}")
    if len(frames) != rows:
      raise ValueError(f"{len(frames)} frames, but reset(batch_size={rows})")
    outputs = self.predict("act", {"frame": frames, "seed": self._seed(), **self._state})
    missing = [name for name in self._state if name not in outputs]
    if missing or "action" not in outputs:
      missing = ", ".join(missing or ["action"])
      raise RuntimeError(f"model {self._model!r}: signature act does not return {missing}")
    self._state = {name: outputs.pop(name) for name in self._state}
    action = outputs.pop("action")
    self.extras = outputs
    self._steps = self._steps + 1
    return action[0] if single else action

  def predict(
    self,
    signature: str,
    inputs: Mapping[str, np.ndarray],
    output_filter: Iterable[str] = (),
  ) -> dict[str, np.ndarray]:
    """Calls any signature.

    Args:
      signature: its name.
      inputs: arrays by name.
      output_filter: the outputs wanted; all by default.

    Returns:
      The outputs by name.

    Raises:
      CallError: if it fails for good, or the time is up.
    """
    request = protos.PredictRequest(output_filter=output_filter)
    request.model_spec.name = self._model
    request.model_spec.signature_name = signature
    if self._version is not None:
      request.model_spec.version.value = self._version
    for name, array in inputs.items():
      tensors.encode(array, request.inputs[name], as_content=True)
    response = self._send(request, signature)
    self.version = response.model_spec.version.value
    return {name: tensors.decode(proto) for name, proto in response.outputs.items()}

  def close(self) -> None:
    """Closes the connection."""
    self._channel.close()

  def __enter__(self):
    return self

  def __exit__(self, *_):
    self.close()

  def _send(self, request, signature):
    deadline = time.monotonic() + self._timeout
    attempt = 0
    while True:
      try:
        return self._call(request, timeout=max(deadline - time.monotonic(), 0.001))
      except grpc.RpcError as error:
        wait = self._retry.wait(attempt)
        attempt += 1
        if (
          error.code() not in _RETRIED
          or attempt >= self._retry.attempts
          or time.monotonic() + wait >= deadline
        ):
          call = f"Predict {signature!r} of model {self._model!r} at {self._target}"
          raise CallError(error.code(), error.details() or "", call) from None
      time.sleep(wait)

  def _seed(self) -> np.ndarray:
    return np.stack([self._seeds & 0x7FFFFFFF, self._steps], axis=1).astype(np.int32)

  def _require_reset(self) -> None:
    if self._state is None:
      raise RuntimeError("call reset() first: it fetches the model's initial state")


class GrpcActor:
  """A served model as an actor for collection and evaluation, from `grpc://host:port/model`.

  It sends the agent's 64x64 frames and returns the agent's own actions, so that it stands in for an
  agent in this process. The address and the connection are shared by copies; the state is not.
  """

  def __init__(self, address: str, **options):
    """
    Args:
      address: `grpc://host:port/model`.
      **options: for `PlannerClient`.

    Raises:
      ValueError: if the address has another form.
    """
    url = urllib.parse.urlsplit(address)
    model = url.path.strip("/")
    if url.scheme != "grpc" or not url.netloc or not model or "/" in model:
      raise ValueError(f"{address!r} is not of the form grpc://host:port/model")
    self.client = PlannerClient(url.netloc, model, **options)

  def begin(self, rows: int) -> None:
    """Makes ready for `rows` environments."""
    self.client = copy.copy(self.client)
    self.client.reset(rows)

  def act(self, observation, is_first, seeds, infos=None) -> np.ndarray:
    """Actions `float32[B, A]` for frames `uint8[B, 64, 64, 3]`; `seeds` are the episodes'."""
    del infos  # A served model sees frames only.
    if np.any(is_first):
      self.client.restart(is_first, seeds)
    self.client.act(observation)
    return self.client.extras["agent_action"]
