"""Conversion of a policy's raw outputs to actions, continuous and categorical.

A continuous action is `tanh(raw)`. A categorical action is a concatenation of one-hot vectors, one
for each group of choices: `float32[..., A]` with A the sum of `num_choices`. `num_choices` is empty
for continuous actions. For categorical actions the raw outputs of a group are the logits of its
choices, and groups are independent.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import tensorflow as tf

NumChoices = Sequence[int]


def by_group(
  fn: Callable[[tf.Tensor], tf.Tensor], x: tf.Tensor, num_choices: NumChoices
) -> tf.Tensor:
  """Applies a function to each group of choices.

  Args:
    fn: maps `[..., n]` to `[..., m]` along the last axis; called with any leading axes.
    x: `[..., A]`.
    num_choices: the number n of choices in each of G groups.

  Returns:
    The results of all groups, concatenated along the last axis.
  """
  if len(set(num_choices)) > 1:
    return tf.concat([fn(group) for group in tf.split(x, list(num_choices), axis=-1)], axis=-1)
  lead = tf.shape(x)[:-1]
  grouped = tf.reshape(x, tf.concat([lead, [len(num_choices), num_choices[0]]], axis=0))
  grouped = tf.ensure_shape(grouped, [*x.shape[:-1], len(num_choices), num_choices[0]])
  found = fn(grouped)
  size = len(num_choices) * found.shape[-1]
  flat = tf.reshape(found, tf.concat([lead, [size]], axis=0))
  return tf.ensure_shape(flat, [*x.shape[:-1], size])


def one_hot_argmax(x: tf.Tensor, num_choices: NumChoices) -> tf.Tensor:
  """Returns the one-hot vector of the largest number in each group.

  Args:
    x: `[..., A]`.
    num_choices: number of choices in each group.

  Returns:
    `[..., A]` in the dtype of `x`.
  """

  def largest(group):
    return tf.one_hot(tf.argmax(group, axis=-1), group.shape[-1], dtype=x.dtype)

  return by_group(largest, x, num_choices)


def greedy(raw: tf.Tensor, num_choices: NumChoices = ()) -> tf.Tensor:
  """Returns the action of a deterministic policy.

  Args:
    raw: `float32[..., A]`, the policy's outputs.
    num_choices: number of choices in each group; empty for continuous actions.

  Returns:
    `float32[..., A]`: `tanh(raw)`, or the most likely choice of each group.
  """
  return one_hot_argmax(raw, num_choices) if num_choices else tf.tanh(raw)


def sample(raw: tf.Tensor, uniform: tf.Tensor, num_choices: NumChoices) -> tf.Tensor:
  """Samples categorical actions by the Gumbel-max method.

  Args:
    raw: logits `float32[..., A]`.
    uniform: `float32[..., A]`, uniform random numbers in [0, 1).
    num_choices: number of choices in each group.

  Returns:
    One-hot groups `float32[..., A]`, without a gradient.
  """
  tiny = 1e-20
  gumbel = -tf.math.log(-tf.math.log(tf.maximum(uniform, tiny)) + tiny)
  return tf.stop_gradient(one_hot_argmax(raw + gumbel, num_choices))


def probabilities(raw: tf.Tensor, num_choices: NumChoices) -> tf.Tensor:
  """Computes the softmax of each group of logits.

  Args:
    raw: logits `float32[..., A]`.
    num_choices: number of choices in each group.

  Returns:
    `float32[..., A]`.
  """
  return by_group(tf.nn.softmax, raw, num_choices)


def straight_through(raw: tf.Tensor, uniform: tf.Tensor, num_choices: NumChoices) -> tf.Tensor:
  """Samples categorical actions whose gradient is that of the probabilities.

  Args:
    raw: logits `float32[..., A]`.
    uniform: `float32[..., A]`, uniform random numbers in [0, 1).
    num_choices: number of choices in each group.

  Returns:
    One-hot groups `float32[..., A]`.

  References:
    Bengio et al. 2013, arXiv:1308.3432; Hafner et al. 2021 (DreamerV2), arXiv:2010.02193.
  """
  p = probabilities(raw, num_choices)
  # The values are exactly 0 or 1, because p - p is exactly 0.
  return sample(raw, uniform, num_choices) + (p - tf.stop_gradient(p))


def log_probability(raw: tf.Tensor, action: tf.Tensor, num_choices: NumChoices) -> tf.Tensor:
  """Returns the log-probability of one-hot actions.

  Args:
    raw: logits `float32[..., A]`.
    action: one-hot groups `float32[..., A]`.
    num_choices: number of choices in each group.

  Returns:
    `float32[...]`, summed over groups.
  """
  return tf.reduce_sum(action * by_group(tf.nn.log_softmax, raw, num_choices), axis=-1)


def entropy(raw: tf.Tensor, num_choices: NumChoices) -> tf.Tensor:
  """Computes the entropy of the choices.

  Args:
    raw: logits `float32[..., A]`.
    num_choices: number of choices in each group.

  Returns:
    `float32[...]` in nats, summed over groups.
  """

  def plogp(group):
    return -tf.nn.softmax(group) * tf.nn.log_softmax(group)

  return tf.reduce_sum(by_group(plogp, raw, num_choices), axis=-1)


def mix_uniform(raw: tf.Tensor, num_choices: NumChoices, share: float) -> tf.Tensor:
  """Mixes the choices' probabilities with a uniform distribution, so that none becomes 0.

  Args:
    raw: logits `float32[..., A]`.
    num_choices: number of choices in each group.
    share: weight of the uniform distribution, in [0, 1]; with 0 the logits are unchanged.

  Returns:
    The logarithms of the mixed probabilities, `float32[..., A]`.

  References:
    Hafner et al. 2023 (DreamerV3), arXiv:2301.04104, "unimix".
  """
  if not share:
    return raw

  def mixed(group):
    return tf.math.log((1.0 - share) * tf.nn.softmax(group) + share / group.shape[-1])

  return by_group(mixed, raw, num_choices)
