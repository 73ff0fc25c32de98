"""Converts gymnasium's spaces to `ObservationSpec` and `ActionSpace`.

Observations: a Box is an image or a vector. Discrete and MultiDiscrete are one-hot vectors.
MultiBinary is a vector of zeros and ones. Dict and Tuple contain parts of these kinds, also nested.

A Box is an image if all its numbers have the same finite bounds and its shape is one of

    [H, W]                             gray
    [H, W, C], C = 1, 3, 4             gray, RGB, RGBA; four stacked gray frames look the same
    [H, W, S], [S, H, W]               stacked frames: gray, or RGB if S is a multiple of 3
    [S, H, W, C], [S, C, H, W]         stacked frames of C = 1, 3 or 4 channels

with sides of at least 8 (uint8 from 0 to 255) or 16 (other types and ranges, for which small arrays
are boards and matrices rather than pictures). All channels are kept, including alpha. The option
`observation` overrides these rules.

Actions: Box with finite bounds, Discrete, MultiDiscrete, MultiBinary.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from wm_tf.core import ActionSpace, ObservationPart, ObservationSpec
from wm_tf.envs.frames import resize_matrices
from wm_tf.envs.options import AdapterOptions

_SMALLEST_PIXELS, _SMALLEST_IMAGE = 8, 16
_MOST_CHANNELS = 64
_LARGEST_BOUND = 1e30  # Some environments declare the largest float for an unbounded action.
_MOST_CHOICES = 4096  # A larger one-hot vector would be larger than an image.

_OBSERVATIONS = "Box, Discrete, MultiDiscrete, MultiBinary, and Dict or Tuple of these"
_ACTIONS = "Box with finite bounds, Discrete, MultiDiscrete and MultiBinary"


def observation_spec(space: gym.Space, options: AdapterOptions) -> ObservationSpec:
  """Derives the specification of an environment's observations.

  Args:
    space: the observation space.
    options: `frame_size`, `crop` and `observation` are read.

  Returns:
    The specification.

  Raises:
    ValueError: if the space contains an unsupported kind, or the options do not fit it.
  """
  parts: dict[str, ObservationPart] = {}
  for path, leaf in _leaves(space):
    name = _part_name(path)
    if name in parts:
      raise ValueError(
        f"Two parts of the observation are named {name!r}: {parts[name].path} and {path}; rename "
        "one in the environment's Dict."
      )
    parts[name] = _part(name, path, leaf, options)
  if not parts:
    raise ValueError(f"The observation space {space} has no parts.")
  spec = ObservationSpec(tuple(parts[name] for name in sorted(parts)))
  _check_images(spec, options)
  return spec


def _leaves(space: gym.Space, path: tuple = ()) -> Iterator[tuple[tuple, gym.Space]]:
  """Yields the spaces in nested Dicts and Tuples, each with the keys that lead to it."""
  if isinstance(space, spaces.Dict):
    for key, value in space.spaces.items():
      yield from _leaves(value, (*path, key))
  elif isinstance(space, spaces.Tuple):
    for index, value in enumerate(space.spaces):
      yield from _leaves(value, (*path, index))
  else:
    yield path, space


def _part_name(path: tuple) -> str:
  """Returns a name that is valid for TFRecord features, TensorFlow arguments and JSON."""
  name = re.sub("[^A-Za-z0-9_]", "_", "_".join(map(str, path)))
  return name if not name or name[0].isalpha() else f"part_{name.lstrip('_')}"


def _part(name: str, path: tuple, space: gym.Space, options: AdapterOptions) -> ObservationPart:
  if isinstance(space, spaces.Box):
    layout = _image_layout(name, space, options.observation)
    if layout is not None:
      return _image_part(name, path, space, layout, options)
    low, high = (_to_float32(bound).ravel() for bound in (space.low, space.high))
    if not low.size:
      raise ValueError(f"The observation space {space} is empty.")
    return _vector_part(name, path, space, low, high)
  if isinstance(space, spaces.Discrete):
    return _one_hot_part(name, path, space, [space.n], [space.start])
  if isinstance(space, spaces.MultiDiscrete):
    return _one_hot_part(name, path, space, space.nvec.ravel(), space.start.ravel())
  if isinstance(space, spaces.MultiBinary):
    size = int(np.prod(space.shape))
    return _vector_part(name, path, space, np.zeros(size, np.float32), np.ones(size, np.float32))
  raise ValueError(
    f"The observation space {space}{_named(name)} is not supported; supported are {_OBSERVATIONS}. "
    "gymnasium.wrappers.FilterObservation leaves parts out."
  )


def _named(name: str) -> str:
  return f" of part {name!r}" if name else ""


def _vector_part(name, path, space, low, high, **fields) -> ObservationPart:
  return ObservationPart(
    name=name,
    kind="vector",
    shape=low.shape,
    native_shape=tuple(space.shape),
    native_dtype=str(space.dtype),
    low=low,
    high=high,
    path=path,
    **fields,
  )


def _one_hot_part(name, path, space, num_choices, start) -> ObservationPart:
  num_choices, start = _choices("observation", space, num_choices, start)
  size = sum(num_choices)
  zeros, ones = np.zeros(size, np.float32), np.ones(size, np.float32)
  return _vector_part(name, path, space, zeros, ones, num_choices=num_choices, start=start)


def _choices(noun: str, space, num_choices, start) -> tuple[tuple[int, ...], tuple | None]:
  num_choices, start = tuple(map(int, num_choices)), tuple(map(int, start))
  if sum(num_choices) > _MOST_CHOICES:
    raise ValueError(
      f"The {noun} space {space} has {sum(num_choices)} choices, too many to be one-hot: at most "
      f"{_MOST_CHOICES} are supported."
    )
  return num_choices, start if any(start) else None


class _Layout(NamedTuple):
  """The positions of height, width and channels in a native image; see `ObservationPart`."""

  axes: tuple[int, ...] | None
  size: tuple[int, int]
  channels: int
  frame_channels: int


def _image_layout(name: str, space: spaces.Box, observation: str) -> _Layout | None:
  """Returns the layout of a Box that is an image; None if it is a vector."""
  if observation == "vector" or len(space.shape) < 2:
    return None
  layout, bounds = _layout(space.shape), _common_bounds(space)
  if layout is not None and bounds is not None:
    pixels = space.dtype == np.uint8 and bounds == (0, 255)
    smallest = _SMALLEST_PIXELS if pixels else _SMALLEST_IMAGE
    if observation == "image" or min(layout.size) >= smallest:
      return layout
  if observation == "image":
    raise ValueError(
      f"observation=image: {space}{_named(name)} is no image: it must have a shape such as [H, W] "
      f"or [H, W, C] with at most {_MOST_CHANNELS} channels, and the same finite bounds everywhere."
    )
  return None


def _layout(shape: tuple[int, ...]) -> _Layout | None:
  channel_counts = (1, 3, 4)
  if len(shape) == 2:
    layout = _Layout((0, 1), shape, 1, 1)
  elif len(shape) == 3:
    first, middle, last = shape
    if last in channel_counts or last < first:
      channels = last if last in channel_counts else _stacked(last)
      layout = _Layout(None, (first, middle), last, channels)
    else:
      layout = _Layout((1, 2, 0), (middle, last), first, _stacked(first))
  elif len(shape) == 4 and shape[3] in channel_counts:
    layout = _Layout((1, 2, 0, 3), shape[1:3], shape[0] * shape[3], shape[3])
  elif len(shape) == 4 and shape[1] in channel_counts:
    layout = _Layout((2, 3, 0, 1), shape[2:], shape[0] * shape[1], shape[1])
  else:
    return None
  return layout if layout.channels <= _MOST_CHANNELS else None


def _stacked(channels: int) -> int:
  """Returns the channels of one frame, in stacked gray or RGB frames."""
  return 1 if channels % 3 else 3


def _common_bounds(space: spaces.Box) -> tuple[float, float] | None:
  """Returns the bounds that all numbers of a Box share; None unless finite and different."""
  low, high = float(space.low.min()), float(space.high.max())
  same = (space.low == low).all() and (space.high == high).all()
  return (low, high) if same and np.isfinite([low, high]).all() and low < high else None


def _image_part(name, path, space, layout: _Layout, options: AdapterOptions) -> ObservationPart:
  bounds = _common_bounds(space)
  scaled = space.dtype != np.uint8 or bounds != (0, 255)
  crop = options.crop.get(name) if isinstance(options.crop, Mapping) else options.crop
  crop = (0, 0, *layout.size) if crop is None else tuple(map(int, crop))
  size = int(options.frame_size)
  resize_matrices(crop, layout.size, (size, size))  # Refuses a crop that does not fit.
  return ObservationPart(
    name=name,
    kind="image",
    shape=(size, size, layout.channels),
    native_shape=tuple(space.shape),
    native_dtype=str(space.dtype),
    crop=crop,
    axes=layout.axes,
    frame_channels=layout.frame_channels,
    low=np.float32(bounds[0]) if scaled else None,
    high=np.float32(bounds[1]) if scaled else None,
    path=path,
  )


def _check_images(spec: ObservationSpec, options: AdapterOptions) -> None:
  """Raises `ValueError` for options about images that have no effect."""
  names = [part.name for part in spec.images]
  if options.observation == "image" and not names:
    raise ValueError("observation=image: no part of the observation is an array of 2 to 4 axes.")
  if options.crop is None:
    return
  if not names:
    raise ValueError("crop: no part of the observation is an image.")
  if isinstance(options.crop, Mapping):
    strange = sorted(set(options.crop) - set(names))
    if strange:
      raise ValueError(f"crop: {strange} are no images of the observation; those are {names}.")
  elif len(names) > 1:
    raise ValueError(f"crop: say for which image, as a mapping from names; there are {names}.")


def agent_space(spec: ObservationSpec) -> gym.Space:
  """Makes the space of the agent's observations.

  Args:
    spec: the specification of the observations.

  Returns:
    A Box, or a Dict of Boxes.
  """
  boxes = []
  for part in spec.parts:
    if part.kind == "image":
      boxes.append(spaces.Box(0, 255, part.shape, np.uint8))
    else:
      low = -np.inf if part.low is None else part.low
      high = np.inf if part.high is None else part.high
      boxes.append(spaces.Box(low, high, part.shape, np.float32))
  packed = spec.pack(boxes)
  return spaces.Dict(packed) if isinstance(packed, dict) else packed


def action_space(
  space: gym.Space, options: AdapterOptions, meanings: Sequence[str] = ()
) -> ActionSpace:
  """Derives the specification of an environment's actions.

  Args:
    space: the environment's action space.
    options: `action_low` and `action_high` are read.
    meanings: names of the choices of a Discrete space; empty if the environment has none.

  Returns:
    The specification.

  Raises:
    ValueError: if the space is not supported or is unbounded, or the bounds do not fit it.
  """
  if isinstance(space, spaces.Box):
    return _box_actions(space, options)
  for name in ("action_low", "action_high"):
    if getattr(options, name) is not None:
      raise ValueError(f"{name} bounds a Box; the action space is {space}.")
  if isinstance(space, spaces.Discrete):
    num_choices, start = _choices("action", space, [space.n], [space.start])
    names = tuple(map(str, meanings))
    if len(set(names)) != space.n:
      names = tuple(f"action_{int(space.start) + i}" for i in range(int(space.n)))
    return ActionSpace(names, names, "discrete", num_choices=num_choices, start=start)
  if isinstance(space, spaces.MultiDiscrete):
    kind, given = "multi_discrete", (space.nvec.ravel(), space.start.ravel())
  elif isinstance(space, spaces.MultiBinary):
    kind, size = "multi_binary", int(np.prod(space.shape))
    given = [2] * size, [0] * size
  else:
    raise ValueError(f"The action space {space} is not supported; supported are {_ACTIONS}.")
  num_choices, start = _choices("action", space, *given)
  groups = tuple(f"action_{i}" for i in range(len(num_choices)))
  first = start or (0,) * len(groups)
  names = tuple(
    f"{group}={low + i}"
    for group, low, size in zip(groups, first, num_choices, strict=True)
    for i in range(size)
  )
  return ActionSpace(
    names,
    groups,
    kind,
    num_choices=num_choices,
    start=start,
    env_shape=tuple(space.shape),
    env_dtype=str(space.dtype),
  )


def _box_actions(space: spaces.Box, options: AdapterOptions) -> ActionSpace:
  low, high = (np.asarray(bound, np.float64) for bound in (space.low, space.high))
  chosen_low = _bound("action_low", options.action_low, space, low)
  chosen_high = _bound("action_high", options.action_high, space, high)
  if not low.size:
    raise ValueError(f"The action space {space} is empty.")
  if not (np.abs([chosen_low, chosen_high]) < _LARGEST_BOUND).all():
    raise ValueError(
      f"The action space {space} is unbounded; bound it by the options action_low and action_high."
    )
  if (chosen_low > chosen_high).any():
    raise ValueError(f"action_low {chosen_low} is above action_high {chosen_high}.")
  low, high = chosen_low.ravel(), chosen_high.ravel()
  names = tuple(f"action_{i}" for i in range(low.size))
  offset = low / 2 + high / 2
  return ActionSpace(
    names,
    names,
    matrix=np.diag(high / 2 - low / 2).astype(np.float32),
    offset=offset.astype(np.float32) if offset.any() else None,
    low=_inside(low, 1),
    high=_inside(high, -1),
    env_shape=tuple(space.shape),
    env_dtype=str(space.dtype),
  )


def _bound(name: str, value: Any, space: spaces.Box, native: np.ndarray) -> np.ndarray:
  """Returns the bound of an option in the shape of the space; the native bound if it is None."""
  if value is None:
    return native
  try:
    bound = np.broadcast_to(np.asarray(value, np.float64), space.shape)
  except ValueError:
    raise ValueError(
      f"{name} has shape {np.shape(value)}; the action space has {space.shape}."
    ) from None
  tolerance = 1e-6 * np.maximum(1.0, np.abs(bound))
  if (bound < space.low - tolerance).any() or (bound > space.high + tolerance).any():
    raise ValueError(f"{name} {value} lies outside the action space {space}.")
  return np.clip(bound, space.low.astype(np.float64), space.high.astype(np.float64))


def _inside(bound: np.ndarray, direction: int) -> np.ndarray:
  """Rounds bounds to `float32` towards the inside; `direction` is 1 for low and -1 for high."""
  rounded = bound.astype(np.float32)
  passed = (bound.astype(np.float64) - rounded) * direction > 0
  return np.where(passed, np.nextafter(rounded, np.float32(direction * np.inf)), rounded)


def _to_float32(bound: np.ndarray) -> np.ndarray:
  with np.errstate(over="ignore"):
    return bound.astype(np.float32)


def agent_action_space(space: ActionSpace) -> spaces.Box:
  """Makes the space of the agent's actions.

  Args:
    space: the specification of the actions.

  Returns:
    A Box `float32[A]`: [-1, 1], or [0, 1] for one-hot vectors.
  """
  return spaces.Box(0.0 if space.is_categorical else -1.0, 1.0, (space.size,), np.float32)


def idle_action(space: ActionSpace) -> np.ndarray | int:
  """Chooses the idle action: the one nearest zero, or the first choice.

  Args:
    space: the specification of the actions.

  Returns:
    An action of the environment itself.
  """
  if space.is_categorical:
    return space.to_env(np.zeros(space.size, np.float32))
  zero = np.clip(np.zeros_like(space.low), space.low, space.high)
  return zero.reshape(space.shape).astype(space.dtype)
