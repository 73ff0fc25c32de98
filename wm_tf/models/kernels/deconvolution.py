"""Transposed convolutions of stride 2, computed in the way that is fastest for their shape."""

from __future__ import annotations

import keras
import tensorflow as tf

_STRIDE = 2
# Filters up to which the four pixels of a cell fit into one vector register of the processor.
_FEW_FILTERS = 4


class Deconvolution(keras.layers.Conv2DTranspose):
  """Keras' `Conv2DTranspose` with stride 2 and no padding: the same weights, the same numbers.

  TensorFlow computes it as the gradient of a convolution. That takes ten times as long as a dense
  layer where the input is a single pixel, and twice as long as `deconvolve_cells` where there are
  few filters.
  """

  def __init__(self, filters: int, kernel_size: int, activation=None, name=None):
    super().__init__(filters, kernel_size, strides=_STRIDE, activation=activation, name=name)

  def call(self, inputs: tf.Tensor) -> tf.Tensor:
    """`float32[B, H, W, C]` to `float32[B, 2 (H - 1) + kernel_size, ..., filters]`."""
    kernel = tf.convert_to_tensor(self.kernel)
    if inputs.shape[1:3] == (1, 1):
      outputs = expand_pixel(inputs, kernel)
    elif self.filters <= _FEW_FILTERS and self.kernel_size[0] % _STRIDE == 0:
      outputs = deconvolve_cells(inputs, kernel)
    else:
      return super().call(inputs)
    return self.activation(tf.nn.bias_add(outputs, self.bias))


def expand_pixel(inputs: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
  """Maps single pixels `float32[B, 1, 1, C]`, by a kernel `[k, k, O, C]`, to `[B, k, k, O]`."""
  size, _, filters, channels = kernel.shape
  flat = tf.matmul(inputs[:, 0, 0], tf.reshape(kernel, [-1, channels]), transpose_b=True)
  return tf.reshape(flat, [-1, size, size, filters])


@tf.custom_gradient
def deconvolve_cells(inputs: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
  """Maps `float32[B, H, W, C]`, by a kernel `[k, k, O, C]`, k even, to `[B, 2 H + k - 2, ..., O]`.

  A convolution at the resolution of the input whose filters are the four pixels of a cell of
  2 x 2. Its gradients are those of the transposed convolution, an ordinary one.

  References:
    Shi et al. 2016, arXiv:1609.05158 and arXiv:1609.07009 (sub-pixel convolution).
  """
  size, _, filters, channels = kernel.shape
  reach = size // _STRIDE
  # Taps of each parity apart: [cell, pixel, cell, pixel, O, C]; a convolution runs backwards.
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
