"""Converts observations and actions in a graph, with the same results as an environment's adapter.

The inputs of an exported model are the environment's own arrays, with its shapes, dtypes and
ranges. An image may also have the height and width that the agent sees.
"""

from __future__ import annotations

import keyword
import math
import re
from collections.abc import Mapping

import numpy as np
import tensorflow as tf

from wm_tf.core import ActionSpace, EnvSpec, Nest, ObservationPart, ObservationSpec
from wm_tf.envs.frames import resize_matrices

# Names of other inputs and outputs of the signatures, which an observation's input may not have;
# names that start with those in `_STATES` are reserved too.
_RESERVED = {
  *("action", "agent_action", "disagreement", "discount", "is_first", "loc", "mean", "name"),
  *("observation", "prev_action", "reward", "scale", "seed", "self", "temperature"),
}
_STATES = ("latent", "memory")


def input_names(observation: ObservationSpec) -> tuple[str, ...]:
  """Returns the names of the inputs for an observation's parts, in the order of the parts.

  The input of a single image is `frame`, that of a single vector `observation`. In a dict each part
  keeps its name, with underscores for characters that an identifier cannot have, and with the
  prefix `observation_` if the name is reserved.

  Args:
    observation: describes the observation.

  Returns:
    One name for each part.
  """
  if observation.is_array:
    return ("frame" if observation.images else "observation",)
  names: list[str] = []
  taken: set[str] = set()
  for part in observation.parts:
    name = re.sub(r"\W", "_", part.name, flags=re.ASCII)
    reserved = name in _RESERVED or name.startswith(_STATES) or keyword.iskeyword(name)
    if reserved or not re.match("[A-Za-z]", name):
      name = f"observation_{name}"
    candidate, number = name, 1
    # `decode` also returns an image's mean, under `mean_name`.
    while {candidate, mean_name(candidate)} & taken:
      number += 1
      candidate = f"{name}_{number}"
    names.append(candidate)
    taken |= {candidate, mean_name(candidate)}
  return tuple(names)


def mean_name(input_name: str) -> str:
  """Returns the name of the output of `decode` that gives an image as numbers in [0, 1].

  Args:
    input_name: the name of the image's input.
  """
  return f"{input_name}_mean"


def image_axes(part: ObservationPart) -> tuple[int, ...]:
  """Returns the axes of an image's native shape in the order height, width, channels.

  Args:
    part: an image.
  """
  return tuple(range(len(part.native_shape))) if part.axes is None else tuple(part.axes)


def accepted_shapes(part: ObservationPart) -> tuple[tuple[int, ...], ...]:
  """Returns the shapes of one observation that an input accepts, without the batch dimension.

  The first is the native shape. An image may have a second one, with the native axes and the height
  and width that the agent sees.

  Args:
    part: an image or a vector.
  """
  native = tuple(part.native_shape)
  if part.kind != "image":
    return (native,)
  sized = list(native)
  for axis, size in zip(image_axes(part)[:2], part.shape[:2], strict=True):
    sized[axis] = size
  return tuple(dict.fromkeys([native, tuple(sized)]))


def input_specs(observation: ObservationSpec) -> dict[str, tf.TensorSpec]:
  """Returns the inputs for an observation, by name.

  Args:
    observation: describes the observation.

  Returns:
    A spec `[None, ...]` for each part, with the native dtype; an image's height and width are None.

  Raises:
    ValueError: if the environment's images cannot be distinguished from those that the agent sees.
  """
  specs = {}
  for name, part in zip(input_names(observation), observation.parts, strict=True):
    sizes: list[int | None] = list(part.native_shape)
    if part.kind == "image":
      _require_tellable(name, part)
      for axis in image_axes(part)[:2]:
        sizes[axis] = None
    specs[name] = tf.TensorSpec([None, *sizes], part.native_dtype, name)
  return specs


def observation_of(inputs: Mapping[str, tf.Tensor], spec: EnvSpec) -> Nest:
  """Converts inputs to an observation in the agent's format.

  Args:
    inputs: `[B, ...]` by name, as `input_specs` describes them; further inputs are ignored.
    spec: describes the observation.

  Returns:
    An observation in the format of `spec.observation`: `uint8[B, H, W, C]` images, `float32[B, D]`
    vectors. If an input has another shape, a vector is not finite, or an integer is out of range,
    the graph fails with INVALID_ARGUMENT.
  """
  names = input_names(spec.observation)
  values = []
  for name, part in zip(names, spec.observation.parts, strict=True):
    convert = _image if part.kind == "image" else _vector
    values.append(convert(inputs[name], name, part, spec.env_id))
  return spec.observation.pack(values)


def require_finite(inputs: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
  """Checks that all floating-point inputs are finite when the graph runs.

  Args:
    inputs: tensors by name.

  Returns:
    The same tensors. If one has a NaN or infinite number, the graph fails with INVALID_ARGUMENT.
  """
  return {name: _finite(x, name) if x.dtype.is_floating else x for name, x in inputs.items()}


def to_env_action(action: tf.Tensor, spec: EnvSpec) -> tf.Tensor:
  """Converts actions to the environment's format in a graph. See `ActionSpace.to_env`.

  Args:
    action: `float32[B, A]`.
    spec: describes the action space.

  Returns:
    `float32[B, *shape]` if continuous (whole numbers if the environment takes integers), `int64[B]`
    if discrete, `int64[B, *shape]` if multi-discrete, `int8[B, *shape]` if multi-binary.
  """
  space = spec.action_space
  if space.is_categorical:
    groups = tf.split(action, list(space.num_choices), axis=-1)
    chosen = tf.stack([tf.argmax(group, axis=-1) for group in groups], axis=-1)
    if space.start is not None:
      chosen += tf.constant(space.start, tf.int64)
    if space.kind == "multi_binary":
      chosen = tf.cast(chosen, tf.int8)
  else:
    chosen = tf.linalg.matmul(action, tf.constant(space.matrix, tf.float32))
    if space.offset is not None:
      chosen += tf.constant(space.offset, tf.float32)
    chosen = tf.clip_by_value(chosen, space.low, space.high)
    if space.dtype.kind in "iu":
      chosen = tf.round(chosen)  # Half to even, as `np.rint`.
  return tf.reshape(chosen, [-1, *space.shape])


def canonical_action(action: tf.Tensor, space: ActionSpace) -> tf.Tensor:
  """Converts actions to their canonical form in a graph. See `ActionSpace.canonical`.

  Args:
    action: `float32[B, A]`: numbers, or a score for each choice.
    space: describes the action.

  Returns:
    `float32[B, A]`: numbers clipped to [-1, 1], or one-hot vectors.
  """
  if not space.is_categorical:
    return tf.clip_by_value(action, -1.0, 1.0)
  groups = tf.split(action, list(space.num_choices), axis=-1)
  one_hot = [tf.one_hot(tf.argmax(x, axis=-1), x.shape[-1]) for x in groups]
  return tf.concat(one_hot, axis=-1)


# --- Parts of an observation ------------------------------------------------------------------


def _image(x: tf.Tensor, name: str, part: ObservationPart, env_id: str) -> tf.Tensor:
  """Returns `uint8[B, H, W, C]`, with the same bits as `wm_tf.envs.frames.resize`."""
  native, height_width = part.native_shape, part.shape[:2]
  axes = image_axes(part)
  x = _shaped(x, name, accepted_shapes(part), env_id)
  if part.axes is not None or len(native) != 3:
    x = tf.transpose(x, [0, *(axis + 1 for axis in axes)])
    sizes = tf.shape(x)
    x = tf.reshape(x, [sizes[0], sizes[1], sizes[2], part.shape[2]])
  if part.low is not None:
    x = _to_uint8(x, name, part)
  native_size = tuple(native[axis] for axis in axes[:2])
  rows, cols, total = resize_matrices(_crop(part, native_size), native_size, height_width)

  def shrink():
    y = tf.einsum("hH,bHWc->bhWc", tf.constant(rows), tf.cast(x, tf.float64))
    y = tf.einsum("bhWc,Ww->bhwc", y, tf.constant(cols))
    return tf.cast(tf.floor((2 * y + total) / (2 * total)), tf.uint8)

  def keep():
    return x

  if native_size != height_width:
    is_native = tf.reduce_all(tf.shape(x)[1:3] == tf.constant(native_size))
    x = tf.cond(is_native, shrink, keep)
  return tf.ensure_shape(x, [None, *part.shape])


def _require_tellable(name: str, part: ObservationPart) -> None:
  native_size = tuple(part.native_shape[axis] for axis in image_axes(part)[:2])
  if native_size == tuple(part.shape[:2]) and _crop(part, native_size) != (0, 0, *native_size):
    raise ValueError(
      f"{name}: the environment's images have the size {native_size} that the agent sees, and are "
      "cropped before: an exported model could not tell them apart. Choose another frame_size."
    )


def _crop(part: ObservationPart, native_size: tuple[int, int]) -> tuple[int, int, int, int]:
  return (0, 0, *native_size) if part.crop is None else tuple(part.crop)


def _to_uint8(x: tf.Tensor, name: str, part: ObservationPart) -> tf.Tensor:
  """Converts pixels of any finite range to `uint8`, rounded half up."""
  if x.dtype.is_floating:
    x = _finite(x, name)
  low, high = float(part.low), float(part.high)
  x = tf.floor((tf.cast(x, tf.float64) - low) * (255 / (high - low)) + 0.5)
  return tf.cast(tf.clip_by_value(x, 0.0, 255.0), tf.uint8)


def _vector(x: tf.Tensor, name: str, part: ObservationPart, env_id: str) -> tf.Tensor:
  """Returns `float32[B, D]`: flattened numbers, or integers as one-hot vectors."""
  x = _shaped(x, name, accepted_shapes(part), env_id)
  x = tf.reshape(x, [-1, math.prod(part.native_shape)])
  if not part.num_choices:
    return _finite(tf.cast(x, tf.float32), name)
  start = np.zeros(len(part.num_choices), np.int64)
  if part.start is not None:
    start = np.asarray(part.start, np.int64)
  choice = tf.cast(x, tf.int64) - start
  count = tf.constant(part.num_choices, tf.int64)
  check = tf.debugging.Assert(
    tf.reduce_all((choice >= 0) & (choice < count)),
    [f"{name} must lie between", start, "and", start + part.num_choices - 1, f"({env_id}), not", x],
    summarize=8,
  )
  with tf.control_dependencies([check]):
    groups = tf.unstack(choice, axis=-1)
  one_hot = [tf.one_hot(x, n) for x, n in zip(groups, part.num_choices, strict=True)]
  return tf.concat(one_hot, axis=-1)


def _shaped(x: tf.Tensor, name: str, shapes, env_id: str) -> tf.Tensor:
  """Makes the graph fail at run time unless each row of `x` has one of the given shapes.

  The check is needed because the model server accepts tensors of any rank.
  """

  def has_shape(shape):
    equal = tf.raw_ops.Equal(
      x=tf.shape(x)[1:], y=tf.constant(shape, tf.int32), incompatible_shape_error=False
    )
    # The op `Rank` gives the actual rank; `tf.rank` returns that of the signature. Without this
    # check a size of 1 would broadcast.
    has_rank = tf.equal(tf.raw_ops.Rank(input=x), 1 + len(shape))
    return has_rank & tf.reduce_all(tf.reshape(equal, [-1]))

  accepted = " or ".join(f"[{', '.join(['B', *map(str, shape)])}]" for shape in shapes)
  check = tf.debugging.Assert(
    tf.reduce_any([has_shape(shape) for shape in shapes]),
    [f"{name} must have shape {accepted} ({env_id}), not", tf.shape(x)],
    summarize=8,
  )
  with tf.control_dependencies([check]):
    return tf.identity(x)


def _finite(x: tf.Tensor, name: str) -> tf.Tensor:
  return tf.debugging.check_numerics(x, f"{name} must be finite")
