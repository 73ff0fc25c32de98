"""Controls one model server: its status, its configuration, and a probe of its versions."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterable

import grpc
import numpy as np
from tensorflow_serving.apis import (
  get_model_status_pb2,
  model_management_pb2,
  model_service_pb2_grpc,
)
from tensorflow_serving.config import model_server_config_pb2

from serving.client import TLS, CallError, PlannerClient
from serving.observations import noise

State = get_model_status_pb2.ModelVersionStatus
_PROBE_STEPS, _PROBE_ROWS = 5, 3
_MARGIN = 60.0  # Seconds that a call may take in addition to the time to load a version.


class RolloutError(Exception):
  """A step of a rollout failed; the message has the reason, and what is served now."""


def resolve(targets: Iterable[str]) -> list[str]:
  """Resolves host names to all their addresses.

  Args:
    targets: `host:port` of each server or group of servers.

  Returns:
    `host:port` of each address, without duplicates. `localhost` and `127.0.0.1` are kept.

  Raises:
    RolloutError: if a target is not `host:port`, or a name cannot be resolved.
  """
  found = []
  for target in targets:
    host, _, port = target.rpartition(":")
    if not host or not port.isdigit():
      raise RolloutError(f"--targets: {target!r} is not host:port")
    try:
      infos = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM)
    except OSError as error:
      raise RolloutError(f"--targets: cannot resolve {host}: {error}") from error
    addresses = [
      f"[{info[4][0]}]:{port}" if info[0] == socket.AF_INET6 else f"{info[4][0]}:{port}"
      for info in infos
    ]
    # "localhost" has two addresses, but is one server.
    found += [target] if host in ("localhost", "127.0.0.1") else addresses
  return list(dict.fromkeys(found))


class Server:
  """A connection to one model server.

  Attributes:
    target: `host:port`.
    tls: the files for an encrypted connection; None for plain text.
  """

  def __init__(self, target: str, tls: TLS | None = None):
    """
    Args:
      target: `host:port`.
      tls: the files for an encrypted connection; plain text if None.
    """
    self.target, self.tls = target, tls
    if tls is None:
      self._channel = grpc.insecure_channel(target)
    else:
      options = [("grpc.ssl_target_name_override", tls.server_name)] if tls.server_name else None
      self._channel = grpc.secure_channel(target, tls.credentials(), options)
    self._stub = model_service_pb2_grpc.ModelServiceStub(self._channel)

  def status(self, model: str) -> dict[int, State]:
    """Fetches the status of each version of a model.

    Args:
      model: the model's name.

    Returns:
      Statuses by version number; empty if the server does not know the model.

    Raises:
      RolloutError: if the call fails.
    """
    request = get_model_status_pb2.GetModelStatusRequest()
    request.model_spec.name = model
    try:
      answer = self._stub.GetModelStatus(request, timeout=30)
    except grpc.RpcError as error:
      if error.code() == grpc.StatusCode.NOT_FOUND:
        return {}
      raise self._error(error, "does not return its status") from error
    return {status.version: status for status in answer.model_version_status}

  def reload(self, config: model_server_config_pb2.ModelServerConfig, timeout: float) -> None:
    """Replaces the whole configuration of the server.

    It returns when new models are loaded; use `wait_available` for new versions.

    Args:
      config: the new configuration.
      timeout: seconds that loading may take.

    Raises:
      RolloutError: if the call fails, or the server refuses the configuration.
    """
    request = model_management_pb2.ReloadConfigRequest(config=config)
    try:
      answer = self._stub.HandleReloadConfigRequest(request, timeout=timeout + _MARGIN)
    except grpc.RpcError as error:
      raise self._error(error, "refuses the configuration") from error
    if answer.status.error_code:
      raise RolloutError(f"{self.target} refuses the configuration: {answer.status.error_message}")

  def wait_available(self, model: str, version: int, timeout: float) -> None:
    """Waits until a version is loaded and warmed up.

    Args:
      model: the model's name.
      version: the version number.
      timeout: the longest time to wait, in seconds.

    Raises:
      RolloutError: if loading fails or takes too long, with the server's message.
    """
    deadline = time.monotonic() + timeout
    while True:
      status = self.status(model).get(version)
      if status is not None and status.state == State.AVAILABLE:
        return
      if status is not None and status.state == State.END and status.status.error_code:
        raise RolloutError(
          f"{self.target} cannot load {model} version {version}: {status.status.error_message}"
        )
      if time.monotonic() > deadline:
        state = "not found" if status is None else f"its state is {State.State.Name(status.state)}"
        raise RolloutError(
          f"{self.target} has no {model} version {version} AVAILABLE after {timeout:g} s ({state})."
          " Is the folder in the model's base_path on that server?"
        )
      time.sleep(0.1)

  def close(self) -> None:
    """Closes the connection."""
    self._channel.close()

  def _error(self, error, what) -> RolloutError:
    return RolloutError(f"{self.target} {what}: {error.code().name}: {error.details()}")


def probe(
  target: str, model: str, version: int, tls: TLS | None = None, max_latency_ms: float = 0.0
) -> str:
  """Probes a version: runs some steps on random observations and checks the results.

  All outputs must be finite, actions must be within their bounds, and a second run must give the
  same actions.

  Args:
    target: `host:port` of the server.
    model: the model's name.
    version: the version number.
    tls: the files for an encrypted connection; plain text if None.
    max_latency_ms: the largest accepted median time of a step, in milliseconds; 0 for no limit.

  Returns:
    A line for the log.

  Raises:
    RolloutError: if a call or a check fails.
  """
  who = f"{model} version {version} at {target}"
  try:
    with PlannerClient(target, model, version=version, credentials=tls, timeout=60.0) as client:
      spec, generator = client.spec(), np.random.default_rng(0)
      steps = [noise(spec, _PROBE_ROWS, generator) for _ in range(_PROBE_STEPS)]
      plays = [_play(client, steps) for _ in range(2)]
  except (CallError, RuntimeError, KeyError, ValueError) as error:
    raise RolloutError(f"{who} fails its probe: {error}") from error
  actions, tensors, milliseconds = plays[1]
  for name, value in tensors.items():
    if value.dtype.kind == "f" and not np.isfinite(value).all():
      raise RolloutError(f"{who} fails its probe: {name} is not finite")
  low, high = spec.action_low, spec.action_high
  if spec.discrete and spec.observation is None:  # Older exports have no bounds of choices.
    low, high = np.zeros(1), np.full(1, len(spec.action_names) - 1)
  flat = actions.reshape(*actions.shape[:2], -1)
  if (flat < low - 1e-5).any() or (flat > high + 1e-5).any():
    raise RolloutError(f"{who} fails its probe: actions outside of [{low}, {high}]")
  if not np.allclose(actions, plays[0][0], atol=1e-4):
    raise RolloutError(f"{who} fails its probe: equal requests have different results")
  if 0 < max_latency_ms < milliseconds:
    raise RolloutError(
      f"{who} fails its probe: a step takes {milliseconds:.1f} ms, over {max_latency_ms:g} ms"
    )
  return (
    f"{who} passes its probe: {_PROBE_STEPS} steps of {_PROBE_ROWS}, {milliseconds:.1f} ms each"
  )


def _play(client, observations):
  client.reset(_PROBE_ROWS, seed=1)
  actions, tensors, seconds = [], {}, []
  for observation in observations:
    start = time.perf_counter()
    actions.append(client.act(observation))
    seconds.append(time.perf_counter() - start)
    for name, value in {"action": actions[-1], **client.state, **client.extras}.items():
      # Keeps the values of all steps, so that one that is not finite is found.
      tensors[name] = np.concatenate([tensors[name], value]) if name in tensors else value
  return np.stack(actions), tensors, 1000 * float(np.median(seconds))
