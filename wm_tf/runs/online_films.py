"""Films of what a world model dreams beside what happened."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from wm_tf import rng
from wm_tf.core import Batch
from wm_tf.envs.frames import display_frames
from wm_tf.models.rssm import RSSM

_NUM_OBSERVED = 5
_MARGIN = 2  # Pixels between the two pictures; white while the model sees the left one.


def dream_film(model: RSSM, batch: Batch, seed: tf.Tensor) -> np.ndarray | None:
  """Shows a real window, and beside it the model's pictures of it.

  The model observes the first 5 steps and the start of every episode, and dreams the others from
  the recorded actions.

  Args:
    model: the model.
    batch: one window, `[1, T, ...]`.
    seed: `int32[2]`.

  Returns:
    `uint8[T, H, W, 3]`; None if observations have no image.
  """
  spec = model.observation
  if not spec.images:
    return None
  part = spec.images[0]
  index = spec.parts.index(part)
  state, decoded, seen = model.initial_state(1), [], []
  for t in range(batch.mask.shape[1]):
    observation = tf.nest.map_structure(lambda x, t=t: tf.constant(x[:, t]), batch.observation)
    action, is_first = tf.constant(batch.prev_action[:, t]), tf.constant(batch.is_first[:, t])
    seen.append(t < _NUM_OBSERVED or bool(batch.is_first[0, t]))
    step_seed = rng.fold_in(seed, t)
    if seen[-1]:
      state = model.observe(state, action, observation, is_first, step_seed)
    else:
      state = model.imagine(state, action, step_seed).state
    decoded.append(np.asarray(spec.unpack(model.decode(state))[index][0]))
  real = display_frames(np.asarray(spec.unpack(batch.observation)[index][0]), part)
  dreamed = display_frames(np.stack(decoded), part)
  margin = np.zeros((len(real), real.shape[1], _MARGIN, 3), np.uint8)
  margin[np.array(seen)] = 255
  return np.concatenate([real, margin, dreamed], axis=2)
