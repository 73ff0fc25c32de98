"""Tasks for a contender's process, which needs no framework for them."""

import time

from benchmarks._worker import Task


def sleep(seconds: float, loss: float) -> Task:
  def run():
    print("noise on stdout")
    time.sleep(seconds)

  return Task(run, {"loss": loss})


def hold(size: int) -> Task:
  return Task(lambda: len(bytearray(b"1") * size), {})


def broken() -> Task:
  raise RuntimeError("out of order")


TASKS = {"sleep": sleep, "hold": hold, "broken": broken}
