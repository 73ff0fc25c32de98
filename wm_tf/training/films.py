"""Films in TensorBoard."""

from __future__ import annotations

import io

import numpy as np
import tensorflow as tf
from PIL import Image


def film_summary(name: str, frames: np.ndarray, fps: float) -> tf.compat.v1.Summary:
  """Makes a summary of an animated GIF, which TensorBoard plays among its images.

  Args:
    name: name of the film.
    frames: `uint8[T, H, W, 3]`.
    fps: frames per second.

  Returns:
    The summary.
  """
  first, *others = [Image.fromarray(frame) for frame in frames]
  file = io.BytesIO()
  duration = round(1000 / fps)  # Milliseconds.
  first.save(file, format="GIF", save_all=True, append_images=others, duration=duration, loop=0)
  height, width = frames.shape[1:3]
  image = tf.compat.v1.Summary.Image(
    height=height, width=width, colorspace=3, encoded_image_string=file.getvalue()
  )
  return tf.compat.v1.Summary(value=[tf.compat.v1.Summary.Value(tag=name, image=image)])
