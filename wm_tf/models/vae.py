"""The frame model: a convolutional (beta-)VAE, `x -> z -> x`."""

from __future__ import annotations

import dataclasses

import keras
import tensorflow as tf

from wm_tf import rng
from wm_tf.checks import check_counts
from wm_tf.models.deconvolution import Deconvolution

FRAME_SIZE = 64


@dataclasses.dataclass(frozen=True)
class VAEConfig:
  """Sizes and loss of a `VAE`. The defaults are the paper's (Ha & Schmidhuber 2018, appendix A.1).

  Attributes:
    latent_size: Z.
    encoder_filters: filters of the stride-2, kernel-4 convolutions.
    decoder_filters: filters of the stride-2 transposed convolutions before the last one.
    beta: weight of the KL term (Higgins et al. 2017); 1 is the evidence lower bound.
    free_nats: nats per latent dimension below which the KL is not pressed further:
      `max(KL, free_nats * Z)` over the sum of dimensions, as the paper does with 0.5.
    row_weights: `(first_row, end_row, weight)` triples; these rows of the squared error count
      `weight` times, for small things that matter such as an instrument bar.
  """

  latent_size: int = 32
  encoder_filters: tuple[int, ...] = (32, 64, 128, 256)
  decoder_filters: tuple[int, int, int] = (128, 64, 32)
  beta: float = 1.0
  free_nats: float = 0.5
  row_weights: tuple[tuple[int, int, float], ...] = ()

  def __post_init__(self):
    check_counts(self, "latent_size", group="vae.")
    if len(self.encoder_filters) != 4 or len(self.decoder_filters) != 3:
      raise ValueError("vae.encoder_filters takes 4 numbers and vae.decoder_filters 3.")
    for first, end, _ in self.row_weights:
      if not 0 <= first < end <= FRAME_SIZE:
        raise ValueError(
          f"vae.row_weights are (first_row, end_row, weight) within 0 and {FRAME_SIZE}, "
          f"got rows {first}, {end}."
        )


def to_float(frames: tf.Tensor) -> tf.Tensor:
  """`uint8` frames to `float32` in [0, 1]."""
  return tf.cast(frames, tf.float32) * (1.0 / 255.0)


class VAE(keras.Model):
  """Variational autoencoder of 64x64x3 frames with a diagonal Gaussian posterior.

  References:
    Ha & Schmidhuber 2018, arXiv:1803.10122, section 3.1 and appendix A.1.
    Kingma & Welling 2014, arXiv:1312.6114, equation 10 (the bound and its KL in closed form).
  """

  def __init__(self, config: VAEConfig = VAEConfig(), name: str = "vae"):
    super().__init__(name=name)
    del self.loss  # Keras' attribute for `compile`, which would hide the method.
    self.config = config
    layers = keras.layers
    frame = (FRAME_SIZE, FRAME_SIZE, 3)
    self.encoder = keras.Sequential(
      [keras.Input(frame)]
      + [layers.Conv2D(f, 4, strides=2, activation="relu") for f in config.encoder_filters]
      + [layers.Flatten(), layers.Dense(2 * config.latent_size, name="posterior")],
      name="encoder",
    )
    flat = self.encoder.layers[-2].output.shape[-1]
    f1, f2, f3 = config.decoder_filters
    self.decoder = keras.Sequential(
      [
        keras.Input((config.latent_size,)),
        layers.Dense(flat),
        layers.Reshape((1, 1, flat)),
        Deconvolution(f1, 5, "relu", name="conv2d_transpose"),
        Deconvolution(f2, 5, "relu", name="conv2d_transpose_1"),
        Deconvolution(f3, 6, "relu", name="conv2d_transpose_2"),
        Deconvolution(3, 6, "sigmoid", name="conv2d_transpose_3"),
      ],
      name="decoder",
    )
    weights = [1.0] * FRAME_SIZE
    for first, end, weight in config.row_weights:
      weights[first:end] = [float(weight)] * (end - first)
    self._row_weights = tf.reshape(tf.constant(weights, tf.float32), [1, FRAME_SIZE, 1, 1])
    self.built = True

  def encode(self, frames: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns the posterior `(loc, log_scale)`, each `float32[B, Z]`, of `uint8[B, 64, 64, 3]`."""
    loc, log_scale = tf.split(self.encoder(to_float(frames)), 2, axis=-1)
    return loc, tf.clip_by_value(log_scale, -7.0, 2.0)

  def decode(self, z: tf.Tensor) -> tf.Tensor:
    """Returns mean frames `float32[B, 64, 64, 3]` in [0, 1] of latents `float32[B, Z]`."""
    return self.decoder(z)

  def call(self, frames: tf.Tensor) -> tf.Tensor:
    """Reconstructs frames through the posterior mean."""
    return self.decode(self.encode(frames)[0])

  def loss(self, frames: tf.Tensor, seed: tf.Tensor) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
    """Squared error summed over a frame plus the weighted KL, averaged over frames.

    Args:
      frames: `uint8[B, 64, 64, 3]`.
      seed: `int32[2]` for the posterior sample.

    Returns:
      The scalar loss and metrics: `sse` (unweighted, per frame), `kl` (nats per frame),
      `active_dimensions` (dimensions with more than 0.1 nat of KL on average).
    """
    loc, log_scale = self.encode(frames)
    z = loc + tf.exp(log_scale) * rng.normal(tf.shape(loc), seed)
    squared = tf.square(self.decode(z) - to_float(frames))
    weighted = tf.reduce_sum(squared * self._row_weights, axis=[1, 2, 3])
    kl = kl_to_standard_normal(loc, log_scale)
    total_kl = tf.reduce_sum(kl, axis=-1)
    bounded_kl = tf.maximum(total_kl, self.config.free_nats * self.config.latent_size)
    loss = tf.reduce_mean(weighted + self.config.beta * bounded_kl)
    return loss, {
      "sse": tf.reduce_mean(tf.reduce_sum(squared, axis=[1, 2, 3])),
      "kl": tf.reduce_mean(total_kl),
      "active_dimensions": tf.reduce_sum(tf.cast(tf.reduce_mean(kl, axis=0) > 0.1, tf.float32)),
    }


def kl_to_standard_normal(loc: tf.Tensor, log_scale: tf.Tensor) -> tf.Tensor:
  """KL(N(loc, scale) || N(0, 1)) per dimension, in nats (Kingma & Welling 2014, appendix B)."""
  return 0.5 * (tf.square(loc) + tf.exp(2.0 * log_scale) - 1.0) - log_scale
