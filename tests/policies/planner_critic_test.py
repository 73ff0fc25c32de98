"""A planner whose critic estimates the return after the horizon."""

import numpy as np
import tensorflow as tf

from tests.worlds import AdditiveWorld, state_at
from wm_tf import rng
from wm_tf.policies.planner import Planner, PlannerConfig

_SEED = rng.make_seed(3)


class Attraction:
  """A critic that values being at `place`, and nothing else."""

  discount = 0.5

  def __init__(self, place, weight):
    self.place, self.weight = place, weight

  def value(self, state):
    return -self.weight * tf.reduce_sum(tf.square(state.z - self.place), axis=-1)


def test_a_critic_stands_for_what_comes_after_the_horizon():
  """One step: the best action weighs the reward's goal 1 against the critic's place -1."""
  world = AdditiveWorld(goal=1.0)
  config = PlannerConfig(horizon=1, num_candidates=100, num_elites=10, num_iterations=12)
  state = state_at([[0.0, 0.0], [0.25, -0.25]])
  weight = 6.0
  planner = Planner(world, config, critic=Attraction(-1.0, weight))
  plan, value = planner.plan(state, planner.initial_memory(2), _SEED)
  # Where the gradients of (z - 1)^2 and of 0.5 * 6 (z + 1)^2 cancel.
  best = (1.0 - 0.5 * weight) / (1.0 + 0.5 * weight)
  np.testing.assert_allclose(state.z + plan[:, 0], np.full([2, 2], best), atol=0.03)
  np.testing.assert_allclose(
    value, np.full(2, -2 * ((best - 1) ** 2 + 0.5 * weight * (best + 1) ** 2)), atol=0.02
  )
