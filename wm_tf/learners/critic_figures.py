"""Whether a critic is right about the returns that its actor obtains in dreams."""

from __future__ import annotations

import math

import numpy as np
import tensorflow as tf

from wm_tf import rng
from wm_tf.core import Nest
from wm_tf.imagination import draw_rows, imagine_returns
from wm_tf.models.world_model import WorldModel
from wm_tf.policies.actor import Actor, Critic

_NUM_DREAMS = 128
_MAX_STEPS = 2000
_REMAINDER = 0.01


def num_steps(discount: float) -> int:
  """Computes the length of a dream whose discounted return is nearly complete.

  Args:
    discount: factor per step, in [0, 1].

  Returns:
    The number of steps after which 1% of the return is left if the reward is constant; at most
    2000.
  """
  if discount <= _REMAINDER:
    return 1
  if discount >= 1.0:
    return _MAX_STEPS
  return min(_MAX_STEPS, math.ceil(math.log(_REMAINDER) / math.log(discount)))


def critic_figures(
  world_model: WorldModel,
  actor: Actor,
  critic: Critic,
  starts: Nest,
  seed: tf.Tensor,
  noise_scale: float | tf.Tensor = 0.0,
  temperature: float = 1.0,
) -> dict[str, float]:
  """Compares a critic's values with the Monte Carlo returns of its actor.

  The actor samples its actions as in training. The dreams are far longer than those that it learns
  from, so that no critic is needed for what follows them.

  Args:
    world_model: the world model in which both were trained.
    actor: the actor.
    critic: the critic.
    starts: M >= 1 states, of which 128 are drawn.
    seed: `int32[2]`.
    noise_scale: scale of the noise on actions whose distribution is not learned.
    temperature: temperature of the dreams.

  Returns:
    `critic`: mean value of the start states; `monte_carlo`: mean discounted return of a dream from
    each; `monte_carlo_error`: its standard error. All in units of reward.
  """
  horizon = num_steps(critic.discount)
  start_seed, noise_seed, dream_seed = rng.split(seed, 3)

  @tf.function(autograph=False)
  def dream(starts):
    state = draw_rows(starts, _NUM_DREAMS, start_seed)
    shape = [_NUM_DREAMS, horizon, actor.action_size]
    noise = actor.distribution.draw_noise(shape, noise_seed, noise_scale)

    def act(t, state, memory):
      outputs = actor.network(world_model.features(state))
      return actor.distribution.sample(outputs, tf.gather(noise, t, axis=1)), memory

    found = imagine_returns(
      world_model,
      act,
      state,
      horizon,
      dream_seed,
      temperature=temperature,
      discount=critic.discount,
    )
    return critic.value(state), found.imagined_return

  values, returns = (np.asarray(x, np.float64) for x in dream(starts))
  return {
    "critic": float(values.mean()),
    "monte_carlo": float(returns.mean()),
    "monte_carlo_error": float(returns.std(ddof=1) / math.sqrt(_NUM_DREAMS)),
  }
