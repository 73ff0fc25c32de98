"""What a VAE and an RSSM share: observations to and from the units of their networks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import keras
import tensorflow as tf

from wm_tf.core import Nest, ObservationSpec
from wm_tf.models import encoders


def to_float(frames: tf.Tensor) -> tf.Tensor:
  """Converts `uint8` frames to `float32` in [0, 1].

  Args:
    frames: `uint8[...]`.

  Returns:
    `float32[...]`.
  """
  return tf.cast(frames, tf.float32) * (1.0 / 255.0)


class ObservationNetworks:
  """A mixin for models with an encoder and a decoder of observations.

  Network units are [0, 1] for images, and those of `VectorScaler` for vectors.

  Attributes:
    observation: the specification of the observations.
    encoder: a network from the parts of an observation in network units.
    decoder: a network to the means of the parts in network units.
    scalers: one for each vector of the observation.
  """

  observation: ObservationSpec
  encoder: keras.Model
  decoder: keras.Model
  scalers: Sequence[encoders.VectorScaler]

  def adapt_scalers(self, observations: Iterable[Nest]) -> None:
    """Sets the statistics that vectors are standardised with; does nothing for images alone.

    Args:
      observations: with any leading dimensions.

    Raises:
      ValueError: if there is no finite observation.
    """

    def vectors(observation):
      values = encoders.part_values(self.observation, observation)
      pairs = zip(self.observation.parts, values, strict=True)
      return [value for part, value in pairs if part.kind == "vector"]

    if self.scalers:
      encoders.set_statistics(self.scalers, map(vectors, observations))

  def to_network_units(self, observation: Nest) -> list[tf.Tensor]:
    """Converts observations to network units.

    Args:
      observation: with any leading dimensions.

    Returns:
      One `float32[..., *part.shape]` for each part.

    Raises:
      ValueError: if `observation` does not match `self.observation`.
    """
    scalers, values = iter(self.scalers), encoders.part_values(self.observation, observation)
    return [
      to_float(value) if part.kind == "image" else next(scalers).standardise(value)
      for part, value in zip(self.observation.parts, values, strict=True)
    ]

  def from_network_units(self, means: Sequence[tf.Tensor]) -> Nest:
    """Converts the decoder's outputs to a nest like an observation.

    Args:
      means: one `float32[..., *part.shape]` for each part.

    Returns:
      Images `float32[..., H, W, C]` in [0, 1], vectors `float32[..., D]` in the environment's own
      units.
    """
    scalers = iter(self.scalers)
    return self.observation.pack(
      [
        mean if part.kind == "image" else next(scalers).restore(mean)
        for part, mean in zip(self.observation.parts, means, strict=True)
      ]
    )

  def decoded_means(self, inputs: tf.Tensor) -> list[tf.Tensor]:
    """Computes the decoder's outputs.

    Args:
      inputs: `float32[B, I]`.

    Returns:
      One `float32[B, *part.shape]` for each part, in network units.
    """
    means = self.decoder(inputs)
    return list(means) if isinstance(means, (list, tuple)) else [means]

  def bounded_means(self, inputs: tf.Tensor) -> list[tf.Tensor]:
    """Computes the decoder's outputs, with images clipped to [0, 1]. See `decoded_means`."""
    return [
      tf.clip_by_value(mean, 0.0, 1.0) if part.kind == "image" else mean
      for part, mean in zip(self.observation.parts, self.decoded_means(inputs), strict=True)
    ]
