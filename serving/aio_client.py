"""A client for served controllers and planners, for asyncio.

  async with AsyncPlannerClient("localhost:8500") as client:
    await client.reset(seed=0)
    action = await client.act(frame)

`clients = [client.fork() for _ in range(16)]` creates clients that share one connection and have
separate episodes.
"""

from __future__ import annotations

import asyncio
import copy
import time
from collections.abc import Iterable, Mapping
from typing import Any

import grpc
import numpy as np

from serving.client_base import CallError, ClientBase, initial_inputs, lacks_signature
from serving.spec import Spec


class AsyncPlannerClient(ClientBase):
  """Same as `serving.client.PlannerClient`, with coroutines.

  Create it inside a running event loop. A client can have only one `act` in flight, since each call
  needs the state that the previous one returned. See `ClientBase` for the arguments and the
  attributes.
  """

  _grpc = grpc.aio

  def fork(self) -> AsyncPlannerClient:
    """Creates another client for the same connection. See `PlannerClient.fork`."""
    return copy.copy(self)

  async def spec(self) -> Spec:
    """Fetches the specification of the model's environment. See `PlannerClient.spec`."""
    return Spec.from_outputs(await self.predict("spec", initial_inputs(np.zeros(1, np.int64))))

  async def reset(self, batch_size: int = 1, seed: int | Iterable[int] = 0) -> None:
    """Begins new episodes in all rows. See `PlannerClient.reset`."""
    seeds = self._seeds_of(batch_size, seed)
    self._begin(seeds, await self.predict("initial_state", initial_inputs(seeds)))

  async def act(
    self, observation: Any, timeout: float | None = None, agent_view: bool = False
  ) -> np.ndarray | int:
    """Chooses the next action of each row. See `PlannerClient.act`."""
    self._require_reset()
    inputs, wanted, single = self._inputs(observation, await self._known_spec(), agent_view)
    return self._advance(await self.predict("act", inputs, wanted, timeout), single)

  async def predict(
    self,
    signature: str,
    inputs: Mapping[str, np.ndarray],
    output_filter: Iterable[str] = (),
    timeout: float | None = None,
  ) -> dict[str, np.ndarray]:
    """Calls any signature of the model. See `PlannerClient.predict`."""
    request = self._request(signature, inputs, output_filter)
    deadline = time.monotonic() + (self._timeout if timeout is None else timeout)
    attempt = 0
    while True:
      try:
        return self._answer(await self._call(request, timeout=deadline - time.monotonic()))
      except grpc.RpcError as error:
        wait = self._retry.next_wait(error, attempt, deadline - time.monotonic())
        if wait is None:
          raise self._error(error, signature) from None
      await asyncio.sleep(wait)
      attempt += 1

  async def close(self) -> None:
    """Closes the connection."""
    await self._channel.close()

  async def _known_spec(self) -> Spec | None:
    """Returns the model's `spec`, fetched once; None if the model has no such signature."""
    if "spec" not in self._known:
      try:
        self._known["spec"] = await self.spec()
      except CallError as error:
        if not lacks_signature(error):
          raise
        self._known["spec"] = None
    return self._known["spec"]

  async def __aenter__(self):
    return self

  async def __aexit__(self, *_):
    await self.close()
