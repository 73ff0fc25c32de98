"""A client for served controllers and planners.

It requires gRPC, protobuf and NumPy, but not TensorFlow.

  client = PlannerClient("localhost:8500", model="planner")
  spec = client.spec()                 # observation, action repeat, frames to skip, ...
  client.reset(seed=0)
  action = client.act(frame)           # uint8[96, 96, 3] -> float32[3], in the environment's units

The server keeps no state between calls. Each call returns the recurrent state and the plan, and the
client sends them with the next call. `serving.aio_client` is the client for asyncio.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Iterable, Mapping
from typing import Any

import grpc
import numpy as np

from serving.address import is_address, parse_address
from serving.client_base import (
  TLS,
  CallError,
  ClientBase,
  Retry,
  initial_inputs,
  lacks_signature,
)
from serving.spec import Spec

__all__ = ["TLS", "CallError", "GrpcActor", "PlannerClient", "Retry", "Spec", "is_address"]


class PlannerClient(ClientBase):
  """Chooses actions for one or more environments with a served `planner` or `controller`.

  A client is not thread-safe; `fork` creates another one for the same connection. See `ClientBase`
  for the arguments and the attributes.
  """

  _grpc = grpc

  def fork(self) -> PlannerClient:
    """Creates another client for the same connection, with separate episodes.

    Returns:
      The new client. It starts with a copy of this client's state.
    """
    return copy.copy(self)

  def spec(self) -> Spec:
    """Fetches the specification of the model's environment.

    Returns:
      The specification.

    Raises:
      CallError: if the call fails.
    """
    return Spec.from_outputs(self.predict("spec", initial_inputs(np.zeros(1, np.int64))))

  def reset(self, batch_size: int = 1, seed: int | Iterable[int] = 0) -> None:
    """Begins new episodes in all rows.

    Args:
      batch_size: the number of environments B.
      seed: the seed of the first row, from which the next rows count up, or one seed per row. An
        action's random numbers depend only on its row's seed and step.

    Raises:
      CallError: if the call fails.
      ValueError: if the number of seeds differs from `batch_size`.
    """
    seeds = self._seeds_of(batch_size, seed)
    self._begin(seeds, self.predict("initial_state", initial_inputs(seeds)))

  def act(
    self, observation: Any, timeout: float | None = None, agent_view: bool = False
  ) -> np.ndarray | int:
    """Chooses the next action of each row. A call that fails leaves the state unchanged.

    The first call also fetches the model's `spec`, to check observations against it.

    Args:
      observation: an array, or a dict of arrays by part name, as returned by the environment; with
        a leading dimension B after `reset(B)`. Images may also have the agent's height and width.
      timeout: seconds for this call with all its retries; the client's `timeout` if None.
      agent_view: whether the observation is a batch in the agent's format instead: images
        `uint8[B, H, W, C]` and vectors `float32[B, D]`.

    Returns:
      The environment's action: `float32[...]`, an int if it is discrete, `int64[...]` if it is
      multi-discrete, `int8[...]` if it is multi-binary; with a leading B if `observation` has one.

    Raises:
      CallError: if the call fails.
      RuntimeError: if `reset` was not called, or the model does not return an action and its state.
      ValueError: if the observation has another shape or dtype, or is not finite.
    """
    self._require_reset()
    inputs, wanted, single = self._inputs(observation, self._known_spec(), agent_view)
    return self._advance(self.predict("act", inputs, wanted, timeout), single)

  def predict(
    self,
    signature: str,
    inputs: Mapping[str, np.ndarray],
    output_filter: Iterable[str] = (),
    timeout: float | None = None,
  ) -> dict[str, np.ndarray]:
    """Calls any signature of the model.

    Args:
      signature: name of the signature.
      inputs: arrays by input name.
      output_filter: names of the requested outputs; all if empty.
      timeout: seconds for this call with all its retries; the client's `timeout` if None.

    Returns:
      The outputs: arrays by name.

    Raises:
      CallError: if the call fails after its retries, or times out.
      ValueError: if TensorFlow does not support the dtype of an input.
    """
    request = self._request(signature, inputs, output_filter)
    deadline = time.monotonic() + (self._timeout if timeout is None else timeout)
    attempt = 0
    while True:
      try:
        return self._answer(self._call(request, timeout=deadline - time.monotonic()))
      except grpc.RpcError as error:
        wait = self._retry.next_wait(error, attempt, deadline - time.monotonic())
        if wait is None:
          raise self._error(error, signature) from None
      time.sleep(wait)
      attempt += 1

  def close(self) -> None:
    """Closes the connection."""
    self._channel.close()

  def _known_spec(self) -> Spec | None:
    """Returns the model's `spec`, fetched once; None if the model has no such signature."""
    if "spec" not in self._known:
      try:
        self._known["spec"] = self.spec()
      except CallError as error:
        if not lacks_signature(error):
          raise
        self._known["spec"] = None
    return self._known["spec"]

  def __enter__(self):
    return self

  def __exit__(self, *_):
    self.close()


class GrpcActor:
  """An actor for collection and evaluation that calls a served model.

  It sends observations in the agent's format and returns the agent's actions, like an agent in this
  process. Copies share the address and the connection, but not the state.

  Attributes:
    client: the `PlannerClient` of the current episodes.
  """

  def __init__(self, address: str, **options):
    """
    Args:
      address: `grpc://host:port/model`, optionally with `/versions/7` or `/labels/canary`; with
        `grpcs://` the connection is encrypted.
      **options: further arguments of `PlannerClient`.

    Raises:
      ValueError: if the address has another form.
    """
    parsed = parse_address(address)
    if parsed.version is not None:
      options["version"] = parsed.version
    if parsed.label is not None:
      options["label"] = parsed.label
    if parsed.secure:
      options.setdefault("credentials", TLS())
    self.client = PlannerClient(parsed.target, parsed.model, **options)

  def begin(self, rows: int) -> None:
    """Starts new episodes.

    Args:
      rows: the number of environments B.

    Raises:
      CallError: if the call fails.
    """
    self.client = self.client.fork()
    self.client.reset(rows)

  def act(self, observation, is_first, seeds, infos=None) -> np.ndarray:
    """Chooses the agent's actions.

    Args:
      observation: an array, or a dict of arrays by part name: images `uint8[B, H, W, C]` and
        vectors `float32[B, D]`.
      is_first: `bool[B]`, true in rows that begin an episode.
      seeds: `int64[B]`, the seed of each row's episode.
      infos: not used: a served model gets only observations.

    Returns:
      `float32[B, A]`, values in [-1, 1] or one-hot groups.

    Raises:
      CallError: if the call fails.
      ValueError: if the observation has another shape or dtype, or is not finite.
    """
    del infos
    if np.any(is_first):
      self.client.restart(is_first, seeds)
    self.client.act(observation, agent_view=True)
    return self.client.extras["agent_action"]
