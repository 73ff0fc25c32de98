"""The contract, on the world of the other tests: they may trust it."""

import numpy as np
import pytest
import tensorflow as tf

from tests.contracts import WorldModelContract
from tests.worlds import AdditiveState, AdditiveWorld, best_return


class TestAdditiveWorld(WorldModelContract):
  @pytest.fixture(scope="class")
  @classmethod
  def make_model(cls):
    return lambda seed: AdditiveWorld(noise_scale=0.4, discount=0.9, gain=1.0 + 0.5 * seed)


def test_additive_world_by_hand():
  world = AdditiveWorld(goal=2.0, discount=0.9)
  state = AdditiveState(tf.constant([[1.0, -1.0]]), tf.constant([[3.0]]))
  prediction = world.imagine(state, tf.constant([[0.5, -0.25]]), tf.constant([0, 1]))
  np.testing.assert_allclose(prediction.state.z, [[1.5, -1.25]])
  np.testing.assert_allclose(prediction.state.distance, [[3.75]])
  np.testing.assert_allclose(prediction.reward, [-(0.25 + 3.25**2)])
  np.testing.assert_allclose(prediction.discount, [0.9])
  np.testing.assert_allclose(prediction.disagreement, [0.75])
  # From 0.5: to 1.5 (off by 0.5), then to the goal; from 2.0: there already.
  np.testing.assert_allclose(best_return(world, [[0.5, 2.0]], 3), [-0.25])
