"""The client of `serving.client` for asyncio.

  async with AsyncPlannerClient("localhost:8500") as client:
    await client.reset(seed=0)
    action = await client.act(frame)

To run many environments on one connection, make one client for each:
`clients = [client.fork() for _ in range(16)]`.
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
  """The methods of `serving.client.PlannerClient` as coroutines.

  Create it inside a running event loop. A client can have one `act` call in flight at a time,
  because a call needs the state that the previous call returned.
  """

  _grpc = grpc.aio

  def fork(self) -> AsyncPlannerClient:
    """Returns a client on the same connection with its own episodes."""
    return copy.copy(self)

  async def spec(self) -> Spec:
    """Asks the model which environment it acts in. See `PlannerClient.spec`."""
    return Spec.from_outputs(await self.predict("spec", initial_inputs(np.zeros(1, np.int64))))

  async def reset(self, batch_size: int = 1, seed: int | Iterable[int] = 0) -> None:
    """Begins new episodes in all rows. See `PlannerClient.reset`."""
    seeds = self._seeds_of(batch_size, seed)
    self._begin(seeds, await self.predict("initial_state", initial_inputs(seeds)))

  async def act(
    self, observation: Any, timeout: float | None = None, agent_view: bool = False
  ) -> np.ndarray | int:
    """Chooses the next action, or one for each row. See `PlannerClient.act`."""
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
    """Calls a signature of the model. See `PlannerClient.predict`."""
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
