"""Animations show every frame at its time."""

import io

import numpy as np
import pytest
from PIL import Image, ImageSequence

from wm_tf import report


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
