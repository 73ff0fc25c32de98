"""The asynchronous client: the same answers as the synchronous one, and many calls at once."""

import asyncio
import time

import grpc
import numpy as np
import pytest

from serving.aio_client import AsyncPlannerClient
from serving.client import CallError, PlannerClient, Retry

FRAME = np.full((8, 8, 3), 100, np.uint8)


def test_the_state_travels(target):
  async def drive():
    async with AsyncPlannerClient(target, "triv") as client:
      await client.reset(batch_size=2, seed=[5, 8])
      actions = [await client.act(np.stack([FRAME, FRAME + 1])) for _ in range(3)]
      client.restart([False, True])
      return [*actions, await client.act(np.stack([FRAME, FRAME]))], client.version

  actions, version = asyncio.run(drive())
  assert version == 1
  for step, action in enumerate(actions[:3]):
    np.testing.assert_allclose(action, [[100, 5, step], [101, 8, step]])
  np.testing.assert_allclose(actions[3], [[100, 5, 3], [100, 8, 0]])


def test_forks_run_at_once_and_answer_as_the_synchronous_client(target):
  async def drive(client, seed):
    await client.reset(seed=seed)
    return [await client.act(FRAME) for _ in range(4)]

  async def drive_all():
    async with AsyncPlannerClient(target, "triv") as client:
      return await asyncio.gather(*(drive(client.fork(), seed) for seed in range(4)))

  with PlannerClient(target, "triv") as client:
    for seed, found in enumerate(asyncio.run(drive_all())):
      client.reset(seed=seed)
      np.testing.assert_array_equal(found, [client.act(FRAME) for _ in range(4)])


def test_a_call_does_not_block_the_loop(target):
  async def both():
    async with AsyncPlannerClient(target, "triv") as client:
      await client.predict("slow", {"milliseconds": np.array([1], np.int32)})
      start = time.monotonic()
      slow = asyncio.create_task(
        client.predict("slow", {"milliseconds": np.array([600], np.int32)})
      )
      await client.fork().reset()
      quick = time.monotonic() - start
      await slow
      return quick, time.monotonic() - start

  quick, all_of_it = asyncio.run(both())
  assert quick < 0.5 < all_of_it


@pytest.mark.parametrize(
  ("codes", "calls", "failure"),
  [
    ([grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED], 3, None),
    ([grpc.StatusCode.UNAVAILABLE] * 9, 4, grpc.StatusCode.UNAVAILABLE),
    ([grpc.StatusCode.INTERNAL], 1, grpc.StatusCode.INTERNAL),
    ([grpc.StatusCode.NOT_FOUND], 1, grpc.StatusCode.NOT_FOUND),
  ],
)
def test_retries_as_the_synchronous_one(failing, codes, calls, failure):
  handler, target = failing(*codes)

  async def call():
    retry = Retry(attempts=4, first_wait=0.01)
    async with AsyncPlannerClient(target, retry=retry) as client:
      return await client.predict("any", {})

  if failure is None:
    assert asyncio.run(call()) == {}
  else:
    with pytest.raises(CallError) as caught:
      asyncio.run(call())
    assert caught.value.code == failure
  assert handler.calls == calls


def test_deadline(target):
  async def call():
    async with AsyncPlannerClient(target, "triv") as client:
      await client.predict("slow", {"milliseconds": np.array([1500], np.int32)}, timeout=0.2)

  start = time.monotonic()
  with pytest.raises(CallError, match="DEADLINE_EXCEEDED"):
    asyncio.run(call())
  assert time.monotonic() - start < 1.2
