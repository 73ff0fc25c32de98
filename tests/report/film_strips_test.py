"""Film strips show every frame in its place."""

import io

import numpy as np
import pytest
from PIL import Image

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


@pytest.mark.parametrize(
  ("height", "cell"), [(32, 128), (64, 128), (84, 168), (128, 128), (400, 128)]
)
def test_frames_of_any_size_are_large_enough_to_see(height, cell):
  frames = np.full((1, height, 2 * height, 3), 200, np.uint8)
  pixels = np.asarray(Image.open(io.BytesIO(report.film_strip({"a": frames}))))
  bright = np.all(pixels[..., :] == 200, axis=-1)
  assert bright.any(1).sum() == cell and bright.any(0).sum() == 2 * cell


def test_a_title_stands_above_the_strip(frames):
  plain, titled = (
    np.asarray(Image.open(io.BytesIO(report.film_strip({"a": frames}, title=title))))
    for title in ("", "camera")
  )
  extra = len(titled) - len(plain)
  assert extra > 0 and np.array_equal(titled[12 + extra :], plain[12:])
