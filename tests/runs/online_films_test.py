"""Films of dreams beside what happened."""

import numpy as np
import pytest
import tensorflow as tf

from tests.worlds import OBSERVATIONS, make_batch, random_observation, small_rssm
from wm_tf import rng
from wm_tf.envs.frames import display_frames
from wm_tf.imagination import observe_sequence
from wm_tf.runs.online_films import dream_film

_SEED = rng.make_seed(3)


@pytest.mark.parametrize("name", ["image", "gray", "mixed"])
def test_real_and_dreamed_pictures(name):
  spec = OBSERVATIONS[name]
  model = small_rssm(observation=spec)
  batch = make_batch(random_observation(spec, 1, 9), lengths=(9,))
  batch = tf.nest.map_structure(np.array, batch)
  batch.is_first[0, 7] = True
  film = dream_film(model, batch, _SEED)
  part = spec.images[0]
  height, width, _ = part.shape
  assert film.dtype == np.uint8 and film.shape == (9, height, 2 * width + 2, 3)
  index = spec.parts.index(part)
  real = display_frames(np.asarray(spec.unpack(batch.observation)[index][0]), part)
  np.testing.assert_array_equal(film[:, :, :width], real)
  # White where the model saw the frame: the first five, and the start of an episode.
  seen = film[:, 0, width, 0] == 255
  np.testing.assert_array_equal(seen, [True] * 5 + [False, False, True, False])
  states = observe_sequence(model, tf.nest.map_structure(tf.constant, batch), _SEED)
  decoded = model.decode(tf.nest.map_structure(lambda x: x[0], states))
  expected = display_frames(np.asarray(spec.unpack(decoded)[index]), part).astype(int)
  difference = np.abs(film[:, :, width + 2 :] - expected).max(axis=(1, 2, 3))
  assert difference[:5].max() <= 1 and difference[5:7].min() > 1


def test_without_images_there_is_none():
  model = small_rssm(observation=OBSERVATIONS["vector"])
  batch = make_batch(random_observation(OBSERVATIONS["vector"], 1, 6), lengths=(6,))
  assert dream_film(model, batch, _SEED) is None
