"""Transposed convolutions of stride 2, computed by the method that is fastest for their shape."""

from __future__ import annotations

import keras
import tensorflow as tf

_STRIDE = 2
# Largest number of filters for which the four pixels of a cell fit into one vector register.
_FEW_FILTERS = 4


class Deconvolution(keras.layers.Conv2DTranspose):
  """Keras' `Conv2DTranspose` with stride 2 and no padding, with the same weights and results.

  TensorFlow computes a transposed convolution as the gradient of a convolution. That takes ten
  times as long as a dense layer if the input is a single pixel, and twice as long as
  `deconvolve_cells` if there are few filters.
  """

  def __init__(self, filters: int, kernel_size: int, activation=None, name=None):
    """Initializes the layer.

    Args:
      filters: number of filters.
      kernel_size: height and width of the kernel.
      activation: a Keras activation or its name; None for none.
      name: the name of the layer.
    """
    super().__init__(filters, kernel_size, strides=_STRIDE, activation=activation, name=name)

  def call(self, inputs: tf.Tensor) -> tf.Tensor:
    """Computes the transposed convolution, the bias and the activation.

    Args:
      inputs: `float32[B, H, W, C]`.

    Returns:
      `float32[B, 2 (H - 1) + kernel_size, 2 (W - 1) + kernel_size, filters]`.
    """
    kernel = tf.convert_to_tensor(self.kernel)
    if inputs.shape[1:3] == (1, 1):
      outputs = expand_pixel(inputs, kernel)
    elif self.filters <= _FEW_FILTERS and self.kernel_size[0] % _STRIDE == 0:
      outputs = deconvolve_cells(inputs, kernel)
    else:
      return super().call(inputs)
    return self.activation(tf.nn.bias_add(outputs, self.bias))


def expand_pixel(inputs: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
  """Computes the transposed convolution of single pixels as one dense product.

  Args:
    inputs: `float32[B, 1, 1, C]`.
    kernel: `float32[k, k, O, C]`.

  Returns:
    `float32[B, k, k, O]`.
  """
  size, _, filters, channels = kernel.shape
  flat = tf.matmul(inputs[:, 0, 0], tf.reshape(kernel, [-1, channels]), transpose_b=True)
  return tf.reshape(flat, [-1, size, size, filters])


@tf.custom_gradient
def deconvolve_cells(inputs: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
  """Computes a transposed convolution of stride 2 as a convolution at the input's resolution.

  The filters of the convolution are the four pixels of a cell of 2 x 2. The gradients are those of
  the transposed convolution, computed by ordinary convolutions.

  Args:
    inputs: `float32[B, H, W, C]`.
    kernel: `float32[k, k, O, C]` with even k.

  Returns:
    `float32[B, 2 H + k - 2, 2 W + k - 2, O]`.

  References:
    Shi et al. 2016, arXiv:1609.05158 and arXiv:1609.07009 (sub-pixel convolution).
  """
  size, _, filters, channels = kernel.shape
  reach = size // _STRIDE
  # Split the taps by parity: [cell, pixel, cell, pixel, O, C]; a convolution reverses the cells.
  taps = tf.reshape(kernel, [reach, _STRIDE, reach, _STRIDE, filters, channels])[::-1, :, ::-1]
  cells = tf.reshape(
    tf.transpose(taps, [0, 2, 5, 1, 3, 4]), [reach, reach, channels, _STRIDE**2 * filters]
  )
  edge = [reach - 1, reach - 1]
  padded = tf.pad(inputs, [[0, 0], edge, edge, [0, 0]])
  outputs = tf.nn.depth_to_space(tf.nn.conv2d(padded, cells, 1, "VALID"), _STRIDE)

  def gradient(upstream):
    strides = [1, _STRIDE, _STRIDE, 1]
    d_kernel = tf.raw_ops.Conv2DBackpropFilter(
      input=upstream,
      filter_sizes=kernel.shape,
      out_backprop=inputs,
      strides=strides,
      padding="VALID",
    )
    return tf.nn.conv2d(upstream, kernel, strides, "VALID"), d_kernel

  return outputs, gradient
