"""The common parts of the synchronous and the asynchronous client: everything except the calls.

It requires gRPC, protobuf and NumPy, but not TensorFlow.
"""

from __future__ import annotations

import dataclasses
import json
import os
import random
from collections.abc import Iterable
from typing import Any

import grpc
import numpy as np

from serving import observations, protos, tensors
from serving.spec import Spec

_RETRIED = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED)
_HINTS = {
  grpc.StatusCode.UNAVAILABLE: "Does a model server listen there, with the same TLS setting?",
  grpc.StatusCode.RESOURCE_EXHAUSTED: "The server has no free thread; increase --grpc_max_threads.",
  grpc.StatusCode.DEADLINE_EXCEEDED: "A longer timeout or warmup requests may help.",
  grpc.StatusCode.NOT_FOUND: "Does the server serve a model and version of this name?",
  grpc.StatusCode.FAILED_PRECONDITION: "Was the model exported with this signature?",
}
_SERVICE_CONFIG = json.dumps({"loadBalancingConfig": [{"round_robin": {}}]})
_CHANNEL_OPTIONS = (
  ("grpc.max_receive_message_length", -1),
  # By default gRPC waits 1 s, and then longer each time, before it reconnects to a lost server.
  ("grpc.initial_reconnect_backoff_ms", 100),
  ("grpc.max_reconnect_backoff_ms", 2000),
  # By default all calls go to the first address of a name.
  ("grpc.service_config", _SERVICE_CONFIG),
)


class CallError(Exception):
  """A call failed after its retries.

  Attributes:
    code: a `grpc.StatusCode`.
    message: the server's message.
  """

  def __init__(self, code: grpc.StatusCode, message: str, call: str):
    super().__init__(f"{call}: {code.name}: {message} {_HINTS.get(code, '')}".rstrip())
    self.code = code
    self.message = message


@dataclasses.dataclass(frozen=True)
class Retry:
  """The retry policy for servers that are unreachable (UNAVAILABLE) or full (RESOURCE_EXHAUSTED).

  Other failures are not retried. Every signature is stateless, so a repeated call has no effect.

  Attributes:
    attempts: the maximal number of calls, including the first.
    first_wait: seconds before the first retry; each further wait is twice as long.
    max_wait: the longest wait, in seconds.
  """

  attempts: int = 8
  first_wait: float = 0.05  # seconds
  max_wait: float = 2.0

  def wait(self, attempt: int) -> float:
    """Draws the time before the next attempt, with jitter so that clients do not synchronise.

    Args:
      attempt: the number of failed attempts before the last one; 0 for the first retry.

    Returns:
      Seconds.
    """
    return min(self.first_wait * 2**attempt, self.max_wait) * random.uniform(0.5, 1.0)

  def next_wait(self, error: grpc.RpcError, attempt: int, seconds_left: float) -> float | None:
    """Decides whether to retry a failed call, and when.

    Args:
      error: the failure.
      attempt: the number of attempts before the one that failed.
      seconds_left: seconds until the deadline.

    Returns:
      Seconds to wait before the next attempt; None to give up.
    """
    # gRPC uses one code for a message over the size limit and for a server without a free thread.
    too_large = "larger than max" in (error.details() or "")
    wait = self.wait(attempt)
    if error.code() not in _RETRIED or too_large or attempt + 1 >= self.attempts:
      return None
    return wait if wait < seconds_left else None


@dataclasses.dataclass(frozen=True)
class TLS:
  """The files for an encrypted connection.

  Attributes:
    ca: PEM file of the authorities that may have signed the server's certificate; gRPC's default
      authorities if None.
    key, certificate: PEM files that identify the client (mTLS); both or neither.
    server_name: the name in the server's certificate; the host of `target` if None.
  """

  ca: str | os.PathLike | None = None
  key: str | os.PathLike | None = None
  certificate: str | os.PathLike | None = None
  server_name: str | None = None

  def credentials(self) -> grpc.ChannelCredentials:
    """Reads the files and creates gRPC credentials.

    Returns:
      The credentials.

    Raises:
      FileNotFoundError: if a file does not exist.
      ValueError: if a file is not in PEM form, or only one of `key` and `certificate` is given.
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


class ClientBase:
  """Stores the state of the episodes, creates requests and parses responses.

  Attributes:
    extras: the outputs of the last `act` other than the action and the state, by name, such as
      `agent_action` `float32[B, A]` (in [-1, 1] or one-hot).
    version: the model version that answered the last call; None before the first one.
    state: the state tensors, `[B, ...]` by name, which the next `act` sends; None before `reset`.
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
      target: `host:port`, or any gRPC name: with `dns:///host:port` the calls alternate between
        all addresses of the host.
      model: the name under which the model is served.
      version: the version number. If None, the newest version answers, which may change between
        calls.
      label: selects the version that has this label on the server, such as `stable`.
      timeout: seconds for a call with all its retries.
      retry: see `Retry`; `Retry(attempts=1)` disables retries.
      credentials: for an encrypted connection; plain text if None.
      extras: names of the outputs that `act` fetches in addition to the action and the state; all
        if None. `()` keeps replies small. A server compiles each selection at its first call.

    Raises:
      ValueError: if both `version` and `label` are given.
    """
    if version is not None and label is not None:
      raise ValueError(f"version={version} and label={label!r} are both set; set only one of them")
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
    self._known: dict[str, Spec | None] = {}  # Shared with forks.
    self.state: dict[str, np.ndarray] | None = None
    self.extras: dict[str, np.ndarray] = {}
    self.version: int | None = None

  @property
  def seed(self) -> np.ndarray:
    """`int32[B, 2]`, the seed and step of each row, which the next `act` sends."""
    self._require_reset()
    return _seed_tensor(self._seeds, self._steps)

  def restart(self, rows: np.ndarray, seed: Iterable[int] | None = None) -> None:
    """Begins new episodes in some rows, with the initial state that `reset` fetched.

    Args:
      rows: `bool[B]`, true in rows that begin an episode.
      seed: `int[B]`, seeds for all rows, of which only those of `rows` are used; keeps the old
        seeds if None.

    Raises:
      RuntimeError: if `reset` was not called.
      ValueError: if `rows` does not have the shape `[B]`.
    """
    self._require_reset()
    rows = np.asarray(rows, bool)
    if rows.shape != self._steps.shape:
      raise ValueError(f"rows has shape {rows.shape}; batch_size is {len(self._steps)}")
    if seed is not None:
      self._seeds = np.where(rows, np.asarray(list(seed), np.int64), self._seeds)
    self._steps = np.where(rows, 0, self._steps)

    def mask(x):
      return rows.reshape((-1,) + (1,) * (x.ndim - 1))

    self.state = {
      name: np.where(mask(fresh), fresh, self.state[name]) for name, fresh in self._fresh.items()
    }

  def _connect(self, credentials):
    """Creates a channel, which connects at the first call."""
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

  def _inputs(
    self, observation, spec: Spec | None, agent_view: bool
  ) -> tuple[dict[str, np.ndarray], tuple[str, ...], bool]:
    """Returns the inputs of `act`, its output filter, and whether there is no batch dimension.

    Args:
      observation: see `PlannerClient.act`.
      spec: the specification of the model's environment; None if the model has none.
      agent_view: see `PlannerClient.act`.
    """
    rows = len(self._steps)
    if spec is None or spec.observation is None:
      batch = observations.frames(observation, rows)
    elif agent_view:
      batch = observations.from_agent(spec.observation, observation, rows)
    else:
      batch = observations.check(spec.observation, observation, rows)
    wanted = () if self._wanted_extras is None else ("action", *self.state, *self._wanted_extras)
    return {**batch.inputs, "seed": self.seed, **self.state}, wanted, batch.single

  def _advance(self, outputs, single: bool) -> np.ndarray:
    """Stores the next state and the extras, and returns the action."""
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


def lacks_signature(error: CallError) -> bool:
  """Returns whether a call failed because the model does not have the signature.

  Args:
    error: the error of the call.
  """
  return error.code == grpc.StatusCode.FAILED_PRECONDITION


def _seed_tensor(seeds, steps) -> np.ndarray:
  return np.stack([seeds & 0x7FFFFFFF, steps], axis=1).astype(np.int32)


def initial_inputs(seeds: np.ndarray) -> dict[str, np.ndarray]:
  """Creates the inputs of the signatures `initial_state` and `spec`.

  Args:
    seeds: `int64[B]`, the seed of each row's episode.

  Returns:
    `{"seed": int32[B, 2]}`, the seed and the step 0 of each row.
  """
  return {"seed": _seed_tensor(seeds, np.zeros_like(seeds))}
