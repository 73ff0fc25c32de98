"""Pictures of one observation, for `render()`: an image as RGB, or vectors as bars."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from wm_tf.core import Nest, ObservationPart, ObservationSpec
from wm_tf.envs.frames import display_frames

_MAX_BARS = 24  # Largest number of bars; of more numbers, an evenly spaced selection is shown.
_WIDTH, _BAR_HEIGHT = 360, 16
_LEFT, _RIGHT = 120, 290  # Ends of the bars; names are to the left, numbers to the right.
_GROUND, _INK, _FAINT, _BAR = (20, 22, 26), (236, 234, 228), (60, 64, 72), (93, 180, 238)


def picture(observation: Nest, spec: ObservationSpec) -> np.ndarray:
  """Draws one observation.

  Args:
    observation: an observation as an agent sees it: images `uint8[H, W, C]`, vectors `float32[D]`.
    spec: specification of the observation.

  Returns:
    `uint8[H, W, 3]`, a new array: the first image, or one bar for each number if there is no image.
  """
  for part, value in zip(spec.parts, spec.unpack(observation), strict=True):
    if part.kind == "image":
      return display_frames(value[np.newaxis], part)[0].copy()
  return _bars(spec, spec.unpack(observation))


def _bars(spec: ObservationSpec, values: list[np.ndarray]) -> np.ndarray:
  bars = []
  for part, value in zip(spec.parts, values, strict=True):
    low, high = bounds(part)
    for index, number in enumerate(np.asarray(value, np.float64)):
      ends = _position(np.array([0.0, number]), low[index], high[index])
      bars.append((f"{part.name or 'observation'}[{index}]", number, ends))
  shown = np.linspace(0, len(bars) - 1, min(len(bars), _MAX_BARS)).round().astype(int)
  height = max(64, _BAR_HEIGHT * len(shown))
  image = Image.new("RGB", (_WIDTH, height), _GROUND)
  draw, font = ImageDraw.Draw(image), ImageFont.load_default()
  for line, index in enumerate(shown):
    name, number, ends = bars[index]
    top = line * _BAR_HEIGHT
    zero, end = np.round(_LEFT + ends * (_RIGHT - _LEFT)).astype(int)
    draw.rectangle((_LEFT, top + 7, _RIGHT, top + 8), fill=_FAINT)
    draw.rectangle((min(zero, end), top + 3, max(zero, end), top + 12), fill=_BAR)
    draw.text((4, top + 2), name[-18:], fill=_INK, font=font)
    draw.text((_RIGHT + 6, top + 2), f"{number:.4g}", fill=_INK, font=font)
  return np.array(image)


def _position(x: np.ndarray, low: float, high: float) -> np.ndarray:
  """Returns the positions of numbers on a bar's line, from 0 (left end) to 1 (right end).

  The line is the range of the number if that is finite, else it shows `x / (1 + |x|)` from -1 to 1.
  """
  if np.isfinite(low) and np.isfinite(high) and low < high:
    return np.clip((x - low) / (high - low), 0.0, 1.0)
  return 0.5 + 0.5 * x / (1.0 + np.abs(x))


def bounds(part: ObservationPart) -> tuple[np.ndarray, np.ndarray]:
  """Returns the range of a vector.

  Args:
    part: specification of the vector, of shape `[D]`.

  Returns:
    Lower and upper bounds, each `float32[D]`; infinite if unknown.
  """
  low = np.full(part.shape, -np.inf) if part.low is None else part.low
  high = np.full(part.shape, np.inf) if part.high is None else part.high
  return np.asarray(low, np.float32), np.asarray(high, np.float32)
