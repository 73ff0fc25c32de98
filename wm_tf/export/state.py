"""A state as tensors with names, which travel between a model server and its client."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from wm_tf.core import Nest

Tensors = dict[str, tf.Tensor]


def flatten_state(state: Nest, name: str = "") -> Tensors:
  """Names every tensor of a nest by its path: `AgentState.latent.z` becomes `latent_z`.

  Args:
    state: a nest of NamedTuples, dicts, tuples and tensors.
    name: the first part of each path.
  """
  return dict(_leaves(state, name))


def unflatten_state(like: Nest, tensors: Tensors, name: str = "") -> Nest:
  """The inverse of `flatten_state`; `like` is any state of the same structure."""
  names = [key for key, _ in _leaves(like, name)]
  # `tf.nest` and `_leaves` traverse a nest in the same order (dicts by sorted keys).
  return tf.nest.pack_sequence_as(like, [tensors[key] for key in names])


def state_specs(state: Nest, name: str = "") -> dict[str, tf.TensorSpec]:
  """The inputs that stand for a state, by name, with a leading B of any size."""
  return {key: tf.TensorSpec([None, *x.shape[1:]], x.dtype, key) for key, x in _leaves(state, name)}


def inputs_used(
  fn: Callable[..., Tensors], specs: dict[str, tf.TensorSpec]
) -> dict[str, tf.TensorSpec]:
  """Those of a function's inputs whose values its outputs depend on."""
  graph = tf.function(fn, autograph=False).get_concrete_function(**specs).graph
  used = {x.op.name for x in graph.inputs if any(op.type != "Shape" for op in x.consumers())}
  return {key: value for key, value in specs.items() if key in used}


def _leaves(nest: Nest, name: str) -> list[tuple[str, Any]]:
  if hasattr(nest, "_fields"):
    items = zip(nest._fields, nest, strict=True)
  elif isinstance(nest, dict):
    items = sorted(nest.items())
  elif isinstance(nest, tuple | list):
    items = enumerate(nest)
  else:
    return [(name, nest)]
  return [leaf for key, x in items for leaf in _leaves(x, f"{name}_{key}" if name else str(key))]
