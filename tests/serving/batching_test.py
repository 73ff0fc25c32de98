"""Calls that are put together get the same answers as calls that are not."""

import threading
import time

import numpy as np
import pytest
import tensorflow as tf
from google.protobuf import text_format

from serving.batching import Batcher
from serving.config import BatchingParameters, ConfigError
from serving.embedded import EmbeddedServer
from serving.errors import ServingError
from tests.serving.calls import Code, act_inputs, in_threads, request_of


def batcher(text):
  return Batcher(text_format.Parse(text, BatchingParameters()))


class Doubler:
  """Doubles, and notes the sizes of what it is given."""

  def __init__(self):
    self.sizes = []
    self.may_run = threading.Event()
    self.may_run.set()

  def __call__(self, x):
    self.may_run.wait(20)
    self.sizes.append(len(x))
    if (x < 0).any():
      raise tf.errors.InvalidArgumentError(None, None, f"negative: {x.min()}")
    return [2 * x, x.sum(1)]


def rows(*values):
  return np.array(values, np.float32)[:, None]


def test_calls_that_wait_run_together():
  doubler = Doubler()
  run = batcher("num_batch_threads { value: 1 } max_batch_size { value: 64 }").wrap(doubler)
  doubler.may_run.clear()

  def client(i):
    if i == 0:
      time.sleep(0.5)
      doubler.may_run.set()
      return
    doubled, total = run(rows(i, 10 * i))
    np.testing.assert_array_equal(doubled, rows(2 * i, 20 * i))
    np.testing.assert_array_equal(total, [i, 10 * i])

  in_threads(client, 9)
  assert sum(doubler.sizes) == 16
  # One runs alone; the others gather behind it.
  assert len(doubler.sizes) == 2 and max(doubler.sizes) == 14


def test_a_batch_waits_for_its_time_and_no_longer_than_until_it_is_full():
  doubler = Doubler()
  run = batcher("batch_timeout_micros { value: 60000000 } max_batch_size { value: 4 }").wrap(
    doubler
  )
  start = time.monotonic()
  in_threads(lambda i: run(rows(i)), 4)
  assert doubler.sizes == [4] and time.monotonic() - start < 30


def test_one_bad_call_does_not_fail_those_that_it_meets():
  run = batcher("batch_timeout_micros { value: 60000000 } max_batch_size { value: 3 }").wrap(
    Doubler()
  )

  def client(i):
    if i == 0:
      with pytest.raises(tf.errors.InvalidArgumentError, match="negative: -7"):
        run(rows(-7))
    else:
      np.testing.assert_array_equal(run(rows(i))[0], rows(2 * i))

  in_threads(client, 3)


def test_other_shapes_go_into_other_batches():
  doubler = Doubler()
  run = batcher("batch_timeout_micros { value: 300000 } max_batch_size { value: 8 }").wrap(doubler)
  shapes = [(1, 1), (1, 2), (1, 1), (1, 2)]
  in_threads(lambda i: run(np.full(shapes[i], i, np.float32)), 4)
  assert sum(doubler.sizes) == 4 and max(doubler.sizes) == 2


def test_sizes_are_filled_up_to_those_allowed():
  doubler = Doubler()
  run = batcher("max_batch_size { value: 8 } allowed_batch_sizes: 4 allowed_batch_sizes: 8").wrap(
    doubler
  )
  np.testing.assert_array_equal(run(rows(1, 2, 3))[1], [1, 2, 3])
  np.testing.assert_array_equal(run(rows(1, 2, 3, 4, 5))[1], [1, 2, 3, 4, 5])
  assert doubler.sizes == [4, 8]


def test_what_cannot_be_put_together_is_told():
  run = batcher("max_batch_size { value: 2 }").wrap(lambda *x: [np.zeros(3)])
  with pytest.raises(ServingError, match="Task size 3 is larger than maximum input batch size 2"):
    run(rows(1, 2, 3))
  with pytest.raises(ServingError, match="equal 0th-dimension size"):
    run(rows(1, 2), rows(1))
  with pytest.raises(ServingError, match="at least one dimension"):
    run(np.float32(1))


def test_a_full_queue_is_unavailable():
  doubler = Doubler()
  run = batcher(
    "num_batch_threads { value: 1 } max_batch_size { value: 1 } max_enqueued_batches { value: 2 }"
  ).wrap(doubler)
  doubler.may_run.clear()
  codes = []

  def client(i):
    if i == 0:
      time.sleep(1)
      doubler.may_run.set()
      return
    try:
      run(rows(i))
      codes.append(Code.OK)
    except ServingError as error:
      codes.append(error.code)

  in_threads(client, 7)
  assert codes.count(Code.OK) == 3 and codes.count(Code.UNAVAILABLE) == 3


@pytest.mark.parametrize(
  "text, complaint",
  [
    ("max_batch_size { value: 0 }", "must be >= 1"),
    ("max_batch_size { value: 8 } allowed_batch_sizes: 4", "end with max_batch_size"),
    ("pad_variable_length_inputs: true", "not supported"),
  ],
)
def test_wrong_parameters(text, complaint):
  with pytest.raises(ConfigError, match=complaint):
    batcher(text)


def test_a_server_that_batches_answers_every_client_its_own(base, stubs_for):
  parameters = text_format.Parse("batch_timeout_micros { value: 20000 }", BatchingParameters())
  with EmbeddedServer(batching=parameters, max_threads=16) as server:
    stubs = stubs_for(server.start({"triv": base}))

    def client(i):
      for step in range(5):
        inputs = act_inputs(1) | {"seed": np.array([[i, step]], np.int32)}
        response = stubs.prediction.Predict(request_of(inputs), timeout=60)
        assert list(response.outputs["action"].float_val)[1:] == [i, step]

    in_threads(client, 8)
