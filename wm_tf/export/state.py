"""Converts a state to named tensors, which a model server and its client exchange, and back."""

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
    name: the first part of each path; empty for none.

  Returns:
    The tensors by name.
  """
  return dict(_leaves(state, name))


def unflatten_state(like: Nest, tensors: Tensors, name: str = "") -> Nest:
  """Returns the state with the given tensors; the inverse of `flatten_state`.

  Args:
    like: any state of the same structure.
    tensors: the tensors by name; other names are ignored.
    name: the first part of each path.
  """
  names = [key for key, _ in _leaves(like, name)]
  # `tf.nest` and `_leaves` traverse a nest in the same order (dicts by sorted keys).
  return tf.nest.pack_sequence_as(like, [tensors[key] for key in names])


def state_specs(state: Nest, name: str = "") -> dict[str, tf.TensorSpec]:
  """Returns the inputs for a state, by name.

  Args:
    state: a state of any number of rows.
    name: the first part of each path.

  Returns:
    A spec `[None, ...]` for each tensor.
  """
  return {key: tf.TensorSpec([None, *x.shape[1:]], x.dtype, key) for key, x in _leaves(state, name)}


def inputs_used(
  fn: Callable[..., Tensors], specs: dict[str, tf.TensorSpec]
) -> dict[str, tf.TensorSpec]:
  """Returns the inputs of a function whose values it uses; the shape alone does not count.

  Args:
    fn: takes the inputs as keyword arguments and returns the outputs by name.
    specs: the inputs by name.

  Returns:
    The used part of `specs`, in the same order.
  """
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
