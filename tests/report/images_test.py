"""Film strips and animations show every frame where and when it belongs."""

import io

import numpy as np
import pytest
from PIL import Image, ImageSequence

from wm_tf import report


def test_film_strip_places_every_frame(frames):
  rows = {"real": frames, "dreamed": frames[::-1]}
  data = report.film_strip(rows, steps=[0, 2, 5], scale=4)
  pixels = np.asarray(Image.open(io.BytesIO(data)))
  # From the right and bottom edges, where no label is: margin 12, cells of 32, gaps of 4.
  for row, strip in enumerate(rows.values()):
    for column, step in enumerate([0, 2, 5]):
      x = pixels.shape[1] - 12 - 32 * (3 - column) - 4 * (2 - column)
      y = pixels.shape[0] - 12 - 32 * (2 - row) - 4 * (1 - row)
      cell = pixels[y : y + 32, x : x + 32]
      assert np.array_equal(cell, np.broadcast_to(strip[step, 0, 0], (32, 32, 3)))
      assert tuple(pixels[y - 1, x]) == tuple(pixels[0, 0])  # The ground around it.


def test_film_strip_marks_where_the_dream_begins(frames):
  plain = np.asarray(Image.open(io.BytesIO(report.film_strip({"a": frames}, scale=8))))
  marked = report.film_strip({"a": frames}, scale=8, dream_from=2)
  marked = np.asarray(Image.open(io.BytesIO(marked)))
  assert marked.shape[0] > plain.shape[0] and marked.shape[1] == plain.shape[1]
  pink = np.all(marked == (224, 140, 196), axis=-1)
  left = marked.shape[1] - 12 - 4 * 64 - 3 * 4  # Of the third of six columns.
  assert pink.any() and not pink[:, : left - 1].any()
  assert pink[:, left : left + 80].any()


def test_film_strip_shows_ten_columns_at_most():
  frames = np.zeros((300, 8, 8, 3), np.uint8)
  data = report.film_strip({"a": frames}, scale=2)
  two = report.film_strip({"a": frames}, scale=2, steps=[0, 299])
  widths = [Image.open(io.BytesIO(d)).width for d in (data, two)]
  assert widths[0] - widths[1] == 8 * (16 + 4)


@pytest.mark.parametrize(
  ("rows", "options", "message"),
  [
    ({}, {}, "no rows"),
    ({"real": np.zeros((2, 8, 8, 3))}, {}, "row 'real'.*uint8.*float64"),
    ({"a": np.zeros((2, 8, 8, 3), np.uint8), "b": np.zeros((3, 8, 8, 3), np.uint8)}, {}, "row 'b'"),
    ({"a": np.zeros((2, 8, 8, 3), np.uint8)}, {"steps": [0, 2]}, r"steps \[2\].*0 to 1"),
    ({"a": [1, 2]}, {}, "row 'a'.*list"),
  ],
)
def test_film_strip_refuses(rows, options, message):
  with pytest.raises(ValueError, match=message):
    report.film_strip(rows, **options)


def test_animation_plays_every_frame_at_its_time(frames):
  data = report.animation(
    frames, beside=frames[::-1], captions=[f"t {t}" for t in range(6)], fps=12.5, panel_size=32
  )
  gif = Image.open(io.BytesIO(data))
  assert gif.n_frames == 6 and gif.info["loop"] == 0
  assert gif.width == 12 + 32 + 4 + 32 + 12
  durations = []
  for t, image in enumerate(ImageSequence.Iterator(gif)):
    durations.append(image.info["duration"])
    pixels = np.asarray(image.convert("RGB")).astype(int)
    top = 12 + round(14 * 1.6)
    for x, frame in ((12, frames[t]), (12 + 36, frames[5 - t])):
      assert np.abs(pixels[top + 16, x + 16] - frame[0, 0]).max() <= 4  # A palette, not exact.
    assert pixels[-1, -1].max() < 40  # The dark ground.
  assert durations == [80, 80, 80, 80, 80, 1580]


def test_animation_stays_below_the_size_by_dropping_frames_not_speed():
  noise = np.random.default_rng(0).integers(0, 256, (60, 16, 16, 3), np.uint8)
  full = report.animation(noise, panel_size=64, max_bytes=10**9)
  small = report.animation(noise, panel_size=64, max_bytes=len(full) // 5)
  assert len(small) <= len(full) // 5
  gifs = [Image.open(io.BytesIO(data)) for data in (full, small)]
  assert gifs[1].n_frames < gifs[0].n_frames == 60
  lengths = [sum(f.info["duration"] for f in ImageSequence.Iterator(gif)) for gif in gifs]
  assert lengths == [60 * 80 + 1500] * 2


def test_animation_refuses_unequal_lengths(frames):
  with pytest.raises(ValueError, match="6, 5 and 6"):
    report.animation(frames, beside=frames[:5])
  with pytest.raises(ValueError, match="6, None and 1"):
    report.animation(frames, captions=["a"])
