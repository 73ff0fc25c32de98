"""Observations of any kind become pictures: images of any channels, vectors, and both."""

import io

import numpy as np
import pytest
from PIL import Image

from wm_tf import report
from wm_tf.core import ObservationPart, ObservationSpec, image_observation
from wm_tf.report.observations import display_vectors
from wm_tf.report.vector_plots import varying_dimensions

_PINK = (224, 140, 196)  # The dreamed row, and the mark of the dream.


def _pixels(png: bytes) -> np.ndarray:
  return np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)


def _near(pixels: np.ndarray, color) -> np.ndarray:
  """Where pixels are about a colour."""
  return np.abs(pixels - np.array(color)).max(-1) <= 6


def _image(channels: int, frame_channels: int, name: str = "") -> ObservationPart:
  shape = (4, 6, channels)
  return ObservationPart(name, "image", shape, shape, "uint8", frame_channels=frame_channels)


def _vector(size: int, name: str = "", **fields) -> ObservationPart:
  return ObservationPart(name, "vector", (size,), (size,), "float32", **fields)


@pytest.mark.parametrize(
  ("channels", "frame_channels", "expected"),
  [
    (1, 1, [0, 0, 0]),
    (4, 1, [30, 30, 30]),  # Four stacked gray frames: the newest.
    (3, 3, [0, 10, 20]),
    (9, 3, [60, 70, 80]),  # Three stacked colour frames.
    (2, 2, [0, 10, 0]),
    (5, 5, [0, 10, 20]),
  ],
)
def test_display_frames_makes_rgb_of_any_channels(channels, frame_channels, expected):
  frames = np.broadcast_to(np.arange(channels, dtype=np.uint8) * 10, (2, 4, 6, channels))
  shown = report.display_frames(frames, _image(channels, frame_channels))
  assert shown.shape == (2, 4, 6, 3) and shown.dtype == np.uint8
  assert np.all(shown == expected)


def test_display_frames_puts_alpha_in_front_of_black():
  frames = np.broadcast_to(np.array([200, 100, 50, 51], np.uint8), (1, 4, 6, 4))
  shown = report.display_frames(frames, _image(4, 4))
  assert np.all(shown == [40, 20, 10])


def test_display_frames_takes_what_a_model_decodes():
  frames = np.full((1, 4, 6, 3), 0.5, np.float32)
  frames[..., 0], frames[..., 2] = 1.2, -0.1
  assert np.all(report.display_frames(frames, _image(3, 3)) == [255, 128, 0])
  with pytest.raises(ValueError, match=r"camera must be \[T, H, W, C\], got \(4, 6, 3\)"):
    report.display_frames(frames[0], _image(3, 3, "camera"))


def test_one_hot_vectors_are_shown_as_the_integers_they_stand_for():
  part = _vector(5, "dice", num_choices=(2, 3), start=(0, 1))
  values = np.array([[1, 0, 0.1, 0.2, 0.7], [0, 1, 1, 0, 0]], np.float32)
  shown, names = display_vectors(values, part)
  assert shown.tolist() == [[0, 3], [1, 1]] and names == ["dice[0]", "dice[1]"]
  shown, names = display_vectors(values, _vector(5))
  assert np.array_equal(shown, values) and names[0] == "observation[0]"
  assert display_vectors(values[:, :1], _vector(1, "speed"))[1] == ["speed"]


def test_dimensions_that_vary_are_preferred_and_evenly_spread():
  values = np.zeros((3, 30))
  assert varying_dimensions(values[:, :8], 8) == list(range(8))
  assert varying_dimensions(values, 4) == [0, 10, 19, 29]
  values[1, 10:] = 1.0
  assert varying_dimensions(values, 3) == [10, 20, 29]


def test_vector_strip_draws_one_panel_per_dimension_in_scale():
  ramp = np.linspace(0, 1, 20)[:, np.newaxis].astype(np.float32)
  one = _pixels(report.vector_strip({"real": ramp}, ["x"]))
  four = _pixels(report.vector_strip({"real": np.tile(ramp, (1, 4))}))
  assert one.shape[1] == four.shape[1] == 1456 and len(four) > 2 * len(one)
  line = _near(one[60:], (236, 233, 224))  # Below the legend.
  columns = np.flatnonzero(line.any(0))
  heights = np.array([np.flatnonzero(line[:, c]).mean() for c in columns])
  inner = columns > 120
  slope = np.polyfit(columns[inner], heights[inner], 1)
  assert slope[0] < 0  # Upwards.
  assert np.abs(np.polyval(slope, columns[inner]) - heights[inner]).max() < 3


def test_the_dream_is_drawn_from_where_it_begins():
  flat = np.zeros((21, 1), np.float32)
  rows = {"real": flat - 1, "dreamed": flat + 1}
  pixels = _pixels(report.vector_strip(rows, dream_from=11))[45:]
  columns = np.flatnonzero(_near(pixels, _PINK).any(0))
  left, right = (np.flatnonzero(_near(pixels, (236, 233, 224)).any(0))[i] for i in (0, -1))
  assert columns[0] == pytest.approx((left + right) / 2, abs=12) and columns[-1] > right - 12
  whole = _pixels(report.vector_strip(rows))[45:]
  assert np.flatnonzero(_near(whole, _PINK).any(0))[0] < left + 12


@pytest.mark.parametrize(
  ("rows", "names", "message"),
  [
    ({}, None, "no rows"),
    ({"real": np.zeros(3)}, None, r"row 'real': expected float\[T, D\], got \(3,\)"),
    ({"a": np.zeros((2, 3)), "b": np.zeros((3, 3))}, None, "row 'b' has shape"),
    ({"a": np.zeros((2, 3))}, ["x"], "3 dimensions need as many names; got 1"),
  ],
)
def test_vector_strip_refuses(rows, names, message):
  with pytest.raises(ValueError, match=message):
    report.vector_strip(rows, names)


def test_one_image_is_a_film_strip():
  frames = np.random.default_rng(0).integers(0, 256, (12, 8, 8, 3), np.uint8)
  rows = {"real": frames, "dreamed": frames / np.float32(255)}
  options = {"steps": [0, 5, 11], "first_step": 3, "dream_from": 5}
  found = report.observation_strip(rows, image_observation((8, 8, 3), (96, 96, 3)), **options)
  assert found == report.film_strip({"real": frames, "dreamed": frames}, **options)


def test_one_vector_is_a_plot():
  values = np.random.default_rng(0).normal(size=(12, 3)).astype(np.float32)
  found = report.observation_strip({"real": values}, ObservationSpec((_vector(3),)), first_step=3)
  names = [f"observation[{index}]" for index in range(3)]
  assert found == report.vector_strip({"real": values}, names, first_step=3)


def test_a_mixed_observation_shows_every_part():
  spec = ObservationSpec(
    (_image(1, 1, "map"), _vector(20, "joints"), _vector(2, "on", num_choices=(2,)))
  )
  rng = np.random.default_rng(0)

  def observation():
    return {
      "map": rng.integers(0, 256, (12, 4, 6, 1), np.uint8),
      "joints": rng.normal(size=(12, 20)).astype(np.float32),
      "on": np.eye(2, dtype=np.float32)[rng.integers(0, 2, 12)],
    }

  rows = {"real": observation(), "dreamed": observation()}
  picture = _pixels(report.observation_strip(rows, spec, dream_from=6))
  frames = {label: report.display_frames(row["map"], spec.parts[0]) for label, row in rows.items()}
  strip = _pixels(report.film_strip(frames, dream_from=6, title="map"))
  assert np.array_equal(picture[: len(strip), : strip.shape[1]], strip)
  alone = _pixels(report.vector_strip({"a": np.zeros((12, 8))}))
  assert len(picture) - len(strip) >= len(alone)  # Eight panels: seven joints and the switch.


def test_observation_strip_refuses_no_rows():
  with pytest.raises(ValueError, match="no rows"):
    report.observation_strip({}, ObservationSpec((_vector(3),)))
