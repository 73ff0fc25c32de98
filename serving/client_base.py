"""What the synchronous and the asynchronous client share: everything but the calls themselves.

Needs gRPC, protobuf and NumPy; no TensorFlow.
"""

from __future__ import annotations

import dataclasses
import json
import os
import random
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import grpc
import numpy as np

from serving import protos, tensors

_RETRIED = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED)
_HINTS = {
  grpc.StatusCode.UNAVAILABLE: "Is a model server listening there, with TLS as the client has it?",
  grpc.StatusCode.RESOURCE_EXHAUSTED: "The server has no free thread; raise --grpc_max_threads.",
  grpc.StatusCode.DEADLINE_EXCEEDED: "A longer timeout may help; so do warmup requests.",
  grpc.StatusCode.NOT_FOUND: "Does the server serve a model and version of this name?",
  grpc.StatusCode.FAILED_PRECONDITION: "Was the model exported with this signature?",
}
_SERVICE_CONFIG = json.dumps({"loadBalancingConfig": [{"round_robin": {}}]})
_CHANNEL_OPTIONS = (
  ("grpc.max_receive_message_length", -1),
  # By default gRPC waits 1 s, then ever longer, before it looks for a lost server again.
  ("grpc.initial_reconnect_backoff_ms", 100),
  ("grpc.max_reconnect_backoff_ms", 2000),
  # By default all calls go to the first address that a name resolves to.
  ("grpc.service_config", _SERVICE_CONFIG),
)


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

  def next_wait(self, error: grpc.RpcError, attempt: int, seconds_left: float) -> float | None:
    """Seconds before calling again after a failure; None if that would be of no use.

    Args:
      error: the failure.
      attempt: how many attempts there were before the one that failed.
      seconds_left: until the deadline.
    """
    # gRPC gives a message over the size limit the same code as a server without a free thread.
    too_large = "larger than max" in (error.details() or "")
    wait = self.wait(attempt)
    if error.code() not in _RETRIED or too_large or attempt + 1 >= self.attempts:
      return None
    return wait if wait < seconds_left else None


@dataclasses.dataclass(frozen=True)
class TLS:
  """Files for an encrypted connection. `TLS()` trusts the authorities that gRPC comes with.

  Attributes:
    ca: PEM file of the authorities that may have signed the server's certificate.
    key, certificate: PEM files with which the client shows who it is (mTLS); both or neither.
    server_name: what the server's certificate is made out to, if that is not the host of `target`.
  """

  ca: str | os.PathLike | None = None
  key: str | os.PathLike | None = None
  certificate: str | os.PathLike | None = None
  server_name: str | None = None

  def credentials(self) -> grpc.ChannelCredentials:
    """Reads the files.

    Raises:
      FileNotFoundError: for a file that is not there.
      ValueError: for one that holds no PEM, or a key without a certificate.
    """
    if (self.key is None) != (self.certificate is None):
      raise ValueError("TLS: give both key and certificate (mTLS), or neither")
    pems = {name: self._read(name) for name in ("ca", "key", "certificate")}
    return grpc.ssl_channel_credentials(pems["ca"], pems["key"], pems["certificate"])

  def _read(self, name: str) -> bytes | None:
    path = getattr(self, name)
    if path is None:
      return None
    with open(path, "rb") as file:
      pem = file.read()
    if b"-----BEGIN " not in pem:
      raise ValueError(f"TLS: {name} file {os.fspath(path)} is not in PEM form (-----BEGIN ...)")
    return pem


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

  @classmethod
  def from_outputs(cls, outputs: Mapping[str, np.ndarray]) -> Spec:
    """From the outputs of the signature `spec`."""
    raw = {name: rows[0] for name, rows in outputs.items()}
    text = lambda names: tuple(name.decode() for name in names)
    discrete = bool(raw["discrete"])
    return cls(
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


class ClientBase:
  """The state of the episodes, and how requests are made and answers taken apart.

  Attributes:
    extras: the outputs of the last `act` beside the action and the state, such as `agent_action`
      `float32[B, A]` (in [-1, 1]) or `value` `float32[B]`; by name.
    version: the model version that answered last.
    state: the tensors that travel, `[B, ...]` by name; None before `reset`.
  """

  _grpc: Any  # `grpc` or `grpc.aio`.

  def __init__(
    self,
    target: str,
    model: str = "planner",
    version: int | None = None,
    label: str | None = None,
    timeout: float = 30.0,
    retry: Retry = Retry(),
    credentials: TLS | grpc.ChannelCredentials | None = None,
    extras: Iterable[str] | None = None,
  ):
    """
    Args:
      target: `host:port`, or any gRPC name: with `dns:///host:port` the calls take turns on all
        addresses of the host.
      model: the name under which it is served.
      version: pins one version; by default the newest answers, and may change between two calls.
      label: asks for the version that the server gives this label, such as `stable`.
      timeout: seconds for a call with all its retries.
      retry: see `Retry`; `Retry(attempts=1)` never calls again.
      credentials: for TLS; plain text by default.
      extras: which outputs `act` fetches beside the action and the state; all by default. `()`
        keeps replies small. A server compiles each selection at its first call.

    Raises:
      ValueError: if both a version and a label are asked for.
    """
    if version is not None and label is not None:
      raise ValueError(f"asked for both version {version} and label {label!r}: choose one")
    self._target, self._model = target, model
    self._version, self._label = version, label
    self._timeout, self._retry = timeout, retry
    self._wanted_extras = None if extras is None else tuple(extras)
    self._channel = self._connect(credentials)
    self._call = self._channel.unary_unary(
      protos.PREDICT,
      protos.PredictRequest.SerializeToString,
      protos.PredictResponse.FromString,
    )
    self.state: dict[str, np.ndarray] | None = None
    self.extras: dict[str, np.ndarray] = {}
    self.version: int | None = None

  @property
  def seed(self) -> np.ndarray:
    """`int32[B, 2]`, each row's seed and step: what the next `act` sends."""
    self._require_reset()
    return _seed_tensor(self._seeds, self._steps)

  def restart(self, rows: np.ndarray, seed: Iterable[int] | None = None) -> None:
    """Begins new episodes in some rows. Calls nobody: `reset` has fetched what it takes.

    Args:
      rows: `bool[B]`, which ones.
      seed: `int[B]` of all rows; kept as they are by default.
    """
    self._require_reset()
    rows = np.asarray(rows, bool)
    if rows.shape != self._steps.shape:
      raise ValueError(f"rows has shape {rows.shape}; batch_size is {len(self._steps)}")
    if seed is not None:
      self._seeds = np.where(rows, np.asarray(list(seed), np.int64), self._seeds)
    self._steps = np.where(rows, 0, self._steps)
    mask = lambda x: rows.reshape((-1,) + (1,) * (x.ndim - 1))
    self.state = {
      name: np.where(mask(fresh), fresh, self.state[name]) for name, fresh in self._fresh.items()
    }

  def _connect(self, credentials):
    """A channel, which connects when it is first called."""
    options = list(_CHANNEL_OPTIONS)
    if credentials is None:
      return self._grpc.insecure_channel(self._target, options)
    if isinstance(credentials, TLS):
      if credentials.server_name:
        options.append(("grpc.ssl_target_name_override", credentials.server_name))
      credentials = credentials.credentials()
    return self._grpc.secure_channel(self._target, credentials, options)

  def _request(self, signature, inputs, output_filter):
    request = protos.PredictRequest(output_filter=output_filter)
    request.model_spec.name = self._model
    request.model_spec.signature_name = signature
    if self._version is not None:
      request.model_spec.version.value = self._version
    if self._label is not None:
      request.model_spec.version_label = self._label
    for name, array in inputs.items():
      tensors.encode(array, request.inputs[name], as_content=True)
    return request

  def _answer(self, response) -> dict[str, np.ndarray]:
    self.version = response.model_spec.version.value
    return {name: tensors.decode(proto) for name, proto in response.outputs.items()}

  def _error(self, error: grpc.RpcError, signature: str) -> CallError:
    which = "" if self._version is None else f" version {self._version}"
    which += "" if self._label is None else f" label {self._label!r}"
    call = f"Predict {signature!r} of model {self._model!r}{which} at {self._target}"
    return CallError(error.code(), error.details() or "", call)

  def _seeds_of(self, batch_size, seed) -> np.ndarray:
    if np.ndim(seed) == 0:
      seed = int(seed) + np.arange(batch_size)
    seeds = np.asarray(seed, np.int64)
    if seeds.shape != (batch_size,):
      raise ValueError(f"seed has shape {seeds.shape}; batch_size is {batch_size}")
    return seeds

  def _begin(self, seeds, fresh) -> None:
    self._seeds, self._steps = seeds, np.zeros(len(seeds), np.int64)
    self._fresh, self.state, self.extras = fresh, dict(fresh), {}

  def _inputs(self, frame) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """The inputs of `act`, and its output filter."""
    self._require_reset()
    frames = frame[None] if frame.ndim == 3 else frame
    rows = len(self._steps)
    if frames.ndim != 4 or frames.dtype != np.uint8:
      raise ValueError(f"frames are uint8[B, H, W, 3], not {frame.dtype}{list(frame.shape)}")
    if len(frames) != rows:
      raise ValueError(f"{len(frames)} frames, but reset(batch_size={rows})")
    wanted = () if self._wanted_extras is None else ("action", *self.state, *self._wanted_extras)
    return {"frame": frames, "seed": self.seed, **self.state}, wanted

  def _advance(self, outputs, single: bool) -> np.ndarray:
    """Keeps the next state; returns the action."""
    missing = [name for name in ("action", *self.state) if name not in outputs]
    if missing:
      missing = ", ".join(missing)
      raise RuntimeError(f"model {self._model!r}: signature act does not return {missing}")
    self.state = {name: outputs.pop(name) for name in self.state}
    action = outputs.pop("action")
    self.extras = outputs
    self._steps = self._steps + 1
    return action[0] if single else action

  def _require_reset(self) -> None:
    if self.state is None:
      raise RuntimeError("call reset() first: it fetches the model's initial state")


def _seed_tensor(seeds, steps) -> np.ndarray:
  return np.stack([seeds & 0x7FFFFFFF, steps], axis=1).astype(np.int32)


def initial_inputs(seeds: np.ndarray) -> dict[str, np.ndarray]:
  """The inputs of `initial_state` for episodes of these seeds, `int64[B]`; and of `spec`."""
  return {"seed": _seed_tensor(seeds, np.zeros_like(seeds))}
