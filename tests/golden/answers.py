"""Answers of exported models on fixed inputs, as JSON-able values.

The models are loaded by TensorFlow alone. All inputs are made of integers, so that they are the
same on every machine.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

_STEPS, _ROWS = 3, 2
_MAX_VALUES = 16  # Kept of each row of a larger tensor, evenly spread.


def frames(size: int) -> np.ndarray:
  """Returns `uint8[3, 2, size, size, 3]`: a road that moves to the right, and one that narrows."""
  rows, columns = np.mgrid[:size, :size] * 96 // size
  made = np.empty((_STEPS, _ROWS, size, size, 3), np.uint8)
  made[...] = (102, 204, 102)
  for step in range(_STEPS):
    first = abs(columns - 40 - 6 * step) < 12
    second = abs(columns - 48 + (84 - rows) // 3) < 20 - 5 * step
    for row, road in enumerate((first, second)):
      made[step, row][road] = (105, 105, 105)
      made[step, row][(rows > 60) & (abs(columns - 48) < 4)] = (204, 0, 0)  # The car.
      made[step, row][rows >= 84] = 0  # The instruments.
  return made


def describe(path: Path) -> dict[str, Any]:
  """Returns the signatures of a SavedModel: inputs and outputs with dtypes and shapes, by name."""
  signatures = tf.saved_model.load(str(path)).signatures
  return {
    name: {
      "inputs": _specs(function.structured_input_signature[1]),
      "outputs": _specs(function.structured_outputs),
    }
    for name, function in signatures.items()
  }


def _specs(specs: dict[str, tf.TensorSpec]) -> dict[str, str]:
  return {
    name: f"{spec.dtype.name}{[size or '?' for size in spec.shape]}".replace("'", "")
    for name, spec in sorted(specs.items())
  }


def files(path: Path) -> list[str]:
  """Returns the files of a version folder."""
  return sorted(str(file.relative_to(path)) for file in path.rglob("*") if file.is_file())


def agent_answers(path: Path) -> dict[str, Any]:
  """Returns the answers of an exported agent: its spec, its first state, and three steps.

  Args:
    path: the version folder.
  """
  loaded = tf.saved_model.load(str(path))
  signatures = loaded.signatures
  initial = signatures["initial_state"](seed=_seed(0))
  answers = {"spec": _spec(signatures["spec"]), "initial_state": _thin(initial)}
  for size in (96, 64):  # The environment's own frames, and what the agent sees.
    state = initial
    for step, frame in enumerate(frames(size)):
      outputs = signatures["act"](frame=tf.constant(frame), seed=_seed(step), **state)
      answers[f"act {size} {step}"] = _thin(outputs)
      state = {name: outputs[name] for name in state}
  return answers


def world_model_answers(path: Path) -> dict[str, Any]:
  """Returns the answers of an exported world model: posteriors, filtering, a dream, its frames.

  Args:
    path: the version folder.
  """
  loaded = tf.saved_model.load(str(path))
  signatures = loaded.signatures
  state = signatures["initial_state"](seed=_seed(0))
  answers = {"spec": _spec(signatures["spec"]), "initial_state": _thin(state)}
  actions = (np.arange(_STEPS * _ROWS * 2, dtype=np.float32).reshape(_STEPS, _ROWS, 2) % 5 - 2) / 2
  for step, frame in enumerate(frames(96)):
    answers[f"encode {step}"] = _thin(signatures["encode"](frame=tf.constant(frame)))
    state = signatures["observe"](
      frame=tf.constant(frame),
      prev_action=tf.constant(actions[step]),
      is_first=tf.fill([_ROWS], step == 0),
      seed=_seed(step),
      **state,
    )
    answers[f"observe {step}"] = _thin(state)
  decoded = sorted(signatures["decode"].structured_input_signature[1])
  for step, action in enumerate(actions):
    outputs = signatures["imagine"](
      action=tf.constant(action),
      seed=_seed(10 + step),
      temperature=tf.constant([1.0, 0.5]),
      **state,
    )
    answers[f"imagine {step}"] = _thin(outputs)
    state = {name: outputs[name] for name in state}
    answers[f"decode {step}"] = _thin(
      signatures["decode"](**{name: state[name] for name in decoded})
    )
  return answers


def _seed(step: int) -> tf.Tensor:
  return tf.constant([[7 + row, step] for row in range(_ROWS)], tf.int32)


def _spec(signature) -> dict[str, Any]:
  """The first row of the signature `spec`, without the configuration and the versions."""
  values = {name: value.numpy()[0] for name, value in signature(seed=_seed(0)).items()}
  everything = json.loads(values.pop("json"))
  found = {name: everything[name] for name in everything.keys() - {"config", "versions"}}
  for name, value in values.items():
    value = value.tolist() if isinstance(value, np.ndarray | np.generic) else value
    found[f"tensor {name}"] = _text(value)
  return found


def _text(value: Any) -> Any:
  if isinstance(value, list):
    return [_text(part) for part in value]
  return value.decode() if isinstance(value, bytes) else value


def _thin(tensors: dict[str, tf.Tensor]) -> dict[str, Any]:
  """Lists the values of tensors, one list for each row; of a large row, some, and its mean."""
  return {name: [_row(row) for row in value.numpy()] for name, value in sorted(tensors.items())}


def _row(row: np.ndarray) -> list[float]:
  values = row.ravel().tolist()
  if len(values) > _MAX_VALUES:
    kept = np.linspace(0, len(values) - 1, _MAX_VALUES).astype(int)
    values = [values[index] for index in kept] + [float(row.mean(dtype=np.float64))]
  return [float(f"{value:.7g}") if isinstance(value, float) else value for value in values]
