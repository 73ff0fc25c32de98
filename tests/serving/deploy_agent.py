"""Versions of an agent, small and fast, of which some are bad."""

from __future__ import annotations

import shutil
from pathlib import Path

import tensorflow as tf

# What lies in the base path: good versions, and each way in which one can be bad.
GAINS = {1: 0.1, 2: 0.2, 3: 0.3, 4: float("nan"), 5: 2.0}
CORRUPT, MISSING = 6, 77


class Agent(tf.Module):
  """What a client must find in an exported agent: `gain` is the brightness's weight."""

  def __init__(self, gain: float):
    super().__init__()
    self.gain = tf.Variable(gain)

  @tf.function(
    input_signature=[
      tf.TensorSpec([None, None, None, 3], tf.uint8, "frame"),
      tf.TensorSpec([None, 2], tf.int32, "seed"),
      tf.TensorSpec([None, 2], tf.float32, "h"),
      tf.TensorSpec([None], tf.bool, "is_first"),
    ]
  )
  def act(self, frame, seed, h, is_first):
    del is_first
    x = self.gain * tf.reduce_mean(tf.cast(frame, tf.float32) / 255, [1, 2, 3])[:, None]
    return {
      "action": tf.tile(x, [1, 3]) + 0 * tf.cast(seed[:, :1], tf.float32),
      "h": h + 1,
      "is_first": tf.zeros_like(seed[:, 0], tf.bool),
    }

  @tf.function(input_signature=[tf.TensorSpec([None, 2], tf.int32, "seed")])
  def initial_state(self, seed):
    rows = tf.shape(seed)[0]
    return {"h": tf.zeros([rows, 2]), "is_first": tf.ones([rows], tf.bool)}

  @tf.function(input_signature=[tf.TensorSpec([None, 2], tf.int32, "seed")])
  def spec(self, seed):
    answer = {
      "name": "car_racing",
      "env_id": "CarRacing-v3",
      "frame_size": [96, 96],
      "observation_size": [64, 64],
      "action_repeat": 4,
      "frames_to_skip": 50,
      "idle_action": [0.0, 0.0, 0.0],
      "max_steps": 1000,
      "action_names": ["steer", "gas", "brake"],
      "action_low": [-1.0, 0.0, 0.0],
      "action_high": [1.0, 1.0, 1.0],
      "discrete": False,
      "state_names": ["h", "is_first"],
      "json": "{}",
    }
    rows = tf.shape(seed)[0]
    tensors = {name: tf.constant(value) for name, value in answer.items()}
    return {name: tf.tile(x[None], [rows] + [1] * x.shape.rank) for name, x in tensors.items()}


def write(path: Path, gain: float) -> None:
  model = Agent(gain)
  names = ("act", "initial_state", "spec")
  part = path.parent / f".{path.name}"
  tf.saved_model.save(model, str(part), {name: getattr(model, name) for name in names})
  part.rename(path)


def write_versions(base: Path) -> None:
  """Writes the version folders `GAINS`, and `CORRUPT`, which lacks a file."""
  base.mkdir()
  for version, gain in GAINS.items():
    write(base / str(version), gain)
  shutil.copytree(base / "1", base / str(CORRUPT))
  (base / str(CORRUPT) / "variables" / "variables.index").unlink()
