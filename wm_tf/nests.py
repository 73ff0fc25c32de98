"""Operations on nests of tensors."""

from __future__ import annotations

import tensorflow as tf

from wm_tf.core import Nest


def time_major(nest: Nest) -> Nest:
  """Swaps the first two axes of every tensor: `[B, T, ...]` to `[T, B, ...]`, or back.

  Args:
    nest: tensors of rank 2 or more.

  Returns:
    A nest of the same structure. The function is its own inverse.
  """
  return tf.nest.map_structure(lambda x: tf.transpose(x, [1, 0, *range(2, x.shape.rank)]), nest)


def gather_rows(nest: Nest, rows: tf.Tensor) -> Nest:
  """Takes the given rows of every tensor.

  Args:
    nest: tensors `[M, ...]`.
    rows: `int32[N]`, each in [0, M).

  Returns:
    A nest of tensors `[N, ...]`.
  """
  return tf.nest.map_structure(lambda x: tf.gather(x, rows), nest)
