"""A small SavedModel with every kind of signature that the serving tests call.

`python -m tests.serving.models DIR` writes it to DIR/triv/1, so that the conformance tests can be
pointed at another server that serves it (see conftest.py).
"""

from __future__ import annotations

import os
import sys

import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_log_pb2

STATE_SIZE = 4


class Triv(tf.Module):
  """A counter dressed as a recurrent controller: `h` counts calls, `c` sums mean brightness."""

  def __init__(self, scale: float):
    super().__init__()
    self.scale = tf.Variable(scale)

  @tf.function(
    input_signature=[
      tf.TensorSpec([None, None, None, 3], tf.uint8, "frame"),
      tf.TensorSpec([None, 2], tf.int32, "seed"),
      tf.TensorSpec([None, STATE_SIZE], tf.float32, "h"),
      tf.TensorSpec([None, STATE_SIZE], tf.float32, "c"),
    ]
  )
  def act(self, frame, seed, h, c):
    brightness = tf.reduce_mean(tf.cast(frame, tf.float32), [1, 2, 3])[:, None]
    noise = tf.cast(seed, tf.float32)
    return {
      "action": self.scale * tf.concat([brightness, noise], 1),
      "agent_action": tf.concat([brightness, noise], 1) / 255,
      "value": brightness[:, 0],
      "h": h + 1,
      "c": c + brightness,
    }

  @tf.function(input_signature=[tf.TensorSpec([None, 2], tf.int32, "seed")])
  def initial_state(self, seed):
    zeros = tf.zeros([tf.shape(seed)[0], STATE_SIZE])
    return {"h": zeros, "c": zeros}

  @tf.function(input_signature=[tf.TensorSpec([None, 64, 64, 3], tf.uint8, "img")])
  def image(self, img):
    return {"action": self.scale * tf.reduce_mean(tf.cast(img, tf.float32), [1, 2])}

  @tf.function(input_signature=[tf.TensorSpec([None], tf.int32, "milliseconds")])
  def slow(self, milliseconds):
    """Busy for about this long."""

    def until(now):
      return tf.timestamp() < now + tf.cast(milliseconds[0], tf.float64) / 1000

    start = tf.timestamp()
    tf.while_loop(lambda: until(start), lambda: (), ())
    return {"done": milliseconds + tf.cast(tf.timestamp() * 0, tf.int32)}

  @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, "x")])
  def echo(self, x):
    return {"x": x * self.scale}

  @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, "x")])
  def fail(self, x):
    with tf.control_dependencies(
      [tf.debugging.Assert(tf.reduce_all(x < 0), ["no", x, "z" * 2000])]
    ):
      return {"x": x + self.scale}

  @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "text")])
  def text(self, text):
    return {"text": tf.strings.upper(text), "text_bytes": text, "size": tf.strings.length(text)}

  @tf.function(input_signature=[tf.TensorSpec([None, 2], tf.int64, "a")])
  def kinds(self, a):
    """One tensor of each of some types."""
    return {
      "int64": a,
      "bool": a > 0,
      "uint8": tf.cast(a, tf.uint8),
      "double": tf.cast(a, tf.float64) / 3,
      "float": tf.cast(a, tf.float32) / 10,
    }

  @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "inputs")])
  def classify(self, inputs):
    """Serialized examples with a feature `x` to two classes."""
    x = self._feature(inputs)
    classes = tf.tile([["low", "high"]], [tf.shape(x)[0], 1])
    return {"classes": classes, "scores": tf.stack([1 - x, x], 1)}

  @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "inputs")])
  def regress(self, inputs):
    return {"outputs": self.scale * self._feature(inputs)}

  def _feature(self, inputs):
    return tf.io.parse_example(inputs, {"x": tf.io.FixedLenFeature([], tf.float32, 0.5)})["x"]


def write_triv(path: str, scale: float = 1.0, warmup: dict[str, tf.Tensor] | None = None) -> None:
  """Saves a `Triv` as the version folder `path`, with one warmup request for `serving_default`."""
  model = Triv(scale)
  signatures = {
    "serving_default": model.act,
    "act": model.act,
    "initial_state": model.initial_state,
    "image": model.image,
    "slow": model.slow,
    "echo": model.echo,
    "fail": model.fail,
    "text": model.text,
    "kinds": model.kinds,
    "classify": model.classify,
    "regress": model.regress,
  }
  # Under another name first: a server may be watching.
  part = os.path.join(os.path.dirname(path), "." + os.path.basename(path))
  tf.saved_model.save(model, part, signatures=signatures)
  if warmup is None:
    warmup = {
      "frame": tf.zeros([1, 8, 8, 3], tf.uint8),
      "seed": tf.zeros([1, 2], tf.int32),
      "h": tf.zeros([1, STATE_SIZE]),
      "c": tf.zeros([1, STATE_SIZE]),
    }
  request = predict_pb2.PredictRequest()
  for name, value in warmup.items():
    request.inputs[name].CopyFrom(tf.make_tensor_proto(value))
  log = prediction_log_pb2.PredictionLog()
  log.predict_log.request.CopyFrom(request)
  os.makedirs(os.path.join(part, "assets.extra"))
  with tf.io.TFRecordWriter(
    os.path.join(part, "assets.extra", "tf_serving_warmup_requests")
  ) as writer:
    writer.write(log.SerializeToString())
  os.rename(part, path)


if __name__ == "__main__":
  write_triv(os.path.join(sys.argv[1], "triv", "1"))
