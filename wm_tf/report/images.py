"""Film strips (PNG) and animations (GIF) of what was real and what was dreamed; Pillow only.

Both stand on a dark ground of their own, so that they look the same on light and on dark pages.
"""

from __future__ import annotations

import io
import itertools
from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

_GROUND = (20, 22, 26)
_INK = (236, 234, 228)
_FAINT = (150, 155, 163)
_DREAM = (224, 140, 196)
_MARGIN = 12
_GAP = 4


def film_strip(
  rows: Mapping[str, np.ndarray],
  *,
  steps: Sequence[int] | None = None,
  first_step: int = 0,
  dream_from: int | None = None,
  scale: int = 2,
) -> bytes:
  """Draws rows of frames over time, one labelled row per entry and one labelled column per step.

  Args:
    rows: label to `uint8[T, h, w, 3]`, all of one shape: real, reconstructed, dreamed...
    steps: which of the T frames to show, in order; by default at most 10, evenly spread.
    first_step: the step number of frame 0, added to the labels of the columns.
    dream_from: index of the first frame that was dreamed without seeing any more frames; a bar
      above the columns says from where on.
    scale: whole number of pixels that one pixel of a frame becomes.

  Returns:
    A PNG.

  Raises:
    ValueError: if a row is not such an array, rows differ in shape, or a step is not in them.
  """
  if not rows:
    raise ValueError("film_strip: no rows given; pass at least one, such as {'real': frames}.")
  shape = None
  for label, frames in rows.items():
    _check_frames(frames, f"film_strip: row {label!r}")
    shape = shape or frames.shape
    if frames.shape != shape:
      raise ValueError(
        f"film_strip: row {label!r} has shape {frames.shape}, the first row {shape}; "
        "cut all rows to the same steps and size."
      )
  num_frames, height, width = shape[:3]
  if steps is None:
    steps = np.unique(np.linspace(0, num_frames - 1, min(num_frames, 10)).round().astype(int))
  outside = [step for step in steps if not 0 <= step < num_frames]
  if outside or not len(steps):
    raise ValueError(
      f"film_strip: steps {outside or 'is empty'}; there are frames 0 to {num_frames - 1}."
    )

  cell_w, cell_h = width * scale, height * scale
  font, small = _font(max(11, cell_h // 7)), _font(max(10, cell_h // 8))
  label_w = round(max(font.getlength(line) for label in rows for line in label.split("\n")))
  left = _MARGIN + label_w + _MARGIN
  line = round(small.size * 1.5)
  top = _MARGIN + line * (1 if dream_from is None else 2)
  image = Image.new(
    "RGB",
    (
      left + len(steps) * (cell_w + _GAP) - _GAP + _MARGIN,
      top + len(rows) * (cell_h + _GAP) - _GAP + _MARGIN,
    ),
    _GROUND,
  )
  draw = ImageDraw.Draw(image)
  xs = [left + column * (cell_w + _GAP) for column in range(len(steps))]
  for x, step in zip(xs, steps, strict=True):
    text = f"step {first_step + step}" if x == left else str(first_step + step)
    draw.text((x + cell_w / 2, top - line / 2), text, _FAINT, small, anchor="mm")
  if dream_from is not None:
    dreamed = [x for x, step in zip(xs, steps, strict=True) if step >= dream_from]
    if dreamed:
      y = _MARGIN + line * 0.45
      text = "from here on the dream sees no frames"
      end = dreamed[0] + small.getlength(text) + _GAP * 2
      draw.text((dreamed[0], y), text, _DREAM, small, anchor="lm")
      if end < xs[-1] + cell_w:
        draw.line((end, y, xs[-1] + cell_w, y), _DREAM, 2)
  for index, (label, frames) in enumerate(rows.items()):
    y = top + index * (cell_h + _GAP)
    draw.multiline_text(
      (left - _MARGIN, y + cell_h / 2), label, _INK, font, anchor="rm", align="right"
    )
    for x, step in zip(xs, steps, strict=True):
      image.paste(_enlarge(frames[step], cell_h), (x, y))
  buffer = io.BytesIO()
  image.save(buffer, "PNG", optimize=True)
  return buffer.getvalue()


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
  """Animates frames, and beside them what the model made of them.

  Where the GIF would be larger than `max_bytes`, colours go first and then frames; what is kept
  always plays at the same speed, and the last frame is always kept.

  Args:
    frames: `uint8[T, h, w, 3]`.
    beside: `uint8[T, h', w', 3]` shown on the right, such as the decoded state.
    titles: what stands above each panel.
    captions: T texts shown beneath, such as the return so far.
    fps: frames per second. CarRacing runs at 50, so 12.5 is real time at action repeat 4.
    panel_size: height of a panel in pixels; a multiple of the frames' height stays crisp.
    max_bytes: the size to stay below, if it can be had.

  Returns:
    A GIF that loops for ever.

  Raises:
    ValueError: if shapes or lengths do not fit together.
  """
  panels = [frames] if beside is None else [frames, beside]
  for panel in panels:
    _check_frames(panel, "animation")
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
  font = _font(14)
  pictures = [_enlarge(panel, size) for panel in panels]
  line = round(font.size * 1.6)
  width = sum(p.width for p in pictures) + _GAP * (len(pictures) - 1) + 2 * _MARGIN
  height = _MARGIN + line + size + (line if with_caption else 0) + _MARGIN
  image = Image.new("RGB", (width, height), _GROUND)
  draw = ImageDraw.Draw(image)
  x = _MARGIN
  for picture, title, color in zip(pictures, titles, (_INK, _DREAM), strict=False):
    draw.text((x, _MARGIN + line / 2 - 2), title, color, font, anchor="lm")
    image.paste(picture, (x, _MARGIN + line))
    x += picture.width + _GAP
  if with_caption:
    draw.text((_MARGIN, height - _MARGIN - line / 2 + 3), caption, _FAINT, font, anchor="lm")
  return image


def _encode(images: Sequence[Image.Image], colors: int, stride: int, fps: float) -> bytes:
  kept = sorted({*range(0, len(images), stride), len(images) - 1})
  # One palette for all frames, so that what stands still costs no bytes.
  sample = [images[i] for i in kept[:: max(1, len(kept) // 24)]]
  sheet = Image.new("RGB", (sample[0].width, sample[0].height * len(sample)))
  for index, image in enumerate(sample):
    sheet.paste(image, (0, index * image.height))
  palette = _palette(sheet, colors)
  quantized = [images[i].quantize(palette=palette, dither=Image.Dither.NONE) for i in kept]
  # GIF counts in hundredths of a second; rounding the running time keeps the speed exact.
  times = [round(100 * i / fps) for i in [*kept, len(images)]]
  durations = [10 * max(2, b - a) for a, b in itertools.pairwise(times)]
  durations[-1] += 1500  # A moment to read the last frame before it starts again.
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
  """The most useful colours of `sheet`, and those of the ground and of the words for certain."""
  fixed = [_GROUND]
  for color in (_INK, _FAINT, _DREAM):  # Halfway too, for the edges of the letters.
    fixed += [color, tuple((a + b) // 2 for a, b in zip(color, _GROUND, strict=True))]
  found = sheet.quantize(colors - len(fixed), Image.Quantize.MEDIANCUT).getpalette()
  palette = Image.new("P", (1, 1))
  palette.putpalette([value for color in fixed for value in color] + found)
  return palette


def _enlarge(frame: np.ndarray, height: int) -> Image.Image:
  image = Image.fromarray(np.ascontiguousarray(frame))
  size = (round(image.width * height / image.height), height)
  crisp = height % image.height == 0
  return image.resize(size, Image.Resampling.NEAREST if crisp else Image.Resampling.BICUBIC)


def _check_frames(frames, what: str) -> None:
  shape = getattr(frames, "shape", None)
  dtype = getattr(frames, "dtype", type(frames).__name__)
  if dtype != np.uint8 or len(shape) != 4 or shape[3] != 3 or 0 in shape:
    raise ValueError(f"{what}: expected uint8[T, h, w, 3] with T >= 1, got {dtype}{shape}.")


def _font(size: int) -> ImageFont.FreeTypeFont:
  # The font that matplotlib ships: the same on every machine, and with all of ± × − in it.
  path = f"{matplotlib.get_data_path()}/fonts/ttf/DejaVuSans.ttf"
  return ImageFont.truetype(path, size)
