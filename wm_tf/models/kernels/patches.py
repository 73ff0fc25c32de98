"""Images as patches, which one product maps to features and back.

A convolution whose stride is its kernel's size is a product of each patch with one matrix. As a
product it is several times as fast on a CPU.
"""

from __future__ import annotations

import keras
import tensorflow as tf

from wm_tf.models.kernels.fused import fused
from wm_tf.models.kernels.stacked import fan_in, make_dense


class PatchEncoding(keras.layers.Layer):
  """Maps every patch of an image to features: a convolution without overlap."""

  def __init__(self, size: int, channels: int, filters: int):
    """Initializes the weights.

    Args:
      size: height and width of a patch in pixels.
      channels: C of the images.
      filters: number of features of a patch.
    """
    super().__init__()
    self._size = size
    self.dense = make_dense(filters, size * size * channels, None, initializer=fan_in())
    self.built = True

  def call(self, images: tf.Tensor) -> tf.Tensor:
    """Encodes the patches.

    Args:
      images: `float32[B, H, W, C]`; H and W are multiples of `size`.

    Returns:
      `float32[B, H / size, W / size, filters]`.
    """
    return self.dense(tf.nn.space_to_depth(images, self._size))


class PatchDecoding(keras.layers.Layer):
  """Maps features to patches of an image: a transposed convolution without overlap."""

  def __init__(self, size: int, channels: int, filters: int):
    """Initializes the weights.

    Args:
      size: height and width of a patch in pixels.
      channels: C of the images.
      filters: number of features of a patch.
    """
    super().__init__()
    self._size = size
    self.dense = make_dense(size * size * channels, filters, None, initializer=fan_in())
    self.built = True

  def call(self, features: tf.Tensor) -> tf.Tensor:
    """Decodes the patches.

    Args:
      features: `float32[B, h, w, filters]`.

    Returns:
      `float32[B, size h, size w, C]`.
    """
    return tf.nn.depth_to_space(self.dense(features), self._size)

  def errors(
    self, features: tf.Tensor, images: tf.Tensor, inside: tf.Tensor | None = None
  ) -> tf.Tensor:
    """Computes the squared errors of the decoded patches, without putting them together.

    Args:
      features: `float32[B, h, w, filters]`.
      images: the real ones, `float32[B, size h, size w, C]`; no gradient flows to them.
      inside: weights of the pixels, `float32[1, size h, size w, C]`; None for 1.

    Returns:
      `float32[B]`, summed over the pixels.
    """
    kernel, bias = self.dense.kernel.value, self.dense.bias.value

    def sums(features, kernel, bias, *images):
      patches, *weights = (tf.nn.space_to_depth(x, self._size) for x in images)
      rows = tf.matmul(tf.reshape(features, [-1, kernel.shape[0]]), kernel) + bias
      error = tf.square(tf.reshape(rows, tf.shape(patches)) - patches)
      return tf.reduce_sum(error * weights[0] if weights else error, axis=[1, 2, 3])

    constants = [images] if inside is None else [images, inside]
    return fused(sums, features, kernel, bias, constants=constants)
