"""Colours, font and image operations that all pictures share.

Pictures have a dark background, so that they look the same on light and on dark pages.
"""

from __future__ import annotations

import io
from collections.abc import Sequence

import matplotlib
import numpy as np
from PIL import Image, ImageFont

GROUND = (20, 22, 26)
INK = (236, 234, 228)
FAINT = (150, 155, 163)
DREAM = (224, 140, 196)
MARGIN = 12
GAP = 4
CELL = 128  # The default height of a frame in pixels.


def font(size: int) -> ImageFont.FreeTypeFont:
  """Returns the font that is included in matplotlib, so that all machines use the same one.

  Args:
    size: in pixels.
  """
  path = f"{matplotlib.get_data_path()}/fonts/ttf/DejaVuSans.ttf"
  return ImageFont.truetype(path, size)


def enlarge(frame: np.ndarray, height: int) -> Image.Image:
  """Resizes a frame, with sharp edges if the new height is a multiple of the frame's height.

  Args:
    frame: `uint8[h, w, 3]`.
    height: the new height in pixels; the width is scaled in proportion.

  Returns:
    The resized image.
  """
  image = Image.fromarray(np.ascontiguousarray(frame))
  size = (max(1, round(image.width * height / image.height)), height)
  sharp = height % image.height == 0
  return image.resize(size, Image.Resampling.NEAREST if sharp else Image.Resampling.BICUBIC)


def check_frames(frames, what: str) -> None:
  """Checks that frames are `uint8[T, h, w, 3]` with at least one frame.

  Args:
    frames: the value to check.
    what: the beginning of the error message.

  Raises:
    ValueError: if the check fails.
  """
  shape = getattr(frames, "shape", None)
  dtype = getattr(frames, "dtype", type(frames).__name__)
  if dtype != np.uint8 or len(shape) != 4 or shape[3] != 3 or 0 in shape:
    raise ValueError(
      f"{what}: expected uint8[T, h, w, 3] with T >= 1, got {dtype}{shape}; "
      "`display_frames` converts images of other channels."
    )


def to_png(image: Image.Image) -> bytes:
  """Returns an image as PNG bytes.

  Args:
    image: the image.
  """
  buffer = io.BytesIO()
  image.save(buffer, "PNG", optimize=True)
  return buffer.getvalue()


def stack(pictures: Sequence[bytes]) -> bytes:
  """Puts pictures below one another on one background.

  Args:
    pictures: PNGs or GIFs, at least one.

  Returns:
    A PNG as wide as the widest picture; a single picture is returned unchanged.
  """
  if len(pictures) == 1:
    return pictures[0]
  images = [Image.open(io.BytesIO(picture)).convert("RGB") for picture in pictures]
  size = (max(image.width for image in images), sum(image.height for image in images))
  sheet = Image.new("RGB", size, GROUND)
  y = 0
  for image in images:
    sheet.paste(image, (0, y))
    y += image.height
  return to_png(sheet)
