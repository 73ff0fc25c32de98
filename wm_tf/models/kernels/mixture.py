"""A `MixtureHead` with its weights ordered by component, and its log-likelihood with its gradient.

The columns of the head's projection are ordered by dimension: K numbers for the first of Z
dimensions, then K for the second. Ordered by component instead, an imagined step reads and writes
contiguous `[..., Z]`, and products of few rows, each of which TensorFlow runs on one core, use all
cores.
"""

from __future__ import annotations

import functools
import math

import tensorflow as tf

LOG_SCALE_BOUNDS = (-5.0, 2.0)
# Kernel and bias of the logits, the locs and the unbounded log-scales.
Weights = list[tuple[tf.Tensor, tf.Tensor]]


def by_component(head) -> Weights:
  """Reorders the weights of a head by component; a rollout calls this once, before its loop.

  Args:
    head: a `MixtureHead`.

  Returns:
    Three pairs of kernel `[..., U, K Z]` and bias, for the logits, the locs and the unbounded
    log-scales (kernel `[..., U, K]` for the logits of a joint mixture).
  """

  def thirds(x):
    return [_swap(part, head.num_mixtures) for part in tf.split(x, head.sizes, axis=-1)]

  return list(zip(thirds(head.projection.kernel), thirds(head.projection.bias), strict=True))


def project(h: tf.Tensor, weights: Weights) -> list[tf.Tensor]:
  """Computes the logits, locs and unbounded log-scales of hidden states.

  Args:
    h: `float32[..., U]`; `[M, B, U]` if there are members.
    weights: from `by_component`.

  Returns:
    Three `float32[..., K Z]` (the logits of a joint mixture: `[..., K]`).
  """
  return [tf.linalg.matmul(h, kernel) + bias for kernel, bias in weights]


def split_components(projected: list[tf.Tensor], num_mixtures: int) -> list[list[tf.Tensor]]:
  """Splits the result of `project` into its components.

  Args:
    projected: three `float32[..., K Z]` (the logits of a joint mixture: `[..., K]`).
    num_mixtures: K.

  Returns:
    Three lists of K tensors `float32[..., Z]` (the logits of a joint mixture: `[..., 1]`).
  """
  return [tf.split(x, num_mixtures, axis=-1) for x in projected]


def mean(projected: list[tf.Tensor], num_mixtures: int) -> tf.Tensor:
  """Computes `MixtureHead.mean` from the result of `project`.

  Args:
    projected: three `float32[..., K Z]` (the logits of a joint mixture: `[..., K]`).
    num_mixtures: K.

  Returns:
    `float32[..., Z]`.
  """
  logits, loc, _ = split_components(projected, num_mixtures)
  weights = _exponentials(logits)
  return sum(w * x for w, x in zip(weights, loc, strict=True)) / sum(weights)


def sample(
  kind: str, components: list[list[tf.Tensor]], choice: tf.Tensor, noise: tf.Tensor, temperature
) -> tf.Tensor:
  """Computes `MixtureHead.sample` from split components.

  Args:
    kind: the kind of the mixture, one of `MIXTURE_KINDS`.
    components: the result of `split_components`.
    choice: see `MixtureHead.sample`.
    noise: see `MixtureHead.sample`.
    temperature: see `MixtureHead.sample`.

  Returns:
    `float32[..., B, Z]`.
  """
  logits, loc, unbounded = components
  temperature = tf.reshape(tf.maximum(tf.cast(temperature, tf.float32), 1e-6), [-1, 1])
  if kind == "joint":
    choice = choice[:, :1]
  weights = _exponentials(logits, temperature)
  threshold = choice * sum(weights)
  # The component is the number of cumulative weights below the draw. Only K - 1 of them are
  # compared because rounding can make the last one smaller than the draw.
  below, picked_loc, picked = 0.0, loc[0], unbounded[0]
  for weight, next_loc, next_scale in zip(weights[:-1], loc[1:], unbounded[1:], strict=True):
    below += weight
    further = below <= threshold
    picked_loc = tf.where(further, next_loc, picked_loc)
    picked = tf.where(further, next_scale, picked)
  scale, _ = bounded_scale(picked)
  return picked_loc + scale * tf.sqrt(temperature) * noise


def bounded_scale(x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
  """Computes `exp(soft_bound(x, *LOG_SCALE_BOUNDS))` and its derivative from one sigmoid.

  Args:
    x: unbounded log-scales `float32[...]`.

  Returns:
    The scale and its derivative with respect to `x`, each `float32[...]`.
  """
  low, high = LOG_SCALE_BOUNDS
  sigmoid = tf.sigmoid(x - high)
  return math.exp(low) + math.exp(high) * sigmoid, math.exp(high) * sigmoid * (1.0 - sigmoid)


def head_nll(head, h: tf.Tensor, target: tf.Tensor) -> tf.Tensor:
  """Computes `MixtureHead.nll` of `per_dimension` mixtures.

  Args:
    head: a `MixtureHead`.
    h: `float32[..., U]`; `[M, ..., U]` if there are members.
    target: `float32[..., Z]`.

  Returns:
    `float32[...]`.
  """
  lead, size = tf.shape(h)[:-1], h.shape[-1]
  rows = tf.reshape(h, [head.num_members, -1, size] if head.num_members else [-1, size])
  target = tf.broadcast_to(target, tf.concat([lead, [head.event_size]], 0))
  projected = [tf.reshape(x, [-1, x.shape[-1]]) for x in project(rows, by_component(head))]
  nll = mixture_nll(*projected, tf.reshape(target, [-1, head.event_size]))
  return tf.reshape(nll, lead)


@tf.custom_gradient
def mixture_nll(logits: tf.Tensor, loc: tf.Tensor, unbounded: tf.Tensor, x: tf.Tensor) -> tf.Tensor:
  """Computes `-log p(x)` in nats, where each of Z dimensions has a mixture of K normals.

  One XLA program computes the value and its gradient. As separate TensorFlow operations, the
  passes over `[N, K Z]` took a quarter of a training step.

  Args:
    logits: `float32[N, K Z]`, by component.
    loc: `float32[N, K Z]`, by component.
    unbounded: log-scales before `soft_bound`, `float32[N, K Z]`, by component.
    x: `float32[N, Z]`.

  Returns:
    `float32[N]`, summed over dimensions.

  References:
    Bishop 1994, "Mixture Density Networks", equations 28 and 34 to 39.
  """
  # Without `stop_gradient` an eager tape would require a gradient of the compiled program.
  nll, *slopes = _nll_and_slopes(*map(tf.stop_gradient, (logits, loc, unbounded, x)))
  return nll, lambda upstream: [slope * upstream[:, tf.newaxis] for slope in slopes]


@tf.function(jit_compile=True, autograph=False)
def _nll_and_slopes(logits, loc, unbounded, x):
  """Computes `mixture_nll` and its derivatives with respect to each argument."""
  rows, size = tf.shape(x)[0], x.shape[-1]
  logits, loc, unbounded = (tf.reshape(y, [rows, -1, size]) for y in (logits, loc, unbounded))
  scale, scale_slope = bounded_scale(unbounded)
  deviation = (x[:, tf.newaxis] - loc) / scale
  joint = logits - 0.5 * tf.square(deviation) - tf.math.log(scale)
  largest, joint_largest = (tf.reduce_max(y, axis=1, keepdims=True) for y in (logits, joint))
  prior, posterior = tf.exp(logits - largest), tf.exp(joint - joint_largest)
  prior_sum, posterior_sum = (tf.reduce_sum(y, axis=1, keepdims=True) for y in (prior, posterior))
  nll = largest + tf.math.log(prior_sum) - joint_largest - tf.math.log(posterior_sum)
  share = posterior / posterior_sum
  d_loc = -share * deviation / scale
  d_logits = prior / prior_sum - share
  d_unbounded = share * (1.0 - tf.square(deviation)) * scale_slope / scale
  return (
    tf.reduce_sum(nll, axis=[1, 2]) + 0.5 * size * math.log(2.0 * math.pi),
    *(tf.reshape(y, [rows, -1]) for y in (d_logits, d_loc, d_unbounded)),
    -tf.reduce_sum(d_loc, axis=1),
  )


def _exponentials(logits: list[tf.Tensor], temperature=1.0) -> list[tf.Tensor]:
  """Returns the numerators of a softmax over K logits that are separate tensors."""
  largest = functools.reduce(tf.maximum, logits)
  return [tf.exp((x - largest) / temperature) for x in logits]


def _swap(x: tf.Tensor, num_mixtures: int) -> tf.Tensor:
  """Transposes columns `[..., Z K]` to `[..., K Z]`."""
  lead, size = tf.shape(x)[:-1], x.shape[-1]
  shape = [size // num_mixtures, num_mixtures]
  apart = tf.linalg.matrix_transpose(tf.reshape(x, tf.concat([lead, shape], 0)))
  return tf.reshape(apart, tf.concat([lead, [size]], 0))
