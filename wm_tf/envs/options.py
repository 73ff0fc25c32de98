"""The options that every adapted environment takes."""

from __future__ import annotations

import dataclasses
import numbers
from collections.abc import Mapping, Sequence

import numpy as np

from wm_tf.envs.frames import Crop

OBSERVATIONS = ("auto", "image", "vector", "render")
_SMALLEST_FRAME, _LARGEST_FRAME = 32, 128


@dataclasses.dataclass(frozen=True)
class AdapterOptions:
  """How a gymnasium environment is adapted.

  Attributes:
    action_repeat: environment steps per decision.
    frames_to_skip: steps at the start of an episode, with an idle action, before the first
      observation.
    max_steps: steps after which an episode is truncated; None for the limit that the environment
      is registered with, or 10,000 if it has none.
    frame_size: height and width of the agent's images in pixels, 32 to 128.
    crop: `(top, left, height, width)` of the native image that is kept, in pixels; a mapping from
      part names to such crops if there are several images. None keeps the whole image.
    observation: `auto` treats a Box as an image or a vector by its shape and range (see `spaces`);
      `image` and `vector` treat every Box of 2 to 4 axes as one; `render` observes the frames of
      `render()` instead of the environment's own observation.
    action_low, action_high: bounds of a Box action, one number or one for each dimension. An
      unbounded Box needs them; they narrow a bounded one.
  """

  action_repeat: int = 1
  frames_to_skip: int = 0
  max_steps: int | None = None
  frame_size: int = 64
  crop: Crop | Mapping[str, Crop] | None = None
  observation: str = "auto"
  action_low: float | Sequence[float] | None = None
  action_high: float | Sequence[float] | None = None

  def __post_init__(self):
    _check_integer("action_repeat", self.action_repeat, 1)
    _check_integer("frames_to_skip", self.frames_to_skip, 0)
    if self.max_steps is not None:
      _check_integer("max_steps", self.max_steps, 1)
    _check_integer("frame_size", self.frame_size, _SMALLEST_FRAME)
    if self.frame_size > _LARGEST_FRAME:
      raise ValueError(f"frame_size must be at most {_LARGEST_FRAME}, not {self.frame_size}.")
    if self.observation not in OBSERVATIONS:
      raise ValueError(
        f"observation must be one of {', '.join(OBSERVATIONS)}, not {self.observation!r}."
      )
    crops = self.crop.values() if isinstance(self.crop, Mapping) else [self.crop]
    for crop in crops:
      if crop is not None:
        _check_crop(crop)
    for name in ("action_low", "action_high"):
      _check_numbers(name, getattr(self, name))


OPTION_NAMES = tuple(field.name for field in dataclasses.fields(AdapterOptions))


def is_integer(value) -> bool:
  """Returns whether a value is an integer other than True or False.

  Args:
    value: any value; NumPy integers count too.
  """
  return isinstance(value, numbers.Integral) and not isinstance(value, (bool, np.bool_))


def _check_integer(name: str, value, lowest: int) -> None:
  if not is_integer(value) or value < lowest:
    raise ValueError(f"{name} must be a whole number of at least {lowest}, not {value!r}.")


def _check_crop(crop) -> None:
  if not (isinstance(crop, Sequence) and len(crop) == 4 and all(map(is_integer, crop))):
    raise ValueError(f"crop must be (top, left, height, width) in whole numbers, not {crop!r}.")


def _check_numbers(name: str, value) -> None:
  if value is None:
    return
  try:
    finite = np.isfinite(np.asarray(value, np.float64)).all()
  except (TypeError, ValueError):
    finite = False
  if not finite:
    raise ValueError(f"{name} must be a finite number, or one for each dimension, not {value!r}.")
