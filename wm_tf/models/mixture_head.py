"""The head of a dynamics model that predicts the next latent: a mixture density."""

from __future__ import annotations

import keras
import tensorflow as tf
from tensorflow_probability import distributions as tfd

from wm_tf.models.kernels import mixture
from wm_tf.models.kernels.stacked import make_dense

MIXTURE_KINDS = ("per_dimension", "joint")


def soft_bound(x: tf.Tensor, low: float, high: float) -> tf.Tensor:
  """Returns `x` mapped smoothly into (low, high), so that the gradient does not vanish.

  Args:
    x: `float32[...]`.
    low: the lower bound.
    high: the upper bound.
  """
  x = high - tf.math.softplus(high - x)
  return low + tf.math.softplus(x - low)


class MixtureHead(keras.layers.Layer):
  """A mixture density over Z outputs.

  `per_dimension` is the paper's density: each dimension has its own mixture of K normals, with
  Z x K weights in total. `joint` is one mixture of K diagonal Gaussians over all dimensions, with K
  weights.

  `wm_tf.models.kernels.mixture` computes the same numbers faster.

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
    """Creates the head.

    Args:
      event_size: number of outputs Z.
      num_mixtures: number of components K.
      kind: `per_dimension` or `joint`.
      input_size: width U of the hidden states.
      num_members: number of heads M with separate weights; None for one head without that
        dimension.
      name: name of the layer.

    Raises:
      ValueError: if `kind` is unknown.
    """
    super().__init__(name=name)
    if kind not in MIXTURE_KINDS:
      raise ValueError(f"The mixture kind must be one of {MIXTURE_KINDS}, got {kind!r}.")
    self.event_size, self.num_mixtures, self.kind = event_size, num_mixtures, kind
    self.num_members = num_members
    num_logits = num_mixtures * (event_size if kind == "per_dimension" else 1)
    # Widths of the logits, the locs and the unbounded log-scales in the projection.
    self.sizes = [num_logits, event_size * num_mixtures, event_size * num_mixtures]
    self.projection = make_dense(sum(self.sizes), input_size, num_members, name="projection")
    self.built = True

  def parameters(self, h: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Computes the mixture's parameters.

    Args:
      h: hidden states `float32[..., U]`.

    Returns:
      `(logits, loc, log_scale)`, each `float32[..., Z, K]`; the logits of a joint mixture are
      `float32[..., 1, K]`.
    """
    lead = tf.shape(h)[:-1]
    logits, loc, unbounded = (
      tf.reshape(x, tf.concat([lead, [x.shape[-1] // self.num_mixtures, self.num_mixtures]], 0))
      for x in tf.split(self.projection(h), self.sizes, axis=-1)
    )
    return logits, loc, soft_bound(unbounded, *mixture.LOG_SCALE_BOUNDS)

  def distribution(self, h: tf.Tensor) -> tfd.Distribution:
    """Returns the density; `log_prob(x[..., Z])` is `[..., Z]` per dimension or `[...]` joint.

    Args:
      h: hidden states `float32[..., U]`.
    """
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
    """Returns the negative log-likelihood in nats, summed over dimensions, `float32[...]`.

    This is `-sum(distribution(h).log_prob(target))`. A kernel computes it per dimension.

    Args:
      h: hidden states `float32[..., U]`.
      target: `float32[..., Z]`.
    """
    if self.kind == "joint":
      return -self.distribution(h).log_prob(target)
    return mixture.head_nll(self, h, target)

  def mean(self, h: tf.Tensor) -> tf.Tensor:
    """Returns the mean of the mixture, `float32[..., Z]`.

    Args:
      h: hidden states `float32[..., U]`.
    """
    logits, loc, _ = self.parameters(h)
    return tf.reduce_sum(tf.nn.softmax(logits) * loc, axis=-1)

  def sample(self, h: tf.Tensor, choice: tf.Tensor, noise: tf.Tensor, temperature) -> tf.Tensor:
    """Samples from the mixture with given noise.

    Args:
      h: hidden states `float32[..., B, U]`.
      choice: uniform `float32[B, Z]` in [0, 1) that picks the component by its cumulative weight
        (a joint mixture uses the first column).
      noise: standard normal `float32[B, Z]`.
      temperature: scalar or `float32[B]`. Logits are divided by it and variances multiplied by it
        (Ha & Schmidhuber 2018, appendix A.2); at 0 the sample is the loc of the heaviest component.

    Returns:
      `float32[..., B, Z]`.
    """
    logits, loc, log_scale = self.parameters(h)
    temperature = tf.reshape(tf.maximum(tf.cast(temperature, tf.float32), 1e-6), [-1, 1])
    if self.kind == "joint":
      choice = choice[:, :1]
    weights = tf.nn.softmax(logits / temperature[..., tf.newaxis])
    # The component is the number of cumulative weights below the draw. The last weight is left out
    # because rounding can make it smaller than the draw.
    below = tf.cumsum(weights, axis=-1)[..., :-1] <= choice[..., tf.newaxis]
    component = tf.one_hot(tf.reduce_sum(tf.cast(below, tf.int32), axis=-1), self.num_mixtures)
    picked_loc = tf.reduce_sum(component * loc, axis=-1)
    picked_scale = tf.exp(tf.reduce_sum(component * log_scale, axis=-1))
    return picked_loc + picked_scale * tf.sqrt(temperature) * noise
