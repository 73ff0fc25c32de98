"""Animations (GIF) of an environment's frames, optionally next to a model's frames."""

from __future__ import annotations

import io
import itertools
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from wm_tf.report.canvas import DREAM, FAINT, GAP, GROUND, INK, MARGIN, check_frames, enlarge, font


def animation(
  frames: np.ndarray,
  *,
  beside: np.ndarray | None = None,
  titles: Sequence[str] = ("real", "reconstructed"),
  captions: Sequence[str] | None = None,
  fps: float = 12.5,
  panel_size: int = 192,
  max_bytes: int = 3_000_000,
) -> bytes:
  """Animates frames, optionally next to the model's frames.

  If the GIF is larger than `max_bytes`, the number of colours is reduced first and then the number
  of frames. The speed stays the same, and the last frame is always kept.

  Args:
    frames: `uint8[T, h, w, 3]`, such as `display_frames` of images or rendered frames.
    beside: `uint8[T, h', w', 3]` shown on the right, such as decoded states; None for one panel.
    titles: the title of each panel.
    captions: T texts shown below, such as the return so far; None for no captions.
    fps: frames per second.
    panel_size: the height of a panel in pixels; a multiple of the frames' height stays sharp.
    max_bytes: the size limit; the GIF is larger if the strongest reduction is not enough.

  Returns:
    A looping GIF.

  Raises:
    ValueError: if a panel has another shape or dtype, lengths differ, or a title is missing.
  """
  panels = [frames] if beside is None else [frames, beside]
  for panel in panels:
    check_frames(panel, "animation")
  texts = [""] * len(frames) if captions is None else list(captions)
  if any(len(panel) != len(frames) for panel in panels) or len(texts) != len(frames):
    raise ValueError(
      f"animation: frames, beside and captions must be equally long; got {len(frames)}, "
      f"{None if beside is None else len(beside)} and {len(texts)}."
    )
  if len(titles) < len(panels):
    raise ValueError(f"animation: {len(panels)} panels need as many titles; got {list(titles)}.")

  composed = [
    _compose([panel[t] for panel in panels], titles, texts[t], captions is not None, panel_size)
    for t in range(len(frames))
  ]
  data = b""
  for colors, stride in ((96, 1), (48, 1), (48, 2), (32, 3), (32, 4), (24, 6), (16, 8), (16, 12)):
    data = _encode(composed, colors, stride, fps)
    if len(data) <= max_bytes:
      break
  return data


def _compose(panels, titles, caption, with_caption, size) -> Image.Image:
  letters = font(14)
  pictures = [enlarge(panel, size) for panel in panels]
  line = round(letters.size * 1.6)
  width = sum(p.width for p in pictures) + GAP * (len(pictures) - 1) + 2 * MARGIN
  height = MARGIN + line + size + (line if with_caption else 0) + MARGIN
  image = Image.new("RGB", (width, height), GROUND)
  draw = ImageDraw.Draw(image)
  x = MARGIN
  for picture, title, color in zip(pictures, titles, (INK, DREAM), strict=False):
    draw.text((x, MARGIN + line / 2 - 2), title, color, letters, anchor="lm")
    image.paste(picture, (x, MARGIN + line))
    x += picture.width + GAP
  if with_caption:
    draw.text((MARGIN, height - MARGIN - line / 2 + 3), caption, FAINT, letters, anchor="lm")
  return image


def _encode(images: Sequence[Image.Image], colors: int, stride: int, fps: float) -> bytes:
  kept = sorted({*range(0, len(images), stride), len(images) - 1})
  # All frames share one palette, so that unchanged parts of the picture cost no bytes.
  sample = [images[i] for i in kept[:: max(1, len(kept) // 24)]]
  sheet = Image.new("RGB", (sample[0].width, sample[0].height * len(sample)))
  for index, image in enumerate(sample):
    sheet.paste(image, (0, index * image.height))
  palette = _palette(sheet, colors)
  quantized = [images[i].quantize(palette=palette, dither=Image.Dither.NONE) for i in kept]
  # GIF durations are hundredths of a second; rounding the running time keeps the speed exact.
  times = [round(100 * i / fps) for i in [*kept, len(images)]]
  durations = [10 * max(2, b - a) for a, b in itertools.pairwise(times)]
  durations[-1] += 1500  # Show the last frame longer before the GIF starts again.
  buffer = io.BytesIO()
  quantized[0].save(
    buffer,
    "GIF",
    save_all=True,
    append_images=quantized[1:],
    duration=durations,
    loop=0,
    optimize=False,
  )
  return buffer.getvalue()


def _palette(sheet: Image.Image, colors: int) -> Image.Image:
  """Returns a palette of the colours of `sheet` that includes the background and text colours."""
  fixed = [GROUND]
  for color in (INK, FAINT, DREAM):  # Mixed colours are for the edges of letters.
    fixed += [color, tuple((a + b) // 2 for a, b in zip(color, GROUND, strict=True))]
  found = sheet.quantize(colors - len(fixed), Image.Quantize.MEDIANCUT).getpalette()
  palette = Image.new("P", (1, 1))
  palette.putpalette([value for color in fixed for value in color] + found)
  return palette
