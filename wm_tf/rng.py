"""Stateless random numbers with one seed for a batch, or one seed for each row.

A seed is `int32[2]` and is used once; `split` derives more. With seeds `int32[B, 2]`, the numbers
of row `b` depend on `seed[b]` alone, so that a batch of served requests gets the same answers as
single requests.

With the same seed, a function compiled by XLA (`jit_compile=True`) draws different numbers than one
that is not, of the same distribution. Equal seeds give equal numbers within each of the two. On
a CPU, XLA takes many times as long as TensorFlow's own kernels, so draw large noise outside of it.
"""

from __future__ import annotations

import operator

import tensorflow as tf


def make_seed(seed: int) -> tf.Tensor:
  """Converts an integer to a seed.

  Args:
    seed: from 0 to 2^62 - 1; an `int` or a NumPy integer.

  Returns:
    `int32[2]`.

  Raises:
    ValueError: if it is not in that range, or not an integer.
  """
  try:
    seed = operator.index(seed)
  except TypeError:
    raise ValueError(f"A seed must be an integer, got {seed!r}.") from None
  if not 0 <= seed < 2**62:
    raise ValueError(f"A seed must be in [0, 2**62), got {seed}.")
  return tf.constant([seed & 0x7FFFFFFF, (seed >> 31) & 0x7FFFFFFF], tf.int32)


def fold_in(seed: tf.Tensor, data) -> tf.Tensor:
  """Derives a seed from a seed and an integer.

  Args:
    seed: `int32[2]` or `int32[B, 2]`.
    data: an integer or `int[]`.

  Returns:
    A seed of the same shape.
  """
  if seed.shape.rank == 1:
    return tf.random.experimental.stateless_fold_in(seed, data)
  return tf.map_fn(lambda row: tf.random.experimental.stateless_fold_in(row, data), seed)


def split(seed: tf.Tensor, num: int) -> list[tf.Tensor]:
  """Splits a seed into independent seeds.

  Args:
    seed: `int32[2]` or `int32[B, 2]`.
    num: number of seeds.

  Returns:
    `num` seeds of the same shape.
  """
  if seed.shape.rank == 1:
    return tf.unstack(tf.random.split(seed, num))
  return tf.unstack(tf.map_fn(lambda row: tf.random.split(row, num), seed), num, axis=1)


def normal(shape, seed: tf.Tensor) -> tf.Tensor:
  """Draws standard normal numbers.

  Args:
    shape: shape of the result; with seeds `[B, 2]`, `shape[0]` must be B.
    seed: `int32[2]` or `int32[B, 2]`.

  Returns:
    `float32[shape]`.
  """
  return _draw(tf.random.stateless_normal, shape, seed)


def uniform(shape, seed: tf.Tensor) -> tf.Tensor:
  """Draws uniform numbers in [0, 1).

  Args:
    shape: shape of the result; with seeds `[B, 2]`, `shape[0]` must be B.
    seed: `int32[2]` or `int32[B, 2]`.

  Returns:
    `float32[shape]`.
  """
  return _draw(tf.random.stateless_uniform, shape, seed)


def _draw(draw, shape, seed):
  if seed.shape.rank == 1:
    return draw(shape, seed)
  shape = tf.convert_to_tensor(shape)
  static = tf.get_static_value(shape, partial=True)
  rows = tf.map_fn(lambda row: draw(shape[1:], row), seed, fn_output_signature=tf.float32)
  return tf.ensure_shape(rows, [None, *static[1:]])
