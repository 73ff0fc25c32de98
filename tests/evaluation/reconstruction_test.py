"""How well a jointly trained model gives back the observations of episodes."""

import json

import numpy as np
import pytest
import tensorflow as tf

from tests.worlds import OBSERVATIONS, make_batch, random_observation, small_rssm
from wm_tf import rng
from wm_tf.evaluation import QualityGateError, check_reconstruction, reconstruction_quality
from wm_tf.imagination import observe_sequence

_SPEC = OBSERVATIONS["mixed"]


def test_reconstruction_quality_against_numpy():
  model = small_rssm(observation=_SPEC)
  batch = make_batch(random_observation(_SPEC, 3, 5), lengths=(5, 2, 3))
  quality = reconstruction_quality(model, _SPEC, [batch])
  mask = batch.mask.numpy()
  states = observe_sequence(model, batch, rng.make_seed(0))
  decoded = model.decode(tf.nest.map_structure(lambda x: tf.boolean_mask(x, mask), states))
  camera = batch.observation["camera"].numpy()[mask] / 255.0
  error = np.square(decoded["camera"].numpy() - camera).sum() / 10
  baseline = np.square(camera - camera.mean(0)).sum() / 10
  assert quality["sse"] == pytest.approx(error, rel=1e-3)
  assert quality["sse_mean_image"] == pytest.approx(baseline, rel=1e-6)
  joints = batch.observation["joints"].numpy()[mask].astype(np.float64)
  shares = np.square(decoded["joints"].numpy() - joints).mean(0) / joints.var(0)
  assert quality["parts"]["joints"]["error"] == pytest.approx(shares.sum(), rel=1e-3)
  assert quality["parts"]["joints"]["baseline"] == 5
  assert list(quality["parts"]) == ["camera", "joints", "speed"]
  json.dumps(quality, allow_nan=False)


def test_no_episode_is_an_error():
  with pytest.raises(ValueError, match="no held-out episode"):
    reconstruction_quality(small_rssm(), OBSERVATIONS["image"], [])


def test_the_gate():
  parts = {
    "camera": {"kind": "image", "error": 20.0, "baseline": 90.0},
    "speed": {"kind": "vector", "error": 0.1, "baseline": 1.0},
  }
  check_reconstruction({"parts": parts})
  parts["speed"]["error"] = 0.5
  with pytest.raises(QualityGateError, match=r"RSSM has not learned speed: .*--force"):
    check_reconstruction({"parts": parts})
