"""A small convolutional and recurrent model and a run of it, for the tests of `fit`.

As a program (`python -m tests.training.small_run DIRECTORY`) it does one run, to be killed.
"""

import sys
from collections.abc import Iterable
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from wm_tf.files import read_json
from wm_tf.training.loggers import JsonlLogger, read_jsonl
from wm_tf.training.loop import FitConfig, FitResult, fit

CONFIG = FitConfig(
  learning_rate=3e-3, end_learning_rate=1e-3, num_epochs=15, checkpoint_every=3, log_every=2
)
STEPS_PER_EPOCH = 8


class SmallModel(keras.Model):
  """Predicts a number from each frame of a sequence; noisy, and with state outside training."""

  def __init__(self, units: int = 8, seed: int = 0):
    super().__init__()
    del self.loss

    def init(i):
      return keras.initializers.GlorotUniform(seed=10 * seed + i)

    self.conv = keras.layers.Conv2D(4, 3, activation="relu", kernel_initializer=init(0))
    self.norm = keras.layers.BatchNormalization()
    self.lstm = keras.layers.LSTM(
      units, return_sequences=True, kernel_initializer=init(1), recurrent_initializer=init(2)
    )
    self.out = keras.layers.Dense(1, kernel_initializer=init(3))

  def loss(self, batch, seed):
    shape = tf.shape(batch["frames"])
    h = self.norm(self.conv(tf.reshape(batch["frames"], [-1, 8, 8, 1])), training=True)
    h = tf.reshape(h, [shape[0], shape[1], 6 * 6 * 4])
    h += 0.1 * tf.random.stateless_normal(tf.shape(h), seed)
    error = self.out(self.lstm(h))[..., 0] - batch["target"]
    return tf.reduce_mean(error**2), {"mae": tf.reduce_mean(tf.abs(error))}


class TinyModel(keras.Model):
  """A linear stand-in for `SmallModel` on the same data: compiles at once."""

  def __init__(self):
    super().__init__()
    del self.loss
    self.out = keras.layers.Dense(1, kernel_initializer="zeros")

  def loss(self, batch, seed):
    noise = tf.random.stateless_normal(tf.shape(batch["target"]), seed)
    flat = tf.reshape(batch["frames"], [-1, 4, 64])
    error = self.out(flat)[..., 0] + 0.1 * noise - batch["target"]
    return tf.reduce_mean(error**2), {"mae": tf.reduce_mean(tf.abs(error))}


def make_data(num: int = 160, bad_rows: Iterable[int] = ()) -> tuple[dict, dict]:
  """Returns training and held-out arrays; NaN targets in `bad_rows` of the training ones."""
  rng = np.random.default_rng(0)
  frames = rng.normal(size=(num, 4, 8, 8, 1)).astype(np.float32)
  target = 5 * frames.mean((2, 3, 4))
  data = {"frames": frames, "target": target}
  split = num * 4 // 5
  train = {key: value[:split].copy() for key, value in data.items()}
  train["target"][list(bad_rows)] = np.nan
  return train, {key: value[split:] for key, value in data.items()}


def run(directory, config=CONFIG, *, model=None, bad_rows=(), shuffle=True, **options) -> FitResult:
  """Fits a `SmallModel` on `make_data`; `options` go to `fit`."""
  train, held_out = make_data(bad_rows=bad_rows)

  def train_fn(epoch):
    data = tf.data.Dataset.from_tensor_slices(train)
    if shuffle:
      data = data.shuffle(1000, seed=epoch + 1)
    return data.batch(len(train["target"]) // STEPS_PER_EPOCH)

  # Batches of 12 and 12 and 8: rows, not batches, must be averaged over.
  def eval_fn():
    return tf.data.Dataset.from_tensor_slices(held_out).batch(12)

  options = {"seed": 7, "eval_fn": eval_fn} | options
  return fit(model or SmallModel(), train_fn, config, Path(directory), **options)


class Killed(BaseException):
  """Not an `Exception`: nothing may catch it, as nothing catches SIGKILL."""


class KillAt(JsonlLogger):
  """Dies at a step, after it was taken and before its metrics are written."""

  def __init__(self, path, step):
    super().__init__(path)
    self.kill_at = step

  def tick(self, step, total=None):
    if step == self.kill_at:
      raise Killed


def same_run(a, b):
  """Asserts that two finished folders hold the same weights, metrics and history, bit for bit."""
  assert read_jsonl(a / "metrics.jsonl") == read_jsonl(b / "metrics.jsonl")
  assert (a / "weights.npz").read_bytes() == (b / "weights.npz").read_bytes()
  results = [read_json(folder / "fit.json") for folder in (a, b)]
  for result in results:
    result.pop("seconds")
  assert results[0] == results[1]


if __name__ == "__main__":
  run(sys.argv[1])
