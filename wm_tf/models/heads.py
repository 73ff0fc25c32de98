"""What a dynamics predicts from its hidden state: the next latent, the reward, the termination.

With `num_members` = M a head is M of them side by side, with weights of their own: the hidden
states that it takes, and what it answers, then have a leading M.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence

import keras
import numpy as np
import tensorflow as tf
from tensorflow_probability import distributions as tfd

from wm_tf.models.stacked import make_dense

MIXTURE_KINDS = ("per_dimension", "joint")
_LOG_SCALE_BOUNDS = (-5.0, 2.0)
# Kernels and biases of products that are taken apart.
Weights = list[tuple[tf.Tensor, tf.Tensor]]


def soft_bound(x: tf.Tensor, low: float, high: float) -> tf.Tensor:
  """Squeezes `x` smoothly into (low, high), so that a gradient remains at the bounds."""
  x = high - tf.math.softplus(high - x)
  return low + tf.math.softplus(x - low)


def bounded_scale(x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
  """`exp(soft_bound(x))` within the bounds of log-scales, and its derivative: one sigmoid."""
  low, high = _LOG_SCALE_BOUNDS
  sigmoid = tf.sigmoid(x - high)
  return math.exp(low) + math.exp(high) * sigmoid, math.exp(high) * sigmoid * (1.0 - sigmoid)


@tf.custom_gradient
def mixture_nll(logits: tf.Tensor, loc: tf.Tensor, unbounded: tf.Tensor, x: tf.Tensor) -> tf.Tensor:
  """`-log p(x)` in nats, `float32[N]`: each of Z dimensions under a mixture of K normals.

  The gradient is written out, and computed along with the value by one program of XLA's: as
  operations of their own, the passes over `[N, K Z]` were a quarter of a training step.

  Args:
    logits, loc, unbounded: `float32[N, K Z]`, by component; log-scales before they are bounded.
    x: `float32[N, Z]`.

  References:
    Bishop 1994, "Mixture Density Networks", equations 28 and 34 to 39.
  """
  # An eager tape would look for a gradient of the compiled program itself.
  nll, *slopes = _nll_and_slopes(*map(tf.stop_gradient, (logits, loc, unbounded, x)))
  return nll, lambda upstream: [slope * upstream[:, tf.newaxis] for slope in slopes]


@tf.function(jit_compile=True, autograph=False)
def _nll_and_slopes(logits, loc, unbounded, x):
  """`mixture_nll`, and its derivatives by each argument."""
  rows, size = tf.shape(x)[0], x.shape[-1]
  logits, loc, unbounded = (tf.reshape(y, [rows, -1, size]) for y in (logits, loc, unbounded))
  scale, scale_slope = bounded_scale(unbounded)
  deviation = (x[:, tf.newaxis] - loc) / scale
  joint = logits - 0.5 * tf.square(deviation) - tf.math.log(scale)
  top, joint_top = (tf.reduce_max(y, axis=1, keepdims=True) for y in (logits, joint))
  prior, posterior = tf.exp(logits - top), tf.exp(joint - joint_top)
  prior_sum, posterior_sum = (tf.reduce_sum(y, axis=1, keepdims=True) for y in (prior, posterior))
  nll = top + tf.math.log(prior_sum) - joint_top - tf.math.log(posterior_sum)
  share = posterior / posterior_sum
  d_loc = -share * deviation / scale
  flat = lambda y: tf.reshape(y, [rows, -1])
  return (
    tf.reduce_sum(nll, axis=[1, 2]) + 0.5 * size * math.log(2.0 * math.pi),
    flat(prior / prior_sum - share),
    flat(d_loc),
    flat(share * (1.0 - tf.square(deviation)) * scale_slope / scale),
    -tf.reduce_sum(d_loc, axis=1),
  )


def _expected(logits: tf.Tensor, values: tf.Tensor) -> tf.Tensor:
  """The mean of `values[..., K]` under a categorical.

  The softmax is written out: as an op of its own it takes longer, over so few, than the rest of a
  dreamed step together.
  """
  weights = tf.exp(logits - tf.reduce_max(logits, axis=-1, keepdims=True))
  return tf.reduce_sum(weights * values, axis=-1) / tf.reduce_sum(weights, axis=-1)


class MixtureHead(keras.layers.Layer):
  """A mixture density over Z outputs (Bishop 1994), built on tfp's `MixtureSameFamily`.

  `per_dimension` is the paper's: every dimension has a mixture of its own of K normals. `joint` is
  one mixture of K diagonal Gaussians over all dimensions. They are different densities: the first
  has Z x K weights, the second K.

  References:
    Bishop 1994, "Mixture Density Networks", equations 22 to 25.
    Ha & Schmidhuber 2018, arXiv:1803.10122, appendix A.2 (K = 5, temperature).
  """

  def __init__(
    self,
    event_size: int,
    num_mixtures: int,
    kind: str,
    input_size: int,
    num_members: int | None = None,
    name="mixture",
  ):
    super().__init__(name=name)
    if kind not in MIXTURE_KINDS:
      raise ValueError(f"The mixture kind must be one of {MIXTURE_KINDS}, got {kind!r}.")
    self.event_size, self.num_mixtures, self.kind = event_size, num_mixtures, kind
    self._num_members = num_members
    num_logits = num_mixtures * (event_size if kind == "per_dimension" else 1)
    self._sizes = [num_logits, event_size * num_mixtures, event_size * num_mixtures]
    self.projection = make_dense(sum(self._sizes), input_size, num_members, name="projection")
    self.built = True

  def parameters(self, h: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Returns `(logits, loc, log_scale)` of hidden states `float32[..., U]`.

    `loc` and `log_scale` are `[..., Z, K]`; `logits` too, or `[..., 1, K]` for a joint mixture.
    """
    lead = tf.shape(h)[:-1]
    logits, loc, unbounded = (
      tf.reshape(x, tf.concat([lead, [x.shape[-1] // self.num_mixtures, self.num_mixtures]], 0))
      for x in tf.split(self.projection(h), self._sizes, axis=-1)
    )
    return logits, loc, soft_bound(unbounded, *_LOG_SCALE_BOUNDS)

  def distribution(self, h: tf.Tensor) -> tfd.Distribution:
    """Returns the density; `log_prob(x[..., Z])` is `[..., Z]` per dimension or `[...]` joint."""
    logits, loc, log_scale = self.parameters(h)
    if self.kind == "per_dimension":
      return tfd.MixtureSameFamily(
        tfd.Categorical(logits=logits), tfd.Normal(loc, tf.exp(log_scale))
      )
    components = tfd.MultivariateNormalDiag(
      tf.linalg.matrix_transpose(loc), tf.linalg.matrix_transpose(tf.exp(log_scale))
    )
    return tfd.MixtureSameFamily(tfd.Categorical(logits=logits[..., 0, :]), components)

  def nll(self, h: tf.Tensor, target: tf.Tensor) -> tf.Tensor:
    """Negative log-likelihood in nats, summed over the Z dimensions: `float32[...]`."""
    if self.kind == "joint":
      return -self.distribution(h).log_prob(target)
    lead, size = tf.shape(h)[:-1], h.shape[-1]
    rows = tf.reshape(h, [self._num_members, -1, size] if self._num_members else [-1, size])
    flat = lambda x: tf.reshape(x, [-1, x.shape[-1]])
    target = tf.broadcast_to(target, tf.concat([lead, [self.event_size]], 0))
    nll = mixture_nll(*map(flat, self.projected(rows, self.by_component())), flat(target))
    return tf.reshape(nll, lead)

  def mean(self, h: tf.Tensor) -> tf.Tensor:
    """The mean of the mixture, `float32[..., Z]`."""
    return self.mean_of(self.projected(h))

  def sample(self, h: tf.Tensor, choice: tf.Tensor, noise: tf.Tensor, temperature) -> tf.Tensor:
    """Samples `float32[..., Z]` from given noise; the same noise gives the same sample.

    Args:
      h: `float32[..., B, U]`.
      choice: uniform `float32[B, Z]` in [0, 1) that picks the component by its cumulative weight
        (a joint mixture reads the first column).
      noise: standard normal `float32[B, Z]`.
      temperature: scalar or `float32[B]`. Logits are divided by it and variances multiplied by it
        (Ha & Schmidhuber 2018, appendix A.2); towards 0 the sample is the heaviest component's loc.
    """
    return self.sample_of(self.components(self.projected(h)), choice, noise, temperature)

  def by_component(self) -> Weights:
    """Kernel and bias of the logits, the locs and the log-scales, each by component.

    So laid out, a dreamed step reads and writes contiguous `[..., Z]` rather than every K-th
    number, and products of few rows, for which TensorFlow takes one core, share all of them. It is
    for a rollout to do once, before its loop.
    """
    thirds = lambda x: map(self._swap, tf.split(x, self._sizes, axis=-1))
    return list(zip(thirds(self.projection.kernel), thirds(self.projection.bias), strict=True))

  def projected(self, h: tf.Tensor, weights: Weights | None = None) -> list[tf.Tensor]:
    """Logits, locs and unbounded log-scales of `h` for `mean_of` and `sample_of`.

    Args:
      h: `float32[..., U]`; `[M, B, U]` if there are members.
      weights: from `by_component`; without, what was projected is put in that order, which takes
        less time if it is done only once.

    Returns:
      Three `float32[..., K * Z]` (the logits of a joint mixture: `[..., K]`).
    """
    if weights is None:
      return [self._swap(x) for x in tf.split(self.projection(h), self._sizes, axis=-1)]
    return [tf.linalg.matmul(h, kernel) + bias for kernel, bias in weights]

  def components(self, projected: list[tf.Tensor]) -> list[list[tf.Tensor]]:
    """K each of logits, locs and unbounded log-scales, `[..., Z]` (or joint logits `[..., 1]`)."""
    return [tf.split(x, self.num_mixtures, axis=-1) for x in projected]

  def _swap(self, x: tf.Tensor) -> tf.Tensor:
    """`[..., Z * K]` to `[..., K * Z]`."""
    lead, size = tf.shape(x)[:-1], x.shape[-1]
    shape = [size // self.num_mixtures, self.num_mixtures]
    apart = tf.linalg.matrix_transpose(tf.reshape(x, tf.concat([lead, shape], 0)))
    return tf.reshape(apart, tf.concat([lead, [size]], 0))

  def mean_of(self, projected: list[tf.Tensor]) -> tf.Tensor:
    """`mean` of what `projected` gave."""
    logits, loc, _ = self.components(projected)
    weights = _exponentials(logits)
    return sum(w * x for w, x in zip(weights, loc, strict=True)) / sum(weights)

  def sample_of(self, components: list[list[tf.Tensor]], choice, noise, temperature) -> tf.Tensor:
    """`sample` from what `components` gave."""
    logits, loc, unbounded = components
    temperature = tf.reshape(tf.maximum(tf.cast(temperature, tf.float32), 1e-6), [-1, 1])
    if self.kind == "joint":
      choice = choice[:, :1]
    weights = _exponentials(logits, temperature)
    threshold = choice * sum(weights)
    # The component is the number of cumulative weights below the draw, summed up along the way.
    # Only K - 1 of them are compared, since rounding can leave the last one under the draw.
    below, picked_loc, picked = 0.0, loc[0], unbounded[0]
    for weight, next_loc, following in zip(weights[:-1], loc[1:], unbounded[1:], strict=True):
      below += weight
      further = below <= threshold
      picked_loc = tf.where(further, next_loc, picked_loc)
      picked = tf.where(further, following, picked)
    scale, _ = bounded_scale(picked)
    return picked_loc + scale * tf.sqrt(temperature) * noise


def _exponentials(logits: list[tf.Tensor], temperature=1.0) -> list[tf.Tensor]:
  """The softmax's numerators of K logits that lie in tensors of their own."""
  top = functools.reduce(tf.maximum, logits)
  return [tf.exp((x - top) / temperature) for x in logits]


def check_reward_bins(bins) -> np.ndarray:
  """Returns `float32[num_bins]`, or raises ValueError."""
  bins = np.asarray(bins, np.float32)
  if bins.ndim != 1 or len(bins) < 2 or not np.all(np.diff(bins) > 0):
    raise ValueError(f"reward_bins must be two or more increasing numbers, got {bins.tolist()}.")
  return bins


class RewardHead(keras.layers.Layer):
  """A distribution over what a step brings: a categorical over fixed reward values.

  A target between two values is spread over them so that its mean is exact (the two-hot of
  Bellemare et al. 2017, arXiv:1707.06887, equation 7, with a point mass).
  """

  def __init__(
    self,
    bins,
    input_size: int,
    hidden_size: int = 0,
    num_members: int | None = None,
    name="reward",
  ):
    super().__init__(name=name)
    self.bins = tf.constant(check_reward_bins(bins))
    self.network = Network(self.bins.shape[0], input_size, hidden_size, num_members)
    self.built = True

  def mean(self, logits: tf.Tensor) -> tf.Tensor:
    """Expected reward, `float32[...]`, of what `network` answers."""
    return _expected(logits, self.bins)

  def two_hot(self, reward: tf.Tensor) -> tf.Tensor:
    """`float32[..., num_bins]` weights whose mean is `reward`, clipped to the bins' range."""
    reward = tf.clip_by_value(reward, self.bins[0], self.bins[-1])
    num_bins = self.bins.shape[0]
    above = tf.searchsorted(self.bins, tf.reshape(reward, [-1]), side="right")
    above = tf.clip_by_value(tf.reshape(above, tf.shape(reward)), 1, num_bins - 1)
    low, high = tf.gather(self.bins, above - 1), tf.gather(self.bins, above)
    weight = ((reward - low) / (high - low))[..., tf.newaxis]
    return (1.0 - weight) * tf.one_hot(above - 1, num_bins) + weight * tf.one_hot(above, num_bins)

  def loss(self, logits: tf.Tensor, reward: tf.Tensor) -> tf.Tensor:
    """Cross-entropy in nats, `float32[...]`."""
    return tf.nn.softmax_cross_entropy_with_logits(self.two_hot(reward), logits)


class TerminationHead(keras.layers.Layer):
  """The probability that a step ends the episode.

  Terminations are rare, so positives are weighted (`positive_weight`, 10 in the paper's Doom
  experiment). The weight inflates the odds by the same factor, which `discount` takes out again,
  so that what the dream uses is a probability. What `network` answers are log-odds of an end under
  the weighted loss, `float32[..., 1]`.
  """

  def __init__(
    self,
    input_size: int,
    positive_weight: float = 10.0,
    hidden_size: int = 0,
    num_members: int | None = None,
    name="termination",
  ):
    super().__init__(name=name)
    if positive_weight <= 0:
      raise ValueError(f"positive_weight must be positive, got {positive_weight}.")
    self.positive_weight = positive_weight
    self.network = Network(1, input_size, hidden_size, num_members)
    self.built = True

  def discount(self, logits: tf.Tensor) -> tf.Tensor:
    """`1 - P(terminal)`, `float32[...]`."""
    return tf.sigmoid(float(np.log(self.positive_weight)) - logits[..., 0])

  def loss(self, logits: tf.Tensor, discount: tf.Tensor) -> tf.Tensor:
    """Weighted binary cross-entropy in nats against a real `discount` of 0 or 1."""
    return tf.nn.weighted_cross_entropy_with_logits(
      1.0 - discount, logits[..., 0], self.positive_weight
    )


class Network(keras.layers.Layer):
  """A dense layer, after a hidden one if `hidden_size` is not 0; for inputs of any rank."""

  def __init__(self, output_size: int, input_size: int, hidden_size: int, num_members: int | None):
    super().__init__(name="network")
    self.hidden = None
    if hidden_size:
      self.hidden = make_dense(hidden_size, input_size, num_members, activation="relu")
    self.output_layer = make_dense(output_size, hidden_size or input_size, num_members)
    self.built = True

  def call(self, x: tf.Tensor) -> tf.Tensor:
    return self.output_layer(self.hidden(x) if self.hidden else x)


def side_by_side(
  networks: Sequence[Network],
) -> tuple[tuple[tf.Tensor, tf.Tensor], Callable[[tf.Tensor], list[tf.Tensor]]]:
  """Networks as one, for a rollout to lay out before its loop.

  Args:
    networks: all with a hidden layer, or all without; of no members.

  Returns:
    Kernel and bias of all their first layers; and what maps the product with them,
    `float32[B, W]`, to each network's answer.
  """
  aside = lambda xs: tf.concat([tf.convert_to_tensor(x) for x in xs], axis=-1)
  last = [network.output_layer for network in networks]
  sizes, bias = [layer.units for layer in last], aside(layer.bias for layer in last)
  if not networks[0].hidden:
    return (aside(layer.kernel for layer in last), bias), lambda x: tf.split(x, sizes, axis=-1)
  hidden = [network.hidden for network in networks]
  first = aside(layer.kernel for layer in hidden), aside(layer.bias for layer in hidden)
  # Each reads only its own columns.
  above = np.cumsum([0] + [layer.units for layer in hidden])
  pads = [[[above[i], above[-1] - above[i + 1]], [0, 0]] for i in range(len(last))]
  kernel = aside(tf.pad(layer.kernel, pad) for layer, pad in zip(last, pads, strict=True))
  finish = lambda x: tf.split(tf.linalg.matmul(tf.nn.relu(x), kernel) + bias, sizes, axis=-1)
  return first, finish
