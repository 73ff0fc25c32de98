"""Encoders and decoders of observations: convolutions for images, dense layers for vectors.

An `ObservationSpec` describes the parts of an observation. The networks take and return a list of
one tensor per part, in order (the tensor itself if there is one part): images are `float32` in
[0, 1], vectors are in the standardised units of `VectorScaler`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import keras
import numpy as np
import tensorflow as tf

from wm_tf.core import Nest, ObservationPart, ObservationSpec
from wm_tf.models.kernels.deconvolution import Deconvolution
from wm_tf.models.symlog import symexp, symlog

# Smallest and largest height and width of an image.
IMAGE_SIZES = (32, 128)
_PAPER_SIZE = (64, 64)
# Images of other sizes are reduced to about this height and width.
_SMALLEST_MAP = 4
# Standardised inputs are clipped to this size. Otherwise a number that was constant in the data
# and changes later would dominate all others.
_INPUT_BOUND = 20.0
# `exp` overflows above this.
_EXP_BOUND = 88.0


def make_encoder(
  observation: ObservationSpec,
  filters: Sequence[int],
  vector_units: Sequence[int],
  output_size: int,
) -> keras.Model:
  """Makes the network from an observation to the parameters of a posterior.

  Features of all parts are concatenated and projected by one dense layer.

  Args:
    observation: the specification of the observations.
    filters: numbers of filters of the convolutions; see `encode_image`.
    vector_units: widths of the dense layers; see `encode_vector`.
    output_size: width of the output.

  Returns:
    A model that maps the parts to `float32[B, output_size]`.
  """
  inputs = [keras.Input(part.shape) for part in observation.parts]
  features = [
    encode_image(x, filters) if part.kind == "image" else encode_vector(x, vector_units)
    for part, x in zip(observation.parts, inputs, strict=True)
  ]
  joint = keras.layers.Concatenate()(features) if len(features) > 1 else features[0]
  outputs = keras.layers.Dense(output_size, name="posterior")(joint)
  return keras.Model(one_or_all(inputs), outputs, name="encoder")


def make_decoder(
  observation: ObservationSpec,
  encoder_filters: Sequence[int],
  filters: Sequence[int],
  vector_units: Sequence[int],
  latent_size: int,
) -> keras.Model:
  """Makes the network from a latent to the means of an observation.

  Args:
    observation: the specification of the observations.
    encoder_filters: filters of the encoder; they set the width of an image's first layer.
    filters: filters of the transposed convolutions except the last; see `decode_image`.
    vector_units: widths of the dense layers; see `decode_vector`.
    latent_size: Z.

  Returns:
    A model that maps `float32[B, Z]` to the parts.
  """
  z = keras.Input((latent_size,))
  outputs = [
    decode_image(z, part.shape, encoder_filters, filters)
    if part.kind == "image"
    else decode_vector(z, part.shape[0], vector_units)
    for part in observation.parts
  ]
  return keras.Model(z, one_or_all(outputs), name="decoder")


def encode_image(x, filters: Sequence[int]):
  """Encodes an image by convolutions of stride 2 and kernel 4.

  For a 64 x 64 image this is the architecture of Ha & Schmidhuber (2018, appendix A.1): four
  convolutions without padding. An image of any other size is padded and halved until it is about
  4 x 4; the last filter count is repeated if `filters` are too few.

  Args:
    x: a Keras tensor `[B, H, W, C]`.
    filters: numbers of filters of the convolutions, first to last.

  Returns:
    A Keras tensor `[B, F]`.
  """
  size = tuple(x.shape[1:3])
  padding = "valid" if size == _PAPER_SIZE else "same"
  if size != _PAPER_SIZE:
    filters = [filters[min(i, len(filters) - 1)] for i in range(num_halvings(size))]
  for count in filters:
    x = keras.layers.Conv2D(count, 4, strides=2, padding=padding, activation="relu")(x)
  return keras.layers.Flatten()(x)


def decode_image(
  z, shape: tuple[int, int, int], encoder_filters: Sequence[int], filters: Sequence[int]
):
  """Decodes an image by transposed convolutions of stride 2, the mirror of `encode_image`.

  Args:
    z: a Keras tensor `[B, Z]`.
    shape: `(H, W, C)`.
    encoder_filters: filters of the encoder, first to last.
    filters: filters of the transposed convolutions except the last, in order.

  Returns:
    A Keras tensor `[B, H, W, C]` in [0, 1].
  """
  layers = keras.layers
  *size, channels = shape
  if tuple(size) == _PAPER_SIZE:
    flat = 4 * encoder_filters[-1]
    x = layers.Reshape((1, 1, flat))(layers.Dense(flat, name="dense")(z))
    steps = zip((*filters, channels), (5, 5, 6, 6), strict=True)
    for i, (count, kernel_size) in enumerate(steps):
      activation = "sigmoid" if i == len(filters) else "relu"
      name = f"conv2d_transpose_{i}" if i else "conv2d_transpose"
      x = Deconvolution(count, kernel_size, activation, name=name)(x)
    return x
  num = num_halvings(size)
  sizes = [tuple(-(-length // 2**i) for length in size) for i in range(num, -1, -1)]
  counts = [filters[max(i, 0)] for i in range(len(filters) - num + 1, len(filters))]
  width = encoder_filters[min(num, len(encoder_filters)) - 1]
  x = layers.Reshape((*sizes[0], width))(layers.Dense(math.prod(sizes[0]) * width)(z))
  for i, (count, target) in enumerate(zip((*counts, channels), sizes[1:], strict=True)):
    x = Deconvolution(count, 4, "sigmoid" if i == len(counts) else "relu")(x)
    # The first row and column, and those beyond the target, are padding.
    excess = [found - 1 - wanted for found, wanted in zip(x.shape[1:3], target, strict=True)]
    x = layers.Cropping2D([(1, beyond) for beyond in excess])(x)
  return x


def encode_vector(x, units: Sequence[int]):
  """Encodes a vector by dense layers and concatenates the vector itself.

  The direct path lets a low-dimensional state reach the latent exactly.

  Args:
    x: a Keras tensor `[B, D]`.
    units: widths of the layers.

  Returns:
    A Keras tensor `[B, D + units[-1]]`.
  """
  return keras.layers.Concatenate()([x, _dense_layers(x, units)])


def decode_vector(z, size: int, units: Sequence[int]):
  """Decodes a vector: a linear function of the latent and of dense layers on the latent.

  Args:
    z: a Keras tensor `[B, Z]`.
    size: D.
    units: widths of the layers.

  Returns:
    A Keras tensor `[B, D]`.
  """
  joint = keras.layers.Concatenate()([z, _dense_layers(z, units)])
  return keras.layers.Dense(size)(joint)


def _dense_layers(x, units: Sequence[int]):
  for width in units:
    x = keras.layers.Dense(width, activation="silu")(x)
  return x


def num_halvings(size: Sequence[int]) -> int:
  """Returns how many convolutions of stride 2 reduce an image to about 4 x 4.

  Args:
    size: height and width in pixels.
  """
  return max(1, round(math.log2(math.sqrt(math.prod(size)) / _SMALLEST_MAP)))


class VectorScaler(keras.layers.Layer):
  """Maps vectors between the environment's units and standardised units.

  A standardised vector is `(symlog(x) - loc) / scale`. The statistics `loc` and `scale` are
  non-trainable weights, so they are saved with the model.

  References:
    Hafner et al. 2023, arXiv:2301.04104 (symlog of vector observations).

  Attributes:
    loc, scale: mean and standard deviation of the data's `symlog(x)`, `float32[D]`.
  """

  def __init__(self, size: int, name: str = "vector_scaler"):
    """Initializes the scaler with mean 0 and scale 1.

    Args:
      size: D.
      name: the name of the layer.
    """
    super().__init__(name=name)
    constant = keras.initializers.Constant
    self.loc = self.add_weight(
      name="loc", shape=(size,), initializer=constant(0.0), trainable=False
    )
    self.scale = self.add_weight(
      name="scale", shape=(size,), initializer=constant(1.0), trainable=False
    )
    self.built = True

  def standardise(self, x: tf.Tensor) -> tf.Tensor:
    """Converts vectors to standardised units.

    Args:
      x: `float32[..., D]` in the environment's units.

    Returns:
      `float32[..., D]`, clipped to [-20, 20].
    """
    scaled = (symlog(x) - self.loc) / self.scale
    return tf.clip_by_value(scaled, -_INPUT_BOUND, _INPUT_BOUND)

  def restore(self, x: tf.Tensor) -> tf.Tensor:
    """Converts vectors to the environment's units; the inverse of `standardise`.

    Args:
      x: `float32[..., D]` in standardised units.

    Returns:
      `float32[..., D]`; the argument of `symexp` is clipped to [-88, 88] to prevent overflow.
    """
    return symexp(tf.clip_by_value(x * self.scale + self.loc, -_EXP_BOUND, _EXP_BOUND))


def set_statistics(scalers: Sequence[VectorScaler], values: Iterable[Sequence[np.ndarray]]) -> None:
  """Sets the statistics of scalers from data.

  Rows that are not finite are left out. A number that never changes gets a scale of 1.

  Args:
    scalers: one for each vector of an observation.
    values: for each batch, an array `[..., D]` for each scaler.

  Raises:
    ValueError: if a scaler has no finite row.
  """
  sums = [np.zeros((2, scaler.loc.shape[0])) for scaler in scalers]
  counts = [0] * len(scalers)
  for batch in values:
    for i, value in enumerate(batch):
      x = np.asarray(value, np.float64).reshape(-1, sums[i].shape[1])
      x = x[np.isfinite(x).all(axis=1)]
      x = np.sign(x) * np.log1p(np.abs(x))
      sums[i] += [x.sum(axis=0), np.square(x).sum(axis=0)]
      counts[i] += len(x)
  if not all(counts):
    raise ValueError("There are no finite vector observations to take statistics from.")
  for scaler, (total, squares), count in zip(scalers, sums, counts, strict=True):
    loc = total / count
    scale = np.sqrt(np.maximum(squares / count - np.square(loc), 0.0))
    scaler.loc.assign(loc.astype(np.float32))
    constant = scale < 1e-6 * np.maximum(np.abs(loc), 1.0)
    scaler.scale.assign(np.where(constant, 1.0, scale).astype(np.float32))


def check_parts(spec: ObservationSpec) -> None:
  """Checks that the images of an observation can be encoded.

  Args:
    spec: the specification of the observation.

  Raises:
    ValueError: if a side of an image is outside the range `IMAGE_SIZES`, in pixels.
  """
  smallest, largest = IMAGE_SIZES
  for part in spec.images:
    if not all(smallest <= length <= largest for length in part.shape[:2]):
      raise ValueError(
        f"{_label(part)} has {part.shape[0]} x {part.shape[1]} pixels; the encoder takes images of "
        f"{smallest} to {largest} pixels a side. Set environment_options.frame_size."
      )


def part_values(spec: ObservationSpec, observation: Nest) -> list[tf.Tensor]:
  """Returns the parts of an observation in order, checked against its specification.

  Args:
    spec: the specification of the observation.
    observation: an array or a dict of arrays, with any leading dimensions.

  Returns:
    One tensor `[..., *part.shape]` for each part.

  Raises:
    ValueError: if a part is missing, or has the wrong shape or kind of dtype.
  """
  if isinstance(observation, dict) == spec.is_array:
    wanted = "one array" if spec.is_array else f"a dict of {[part.name for part in spec.parts]}"
    raise ValueError(f"An observation must be {wanted}, got {type(observation).__name__}.")
  if missing := [part.name for part in spec.parts if part.name and part.name not in observation]:
    raise ValueError(f"The observation lacks {missing}.")
  values = [tf.convert_to_tensor(value) for value in spec.unpack(observation)]
  for part, value in zip(spec.parts, values, strict=True):
    rank = len(part.shape)
    if tuple(value.shape[-rank:]) != part.shape or (value.dtype == tf.uint8) != (
      part.kind == "image"
    ):
      raise ValueError(
        f"{_label(part)} must be {part.dtype}[..., {', '.join(map(str, part.shape))}], got "
        f"{value.dtype.name}{value.shape}. Cached posteriors must be wrapped in `Embedded`."
      )
  return values


def _label(part: ObservationPart) -> str:
  return f"The observation {part.name!r}" if part.name else "The observation"


def one_or_all(values: list):
  """Returns the only element of a list of one element, and any other list unchanged.

  Args:
    values: a list.

  Returns:
    `values[0]` or `values`.
  """
  return values[0] if len(values) == 1 else values
