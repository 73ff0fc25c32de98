"""A nonlinear world of continuous or categorical actions, whose best plans are known."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from wm_tf import rng
from wm_tf.core import Prediction
from wm_tf.imagination import imagine_returns, policy_action_fn
from wm_tf.models.world_model import WorldModel

# Of categorical actions: a direction, and a speed.
DIRECTIONS, SPEEDS = (-1.0, 0.0, 1.0), (0.5, 1.0)
NUM_CHOICES = (len(DIRECTIONS), len(SPEEDS))
GOAL = 1.0


def _gain(x, sin):
  return 0.3 * (1.0 + 0.5 * sin(3.0 * x))


class NonlinearWorld(WorldModel):
  """`x' = x + 0.3 (1 + 0.5 sin(3 x)) u`, and the reward is `10 + 5 (1 - (x' - 1)^2)`.

  A continuous action is `u` itself. A categorical one is a direction -1, 0 or 1 and a speed 0.5 or
  1, the product of which is `u`. Features are `x` and `x^2`.
  """

  def __init__(self, categorical: bool = False):
    super().__init__(name="nonlinear")
    self.categorical = categorical
    self.num_choices = NUM_CHOICES if categorical else ()
    self.action_size = sum(NUM_CHOICES) if categorical else 1
    self.feature_size = 2
    self.built = True

  def initial_state(self, batch_size):
    return tf.zeros([batch_size, 1])

  def features(self, state):
    return tf.concat([state, tf.square(state)], axis=-1)

  def draw_noise(self, batch_size, num_steps, seed):
    return rng.normal([batch_size, num_steps, 1], seed)

  def imagine_with_noise(self, state, action, noise, temperature=1.0):
    if self.categorical:
      direction = tf.linalg.matvec(action[:, :3], DIRECTIONS)
      action = (direction * tf.linalg.matvec(action[:, 3:], SPEEDS))[:, tf.newaxis]
    x = state + _gain(state, tf.sin) * action + 0.0 * noise
    reward = 10.0 + 5.0 * (1.0 - tf.square(x[:, 0] - GOAL))
    return Prediction(x, reward, tf.ones_like(reward), tf.zeros_like(reward))


def best_return(world: NonlinearWorld, x, horizon: int) -> np.ndarray:
  """The largest return of `horizon` steps from positions `x[B]`, `float64[B]`.

  Continuous: each step goes as far towards the goal as it can, which suits all later steps too.
  Categorical: all plans are tried.
  """
  x = np.asarray(x, np.float64)
  choices = sorted({d * s for d in DIRECTIONS for s in SPEEDS}) if world.categorical else None
  return _best(x, choices, horizon)


def _best(x, choices, horizon):
  if not horizon:
    return np.zeros_like(x)
  gain = _gain(x, np.sin)
  if choices is None:
    steps = [np.clip((GOAL - x) / gain, -1.0, 1.0)]
  else:
    steps = [np.full_like(x, choice) for choice in choices]
  found = []
  for step in steps:
    after = x + gain * step
    reward = 10.0 + 5.0 * (1.0 - np.square(after - GOAL))
    found.append(reward + _best(after, choices, horizon - 1))
  return np.max(found, axis=0)


def share_of_best(world: NonlinearWorld, policy, x, horizon: int = 6) -> np.ndarray:
  """How far a policy goes from standing still (0) to the best return (1), from each far `x[B]`."""
  x = np.asarray(x, np.float32)
  x = x[np.abs(x - GOAL) > 0.5]
  seed = rng.make_seed(3)
  found = imagine_returns(
    world, policy_action_fn(policy, seed), tf.constant(x[:, None]), horizon, seed
  ).imagined_return
  best = best_return(world, x, horizon)
  still = horizon * (10.0 + 5.0 * (1.0 - np.square(x - GOAL)))
  return (found.numpy() - still) / (best - still)
