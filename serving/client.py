"""A client for served controllers and planners. Needs gRPC, protobuf and NumPy; no TensorFlow.

  client = PlannerClient("localhost:8500", model="planner")
  spec = client.spec()                 # frame size, action repeat, frames to skip, ...
  client.reset(seed=0)
  action = client.act(frame)           # uint8[96, 96, 3] -> float32[3], the environment's own

The server keeps nothing between calls. The recurrent state and the plan travel: they come out of
every call and go into the next one, which is what this client does for its caller.
`serving.aio_client` has the same for asyncio.
"""

from __future__ import annotations

import copy
import time
import urllib.parse
from collections.abc import Iterable, Mapping

import grpc
import numpy as np

from serving.client_base import TLS, CallError, ClientBase, Retry, Spec, initial_inputs

__all__ = ["TLS", "CallError", "GrpcActor", "PlannerClient", "Retry", "Spec"]


class PlannerClient(ClientBase):
  """Drives one or many environments with a served `planner` or `controller`.

  One client is for one thread; `fork` makes another one on the same connection. What `ClientBase`
  says of the arguments and the attributes holds here.
  """

  _grpc = grpc

  def fork(self) -> PlannerClient:
    """Another client on the same connection, with episodes of its own."""
    return copy.copy(self)

  def spec(self) -> Spec:
    """Asks the model what environment it is for."""
    return Spec.from_outputs(self.predict("spec", initial_inputs(np.zeros(1, np.int64))))

  def reset(self, batch_size: int = 1, seed: int | Iterable[int] = 0) -> None:
    """Begins new episodes in all rows.

    Args:
      batch_size: the number of environments that are driven side by side.
      seed: of the first row (the others count on from it), or one for each row. An action depends
        on its row's seed and step and on nothing else that is random.
    """
    seeds = self._seeds_of(batch_size, seed)
    self._begin(seeds, self.predict("initial_state", initial_inputs(seeds)))

  def act(self, frame: np.ndarray, timeout: float | None = None) -> np.ndarray | int:
    """Chooses the next action, or one for each row. A call that fails leaves the state as it was.

    Args:
      frame: `uint8[H, W, 3]`, or `uint8[B, H, W, 3]` after `reset(B)`; of the environment's own
        size or of the size that the agent sees.
      timeout: seconds for this call.

    Returns:
      The environment's action, `float32[A_env]` or an int; with a leading B if `frame` has one.

    Raises:
      CallError: if the call fails.
      ValueError: if the frame's type or the number of frames is wrong.
    """
    frame = np.asarray(frame)
    inputs, wanted = self._inputs(frame)
    return self._advance(self.predict("act", inputs, wanted, timeout), frame.ndim == 3)

  def predict(
    self,
    signature: str,
    inputs: Mapping[str, np.ndarray],
    output_filter: Iterable[str] = (),
    timeout: float | None = None,
  ) -> dict[str, np.ndarray]:
    """Calls any signature.

    Args:
      signature: its name.
      inputs: arrays by name.
      output_filter: the outputs wanted; all by default.
      timeout: seconds for this call with all its retries, instead of the client's.

    Returns:
      The outputs by name.

    Raises:
      CallError: if it fails for good, or the time is up.
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

  def __enter__(self):
    return self

  def __exit__(self, *_):
    self.close()


class GrpcActor:
  """A served model as an actor for collection and evaluation, from `grpc://host:port/model`.

  It sends the agent's 64x64 frames and returns the agent's own actions, so that it stands in for an
  agent in this process. The address and the connection are shared by copies; the state is not.
  """

  def __init__(self, address: str, **options):
    """
    Args:
      address: `grpc://host:port/model`, and perhaps `/versions/7` or `/labels/canary` after it;
        `grpcs://` for TLS.
      **options: for `PlannerClient`.

    Raises:
      ValueError: if the address has another form.
    """
    url = urllib.parse.urlsplit(address)
    match url.path.strip("/").split("/"):
      case [model]:
        pass
      case [model, "versions", number] if number.isdigit():
        options["version"] = int(number)
      case [model, "labels", label] if label:
        options["label"] = label
      case _:
        model = None
    if url.scheme not in ("grpc", "grpcs") or not url.netloc or not model:
      raise ValueError(f"{address!r} is not of the form grpc://host:port/model")
    if url.scheme == "grpcs":
      options.setdefault("credentials", TLS())
    self.client = PlannerClient(url.netloc, model, **options)

  def begin(self, rows: int) -> None:
    """Makes ready for `rows` environments."""
    self.client = self.client.fork()
    self.client.reset(rows)

  def act(self, observation, is_first, seeds, infos=None) -> np.ndarray:
    """Actions `float32[B, A]` for frames `uint8[B, 64, 64, 3]`; `seeds` are the episodes'."""
    del infos  # A served model sees frames only.
    if np.any(is_first):
      self.client.restart(is_first, seeds)
    self.client.act(observation)
    return self.client.extras["agent_action"]
