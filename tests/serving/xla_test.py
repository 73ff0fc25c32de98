"""Signatures that ask for XLA fail when they are called, as in the official server."""

from __future__ import annotations

import grpc
import numpy as np
import pytest
import tensorflow as tf

from serving.embedded import EmbeddedServer
from tests.serving import calls

_INPUT = {"x": np.array([1.0, 2.0], np.float32)}
_REFUSED = "XLA compilation disabled\n\t [[{{function_node "


class _Compiled(tf.Module):
  """Doubles numbers with and without XLA: at the top, in a function, and within a loop."""

  def __init__(self):
    super().__init__()
    self.scale = tf.Variable(2.0)

  @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, "x")])
  def plain(self, x):
    return {"y": x * self.scale}

  @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, "x")], jit_compile=True)
  def top(self, x):
    return {"y": x * self.scale}

  @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, "x")])
  def nested(self, x):
    return {"y": self.top(x)["y"], "x": x + 1.0}

  @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, "x")])
  def loop(self, x):
    def body(i, y):
      return i + 1, self.top(y)["y"]

    def unfinished(i, y):
      return i < 3

    return {"y": tf.while_loop(unfinished, body, (0, x))[1]}


@pytest.fixture(scope="module")
def target(tmp_path_factory):
  base = tmp_path_factory.mktemp("compiled")
  model = _Compiled()
  signatures = {name: getattr(model, name) for name in ("plain", "top", "nested", "loop")}
  tf.saved_model.save(model, str(base / "1"), signatures=signatures)
  with EmbeddedServer(rest_port=0) as server:
    yield server.start({"compiled": str(base)}), server.rest_target


def _request(signature, **options):
  return calls.request_of(_INPUT, signature, "compiled", **options)


@pytest.mark.parametrize("signature", ["top", "nested", "loop"])
def test_what_asks_for_xla_is_refused_when_it_is_called(target, stubs_for, signature):
  stubs = stubs_for(target[0])
  for _ in range(2):  # Not only the first time.
    calls.expect(
      stubs.prediction.Predict, _request(signature), grpc.StatusCode.INTERNAL, prefix=_REFUSED
    )


def test_the_rest_of_the_model_answers(target, stubs_for):
  stubs = stubs_for(target[0])
  assert calls.states(stubs, "compiled") == [(1, "AVAILABLE")]
  response = stubs.prediction.Predict(_request("plain"), timeout=20)
  assert list(response.outputs["y"].float_val) == [2.0, 4.0]


def test_rest_says_the_same(target):
  answer = calls.http_call(
    target[1],
    "POST",
    "/v1/models/compiled:predict",
    {"signature_name": "top", "inputs": {"x": [1.0]}},
  )
  assert answer.status == 500 and answer.error.startswith(_REFUSED)
