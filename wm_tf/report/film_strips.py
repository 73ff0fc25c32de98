"""Film strips (PNG): rows of frames over time, such as real, reconstructed and dreamed ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image, ImageDraw

from wm_tf.report.canvas import (
  CELL,
  DREAM,
  FAINT,
  GAP,
  GROUND,
  INK,
  MARGIN,
  check_frames,
  enlarge,
  font,
  to_png,
)

_MAX_COLUMNS = 10
_MARK = "from here on the dream sees no frames"


def film_strip(
  rows: Mapping[str, np.ndarray],
  *,
  steps: Sequence[int] | None = None,
  first_step: int = 0,
  dream_from: int | None = None,
  scale: int | None = None,
  title: str = "",
) -> bytes:
  """Draws frames over time, with one labelled row for each entry and one column for each step.

  Args:
    rows: label to `uint8[T, h, w, 3]`, all of one shape: real, reconstructed, dreamed.
    steps: the indices of the frames to show, in order; None for at most 10, evenly spread.
    first_step: the step number of frame 0, added to the labels of the columns.
    dream_from: the index of the first frame that was dreamed without further observations; a bar
      above the columns marks it. None for no bar.
    scale: the number of pixels that one pixel of a frame becomes; None for a height of about 128
      pixels.
    title: a line above the strip, such as the name of a part of the observation.

  Returns:
    A PNG.

  Raises:
    ValueError: if a row has another shape or dtype, rows differ in shape, or a step is out of
      range.
  """
  num_frames, height, width = _check_rows(rows)
  steps = _check_steps(steps, num_frames)
  cell_h = _cell_height(height) if scale is None else height * scale
  cell_w = max(1, round(width * cell_h / height))
  letters, small = font(max(11, cell_h // 7)), font(max(10, cell_h // 8))
  label_w = round(max(letters.getlength(line) for label in rows for line in label.split("\n")))
  left = MARGIN + label_w + MARGIN
  line = round(small.size * 1.5)
  head = line if title else 0
  top = MARGIN + head + line * (1 if dream_from is None else 2)
  size = (
    left + len(steps) * (cell_w + GAP) - GAP + MARGIN,
    top + len(rows) * (cell_h + GAP) - GAP + MARGIN,
  )
  image = Image.new("RGB", size, GROUND)
  draw = ImageDraw.Draw(image)
  if title:
    draw.text((MARGIN, MARGIN + line * 0.45), title, INK, small, anchor="lm")
  xs = [left + column * (cell_w + GAP) for column in range(len(steps))]
  for x, step in zip(xs, steps, strict=True):
    text = f"step {first_step + step}" if x == left else str(first_step + step)
    draw.text((x + cell_w / 2, top - line / 2), text, FAINT, small, anchor="mm")
  dreamed = (
    [] if dream_from is None else [x for x, s in zip(xs, steps, strict=True) if s >= dream_from]
  )
  if dreamed:
    y = MARGIN + head + line * 0.45
    # In small strips, move the text to the left so that it fits.
    words = small.getlength(_MARK)
    begin = max(min(dreamed[0], size[0] - MARGIN - words), 0)
    draw.text((begin, y), _MARK, DREAM, small, anchor="lm")
    if begin + words + GAP * 2 < xs[-1] + cell_w:
      draw.line((begin + words + GAP * 2, y, xs[-1] + cell_w, y), DREAM, 2)
  for index, (label, frames) in enumerate(rows.items()):
    y = top + index * (cell_h + GAP)
    center = (left - MARGIN, y + cell_h / 2)
    draw.multiline_text(center, label, INK, letters, anchor="rm", align="right")
    for x, step in zip(xs, steps, strict=True):
      image.paste(enlarge(frames[step], cell_h), (x, y))
  return to_png(image)


def _check_rows(rows: Mapping[str, np.ndarray]) -> tuple[int, int, int]:
  """Returns T, h and w of all rows."""
  if not rows:
    raise ValueError("film_strip: no rows given; pass at least one, such as {'real': frames}.")
  shape = None
  for label, frames in rows.items():
    check_frames(frames, f"film_strip: row {label!r}")
    shape = shape or frames.shape
    if frames.shape != shape:
      raise ValueError(
        f"film_strip: row {label!r} has shape {frames.shape}, the first row {shape}; "
        "cut all rows to the same steps and size."
      )
  return shape[:3]


def _check_steps(steps: Sequence[int] | None, num_frames: int) -> Sequence[int]:
  """Returns `steps`, or the default steps for None."""
  if steps is None:
    count = min(num_frames, _MAX_COLUMNS)
    return np.unique(np.linspace(0, num_frames - 1, count).round().astype(int))
  outside = [step for step in steps if not 0 <= step < num_frames]
  if outside or not len(steps):
    raise ValueError(
      f"film_strip: steps {outside or 'is empty'}; there are frames 0 to {num_frames - 1}."
    )
  return steps


def _cell_height(height: int) -> int:
  """Returns the shown height of a frame: a multiple of its own height if that is small."""
  return height * max(1, round(CELL / height)) if height < 2 * CELL else CELL
