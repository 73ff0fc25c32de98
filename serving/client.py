"""A client for served controllers and planners. Needs gRPC, protobuf and NumPy; no TensorFlow.

  client = PlannerClient("localhost:8500", model="planner")
  spec = client.spec()                 # observation, action repeat, frames to skip, ...
  client.reset(seed=0)
  action = client.act(frame)           # uint8[96, 96, 3] -> float32[3], the environment's own

The server keeps no state between calls. The client sends the recurrent state and the plan with each
call, and keeps the ones that the server returns. `serving.aio_client` has the same client for
asyncio.
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
  """Controls one or many environments with a served `planner` or `controller`.

  A client must be used by one thread; `fork` makes another client on the same connection. See
  `ClientBase` for the arguments and the attributes.
  """

  _grpc = grpc

  def fork(self) -> PlannerClient:
    """Returns a client on the same connection with its own episodes."""
    return copy.copy(self)

  def spec(self) -> Spec:
    """Asks the model which environment it acts in.

    Returns:
      The environment's observation, action and timing.

    Raises:
      CallError: if the call fails, for example because an older export has no signature `spec`.
    """
    return Spec.from_outputs(self.predict("spec", initial_inputs(np.zeros(1, np.int64))))

  def reset(self, batch_size: int = 1, seed: int | Iterable[int] = 0) -> None:
    """Begins new episodes in all rows.

    Args:
      batch_size: B, the number of environments.
      seed: the seed of the first row, where row i gets `seed + i`; or `int[B]`, one for each row.
        All randomness of an action comes from its row's seed and step.

    Raises:
      CallError: if the call fails.
      ValueError: if `seed` has another shape.
    """
    seeds = self._seeds_of(batch_size, seed)
    self._begin(seeds, self.predict("initial_state", initial_inputs(seeds)))

  def act(
    self, observation: Any, timeout: float | None = None, agent_view: bool = False
  ) -> np.ndarray | int:
    """Chooses the next action, or one for each row. A failed call leaves the state unchanged.

    The first call also fetches the model's `spec`, to check observations against it.

    Args:
      observation: the environment's observation: an array, or a dict of arrays by name of the part;
        with a leading B after `reset(B)`. Images may also have the size that the agent sees.
      timeout: seconds for this call; None for the client's timeout.
      agent_view: whether `observation` is a batch in the agent's format instead: images `uint8[B,
        H, W, C]` and vectors `float32[B, D]`.

    Returns:
      The environment's action: `float32[...]` if it is continuous, an int if it is discrete,
      `int64[...]` if it is multi-discrete, `int8[...]` if it is multi-binary; with a leading B if
      `observation` has one.

    Raises:
      CallError: if the call fails.
      RuntimeError: if `reset` was not called.
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
    """Calls a signature of the model.

    Args:
      signature: the signature's name.
      inputs: arrays by input name.
      output_filter: the names of the outputs to return; empty for all.
      timeout: seconds for this call with all its retries; None for the client's timeout.

    Returns:
      The output arrays by name.

    Raises:
      CallError: if the call fails after the retries or times out.
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
  """An `Actor` that calls a served model at `grpc://host:port/model`.

  It takes observations in the agent's format and returns the agent's actions, as a local agent
  does. Copies share the address and the connection, but not the state.
  """

  def __init__(self, address: str, **options):
    """
    Args:
      address: `grpc://host:port/model`, optionally with `/versions/7` or `/labels/canary`;
        `grpcs://` uses TLS.
      **options: for `PlannerClient`.

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
    """Begins new episodes.

    Args:
      rows: the number of environments.

    Raises:
      CallError: if the call fails.
    """
    self.client = self.client.fork()
    self.client.reset(rows)

  def act(self, observation, is_first, seeds, infos=None) -> np.ndarray:
    """Chooses the agent's actions.

    Args:
      observation: an array, or a dict of arrays by name of the part: images `uint8[B, H, W, C]` and
        vectors `float32[B, D]`.
      is_first: `bool[B]`, the rows that begin an episode.
      seeds: `int64[B]`, the seeds of the episodes.
      infos: ignored; a served model takes only observations.

    Returns:
      `float32[B, A]`: numbers in [-1, 1], or one-hot vectors.

    Raises:
      CallError: if the call fails.
      ValueError: if the observation has another shape or dtype, or is not finite.
    """
    del infos
    if np.any(is_first):
      self.client.restart(is_first, seeds)
    self.client.act(observation, agent_view=True)
    return self.client.extras["agent_action"]
