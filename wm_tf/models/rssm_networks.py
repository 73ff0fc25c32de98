"""The encoder and the decoder of an RSSM: normalised layers, and patches for images.

An image of any size is padded to whole patches of 4 x 4 pixels, each of which one product maps to
features. Convolutions of stride 2 then halve the height and width until they are about 4; every
halving doubles the number of features. The decoder is the mirror image.

References:
  Hafner et al. 2023, arXiv:2301.04104, appendix "Networks" (normalised layers with SiLU).
  Dosovitskiy et al. 2021, arXiv:2010.11929, section 3.1 (patches mapped by one product).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import keras
import tensorflow as tf

from wm_tf.core import ObservationSpec
from wm_tf.models.encoders import num_halvings
from wm_tf.models.gru import NormDense
from wm_tf.models.kernels.fused import fused
from wm_tf.models.kernels.patches import PatchDecoding, PatchEncoding
from wm_tf.models.kernels.stacked import fan_in, make_dense
from wm_tf.norms import RMSNorm, rms_norm

PATCH = 4  # Pixels a side.
_KERNEL = 4
_STRIDE = 2


class _Geometry:
  """How an image becomes a map of features.

  Attributes:
    padded: height and width of the image in whole patches.
    aligned: whether the image consists of whole patches.
    sizes: height and width of each map, the largest first.
    filters: number of features of each map.
  """

  def __init__(self, shape: Sequence[int], filters: int):
    # The patches do the first halvings.
    num = max(0, num_halvings(shape[:2]) - round(math.log2(PATCH)))
    multiple = PATCH * _STRIDE**num
    self.padded = [-(-length // multiple) * multiple for length in shape[:2]]
    self.sizes = [
      [length // (PATCH * _STRIDE**i) for length in self.padded] for i in range(num + 1)
    ]
    self.filters = [filters * _STRIDE**i for i in range(num + 1)]

    self.aligned = self.padded == list(shape[:2])
    self._size = shape[:2]

  def pad(self, images: tf.Tensor) -> tf.Tensor:
    """Pads `[B, H, W, C]` by zeros to whole patches."""
    if self.aligned:
      return images
    excess = [[0, wanted - found] for wanted, found in zip(self.padded, self._size, strict=True)]
    return tf.pad(images, [[0, 0], *excess, [0, 0]])

  def crop(self, images: tf.Tensor) -> tf.Tensor:
    """Removes what `pad` adds."""
    return images if self.aligned else images[:, : self._size[0], : self._size[1]]

  @property
  def flat_size(self) -> int:
    """Number of features of the smallest map."""
    return math.prod(self.sizes[-1]) * self.filters[-1]


class ImageEncoder(keras.layers.Layer):
  """Maps images to vectors."""

  def __init__(self, shape: Sequence[int], filters: int, units: int):
    """Initializes the weights.

    Args:
      shape: `(H, W, C)` of the images.
      filters: features of a patch.
      units: width of the output.
    """
    super().__init__()
    self._geometry = _Geometry(shape, filters)
    counts = self._geometry.filters
    self.patches = PatchEncoding(PATCH, shape[2], filters)
    self.convolutions = [
      keras.layers.Conv2D(
        count, _KERNEL, strides=_STRIDE, padding="same", kernel_initializer=fan_in()
      )
      for count in counts[1:]
    ]
    for layer, count in zip(self.convolutions, counts, strict=False):
      layer.build((None, None, None, count))
    self.norms = [RMSNorm(count) for count in counts]
    self.output_layer = NormDense(units, self._geometry.flat_size)
    self.built = True

  def call(self, images: tf.Tensor) -> tf.Tensor:
    """Encodes images.

    Args:
      images: `float32[B, H, W, C]` in [0, 1].

    Returns:
      `float32[B, units]`.
    """
    x = self._geometry.pad(images - 0.5)
    for layer, norm in zip((self.patches, *self.convolutions), self.norms, strict=True):
      x = _activate(layer(x), norm)
    return self.output_layer(tf.reshape(x, [-1, self._geometry.flat_size]))


class ImageDecoder(keras.layers.Layer):
  """Maps vectors to means of images."""

  def __init__(self, shape: Sequence[int], filters: int, input_size: int):
    """Initializes the weights.

    Args:
      shape: `(H, W, C)` of the images.
      filters: features of a patch.
      input_size: width of the input.
    """
    super().__init__()
    self._geometry = _Geometry(shape, filters)
    counts = self._geometry.filters
    self.input_layer = NormDense(self._geometry.flat_size, input_size)
    self.convolutions, self.norms = [], []
    for count, before in zip(counts[-2::-1], counts[:0:-1], strict=True):
      # An output has (kernel / stride)^2 inputs of each feature.
      scale = 1.0 / math.sqrt((_KERNEL / _STRIDE) ** 2 * before)
      layer = keras.layers.Conv2DTranspose(
        count,
        _KERNEL,
        strides=_STRIDE,
        padding="same",
        kernel_initializer=keras.initializers.TruncatedNormal(stddev=scale),
      )
      layer.build((None, None, None, before))
      self.convolutions.append(layer)
      self.norms.append(RMSNorm(count))
    self.patches = PatchDecoding(PATCH, shape[2], filters)
    self.built = True

  def call(self, x: tf.Tensor) -> tf.Tensor:
    """Decodes vectors.

    Args:
      x: `float32[B, input_size]`.

    Returns:
      `float32[B, H, W, C]`, which real images in [0, 1] are compared with.
    """
    return self._geometry.crop(self.patches(self._features(x))) + 0.5

  def errors(self, x: tf.Tensor, images: tf.Tensor) -> tf.Tensor:
    """Computes the squared errors of decoded images, without making the images.

    Args:
      x: `float32[B, input_size]`.
      images: the real ones, `float32[B, H, W, C]` in [0, 1].

    Returns:
      `float32[B]`, summed over the pixels.
    """
    geometry = self._geometry
    inside = None if geometry.aligned else geometry.pad(tf.ones_like(images[:1]))
    return self.patches.errors(self._features(x), geometry.pad(images - 0.5), inside)

  def _features(self, x: tf.Tensor) -> tf.Tensor:
    x = tf.reshape(self.input_layer(x), [-1, *self._geometry.sizes[-1], self._geometry.filters[-1]])
    for layer, norm in zip(self.convolutions, self.norms, strict=True):
      x = _activate(layer(x), norm)
    return x


class Encoder(keras.layers.Layer):
  """Maps observations to the embedding of an RSSM."""

  def __init__(
    self,
    observation: ObservationSpec,
    image_filters: int,
    image_units: int,
    vector_units: Sequence[int],
    output_size: int,
  ):
    """Initializes the weights.

    Args:
      observation: the specification of the observations.
      image_filters: features of a patch of an image.
      image_units: width of an encoded image.
      vector_units: widths of the layers that encode a vector.
      output_size: width of the output.
    """
    super().__init__()
    self.networks, width = [], 0
    for part in observation.parts:
      if part.kind == "image":
        self.networks.append([ImageEncoder(part.shape, image_filters, image_units)])
        width += image_units
      else:
        self.networks.append(_norm_layers(vector_units, part.shape[0]))
        width += vector_units[-1]
    self.output_layer = make_dense(output_size, width, None, initializer=fan_in())
    self.built = True

  def call(self, parts: Sequence[tf.Tensor]) -> tf.Tensor:
    """Encodes observations.

    Args:
      parts: one `float32[B, *part.shape]` for each part, in network units.

    Returns:
      `float32[B, output_size]`.
    """
    encoded = []
    for x, layers in zip(parts, self.networks, strict=True):
      for layer in layers:
        x = layer(x)
      encoded.append(x)
    return self.output_layer(tf.concat(encoded, axis=-1))


class Decoder(keras.layers.Layer):
  """Maps features of an RSSM to the means of observations."""

  def __init__(
    self,
    observation: ObservationSpec,
    image_filters: int,
    vector_units: Sequence[int],
    input_size: int,
  ):
    """Initializes the weights.

    Args:
      observation: the specification of the observations.
      image_filters: features of a patch of an image.
      vector_units: widths of the layers that decode a vector.
      input_size: width of the features.
    """
    super().__init__()
    self.networks = []
    for part in observation.parts:
      if part.kind == "image":
        self.networks.append([ImageDecoder(part.shape, image_filters, input_size)])
      else:
        last = make_dense(part.shape[0], vector_units[-1], None, initializer=fan_in())
        self.networks.append([*_norm_layers(vector_units, input_size), last])
    self.built = True

  def call(self, features: tf.Tensor) -> list[tf.Tensor]:
    """Decodes features.

    Args:
      features: `float32[B, input_size]`.

    Returns:
      One `float32[B, *part.shape]` for each part, in network units.
    """
    means = []
    for layers in self.networks:
      x = features
      for layer in layers:
        x = layer(x)
      means.append(x)
    return means

  def errors(self, features: tf.Tensor, parts: Sequence[tf.Tensor]) -> list[tf.Tensor]:
    """Computes the squared errors of the decoded parts.

    Args:
      features: `float32[B, input_size]`.
      parts: the real ones, one `float32[B, *part.shape]` for each part, in network units.

    Returns:
      One `float32[B]` for each part, summed over its numbers.
    """
    found = []
    for (*layers, last), real in zip(self.networks, parts, strict=True):
      x = features
      for layer in layers:
        x = layer(x)
      if isinstance(last, ImageDecoder):
        found.append(last.errors(x, real))
      else:
        found.append(tf.reduce_sum(tf.square(last(x) - real), axis=-1))
    return found


def _activate(x: tf.Tensor, norm: RMSNorm) -> tf.Tensor:
  """Returns the SiLU of the normalised maps `float32[B, h, w, C]`."""
  return fused(lambda x, gain: tf.nn.silu(rms_norm(x, gain)), x, norm.gain.value)


def _norm_layers(units: Sequence[int], input_size: int) -> list[NormDense]:
  sizes = (input_size, *units)
  return [NormDense(width, before) for before, width in zip(sizes, units, strict=False)]
