"""Where the disagreement of a model is measured, in a world where it is the way that was gone."""

import re

import numpy as np
import pytest

from tests.worlds import (
  AdditiveState,
  AdditiveWorld,
  Always,
  embedded_batch,
  latents_of,
  make_batch,
  small_mdn_rnn,
)
from wm_tf import report
from wm_tf.evaluation import disagreement


def test_along_real_episodes():
  batch = make_batch(np.zeros((3, 6, 64, 64, 3), np.uint8), lengths=(6, 3, 1))
  found = disagreement.along(AdditiveWorld(), [batch, batch])
  action = np.abs(batch.prev_action.numpy()).sum(-1)
  once = np.concatenate([action[0, 1:6], action[1, 1:3]])
  np.testing.assert_allclose(found, np.concatenate([once, once]), rtol=1e-6)
  with pytest.raises(ValueError, match="no step of a real episode"):
    disagreement.along(AdditiveWorld(), [])


def test_usual_is_what_a_tenth_of_the_steps_pass():
  ensemble = small_mdn_rnn(ensemble_size=2)
  batches = [embedded_batch(latents_of(ensemble, 8, 6, seed=s), seed=s) for s in (0, 1)]
  found = disagreement.along(ensemble, batches)
  disagreement.calibrate(ensemble, batches)
  assert np.mean(ensemble.unfamiliarity(found) > 0.0) == pytest.approx(0.1, abs=1 / len(found))


@pytest.mark.parametrize(("discount", "steps"), [(1.0, 7), (0.9, 7), (0.7, 2)])
def test_in_dreams_until_they_have_probably_ended(discount, steps):
  """0.7 ** 2 is below a half: two steps are taken before that."""
  world = AdditiveWorld(discount=discount)
  starts = AdditiveState(np.zeros((4, 2), np.float32), np.zeros((4, 1), np.float32))
  found = disagreement.in_dreams(world, Always([0.5, -0.25]), starts, 7, seed=0)
  np.testing.assert_allclose(found, np.full(4 * steps, 0.75), rtol=1e-6)


def test_figures():
  values = np.arange(101.0)
  assert disagreement.figures({"dreams": values}) == {
    "dreams": {"median": 50.0, "mean": 50.0, "p90": 90.0, "count": 101}
  }


def test_the_chart_shows_every_sample():
  generator = np.random.default_rng(0)
  samples = {
    "training data": generator.gamma(2.0, 0.1, 500),
    "real visits": generator.gamma(2.0, 0.2, 100),
    "dreams": np.append(generator.gamma(2.0, 0.3, 300), 1e6),  # One beyond everything.
  }
  svg = report.disagreement_figure(samples)
  for name in samples:
    assert f">{name}</text>" in svg
  ticks = [float(text) for text in re.findall(r">(\d\.\d+)</text>", svg)]
  assert ticks and max(ticks) < 5.0
  assert svg == report.disagreement_figure(samples)
