"""Pictures of observations: images, vectors, or both."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image

from wm_tf.core import Nest, ObservationPart, ObservationSpec
from wm_tf.envs.frames import display_frames as display_frames
from wm_tf.report.canvas import stack
from wm_tf.report.film_strips import film_strip
from wm_tf.report.vector_plots import MAX_DIMENSIONS, varying_dimensions, vector_strip

_WIDTH = 1456  # The width of line plots without film strips, in pixels.


def display_vectors(values: np.ndarray, part: ObservationPart) -> tuple[np.ndarray, list[str]]:
  """Converts vectors to the numbers that a plot shows.

  Args:
    values: `float[T, D]`.
    part: the part of the observation.

  Returns:
    `float64[T, N]` and N names. Each one-hot group becomes the integer that it encodes, so that N
    is the number of groups; other vectors are unchanged.
  """
  values = np.asarray(values, np.float64)
  name = part.name or "observation"
  if part.num_choices:
    groups = np.split(values, np.cumsum(part.num_choices)[:-1], axis=-1)
    values = np.stack([group.argmax(-1) for group in groups], axis=-1).astype(np.float64)
    if part.start is not None:
      values += np.asarray(part.start)
  count = values.shape[-1]
  return values, [name] if count == 1 else [f"{name}[{index}]" for index in range(count)]


def observation_strip(
  rows: Mapping[str, Nest],
  spec: ObservationSpec,
  *,
  steps: Sequence[int] | None = None,
  first_step: int = 0,
  dream_from: int | None = None,
) -> bytes:
  """Draws observations over time: film strips of images and line plots of vectors.

  Args:
    rows: label to an observation with a leading T, in the format of `spec`: real, reconstructed,
      dreamed. Images can be uint8 or floats in [0, 1].
    spec: describes the observations.
    steps: the indices of the steps in film strips; None for at most 10, evenly spread. Line plots
      show all steps.
    first_step: the step number of element 0.
    dream_from: the index of the first observation that was dreamed without further observations;
      None if there is none.

  Returns:
    A PNG.

  Raises:
    ValueError: if there are no rows, or they differ in shape.
  """
  if not rows:
    raise ValueError("observation_strip: no rows given; pass at least one, such as {'real': ...}.")
  parts = {label: spec.unpack(observation) for label, observation in rows.items()}
  sizes = {part.name: len(part.num_choices) or part.shape[0] for part in spec.vectors}
  shares = _dimension_shares(sizes)
  options = {"first_step": first_step, "dream_from": dream_from}
  pictures, vectors, names, size = [], {label: [] for label in rows}, [], 0
  for index, part in enumerate(spec.parts):
    values = {label: unpacked[index] for label, unpacked in parts.items()}
    if part.kind == "image":
      frames = {label: display_frames(value, part) for label, value in values.items()}
      title = part.name if len(spec.parts) > 1 else ""
      pictures.append(film_strip(frames, steps=steps, title=title, **options))
      continue
    shown = {label: display_vectors(value, part) for label, value in values.items()}
    first, part_names = next(iter(shown.values()))
    kept = varying_dimensions(first, shares[part.name])
    for label, (value, _) in shown.items():
      vectors[label].append(value[:, kept])
    names += [part_names[dimension] for dimension in kept]
    size += len(part_names)
  if names:
    width = max((Image.open(io.BytesIO(picture)).width for picture in pictures), default=_WIDTH)
    joined = {label: np.concatenate(values, axis=-1) for label, values in vectors.items()}
    title = "" if len(names) == size else f"{len(names)} of {size} dimensions"
    pictures.append(vector_strip(joined, names, title=title, width=max(width, 700), **options))
  return stack(pictures)


def _dimension_shares(sizes: Mapping[str, int]) -> dict[str, int]:
  """Returns the number of dimensions to show of each vector: all of short ones, at least one."""
  shares, left = {}, MAX_DIMENSIONS
  for index, (name, size) in enumerate(sorted(sizes.items(), key=lambda item: item[1])):
    shares[name] = max(1, min(size, left // (len(sizes) - index)))
    left -= shares[name]
  return shares
