"""Rollouts inside a world model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import tensorflow as tf

from wm_tf.core import Imagined, Nest
from wm_tf.models.world_model import WorldModel


def repeat_rows(nest: Nest, num: int) -> Nest:
  """`[B, ...]` to `[num * B, ...]`, copies one after another: row `n * B + b` is row `b`."""
  return tf.nest.map_structure(lambda x: tf.tile(x, [num] + [1] * (x.shape.rank - 1)), nest)


class Returns(NamedTuple):
  """Sums over an imagined rollout, each `float32[B]`, and the state in which it ended."""

  imagined_return: tf.Tensor  # Rewards weighted by the probability of still being alive.
  disagreement: tf.Tensor  # Weighted in the same way.
  alive: tf.Tensor  # Probability that the episode goes on after the last step.
  state: Nest


def imagine_returns(
  world_model: WorldModel,
  action_fn: Callable[[tf.Tensor, Nest], tf.Tensor],
  state: Nest,
  horizon,
  seed: tf.Tensor,
  *,
  temperature: Any = 1.0,
  num_copies: int = 1,
  discount: float = 1.0,
) -> Returns:
  """Rolls out and keeps only the sums: the inner loop of evolution and of planning.

  Args:
    world_model: any.
    action_fn: maps `(step int32[], state)` to actions `float32[B, A]`.
    state: B rows to start from; with `num_copies`, copies one after another as `repeat_rows` makes.
    horizon: number of steps, an int or a scalar tensor.
    seed: `int32[2]`, or one seed per distinct row `int32[B / num_copies, 2]`.
    temperature: scalar or `float32[B]`.
    num_copies: noise is drawn for `B / num_copies` rows and shared by the copies, so that candidates
      meet the same luck: a comparison of lower variance at a fraction of the cost.
    discount: factor per step on top of the model's own discount.
  """
  batch_size = tf.shape(tf.nest.flatten(state)[0])[0]
  noise = world_model.draw_noise(batch_size // num_copies, horizon, seed)
  # Time-major inside the scan only: a step then reads one contiguous slice.
  noise = tf.nest.map_structure(
    lambda x: tf.transpose(x, [1, 0, *range(2, x.shape.rank)]), noise
  )

  def step(t, state, total, disagreement, alive):
    step_noise = repeat_rows(tf.nest.map_structure(lambda x: x[t], noise), num_copies)
    prediction = world_model.imagine_with_noise(
      state, action_fn(t, state), step_noise, temperature
    )
    return (
      t + 1,
      prediction.state,
      total + alive * prediction.reward,
      disagreement + alive * prediction.disagreement,
      alive * prediction.discount * discount,
    )

  zeros = tf.zeros([batch_size])
  _, state, total, disagreement, alive = tf.while_loop(
    lambda t, *_: t < horizon,
    step,
    (0, state, zeros, zeros, tf.ones([batch_size])),
    maximum_iterations=horizon,
  )
  return Returns(total, disagreement, alive, state)


def imagine(
  world_model: WorldModel,
  action_fn: Callable[[tf.Tensor, Nest], tf.Tensor],
  state: Nest,
  horizon: int,
  seed: tf.Tensor,
  *,
  temperature: Any = 1.0,
) -> tuple[Imagined, Nest]:
  """Rolls out and keeps every step.

  Args:
    world_model, action_fn, state, horizon, seed, temperature: as in `imagine_returns`.

  Returns:
    `Imagined`, and the states `[B, H, ...]` reached after each step (decode them to look at a dream).
  """
  noise = world_model.draw_noise(tf.shape(tf.nest.flatten(state)[0])[0], horizon, seed)
  columns, states = [], []
  for t in range(horizon):
    action = action_fn(tf.constant(t), state)
    prediction = world_model.imagine_with_noise(
      state, action, tf.nest.map_structure(lambda x, t=t: x[:, t], noise), temperature
    )
    columns.append(
      Imagined(
        world_model.features(state),
        action,
        prediction.reward,
        prediction.discount,
        prediction.disagreement,
      )
    )
    state = prediction.state
    states.append(state)
  stack = lambda *xs: tf.stack(xs, axis=1)
  return tf.nest.map_structure(stack, *columns), tf.nest.map_structure(stack, *states)


def lambda_returns(
  reward: tf.Tensor, discount: tf.Tensor, value: tf.Tensor, lambda_: float = 0.95
) -> tf.Tensor:
  """TD(lambda) targets `float32[B, H]`, batch-major.

  `G_t = r_t + d_t ((1 - lambda) v_{t+1} + lambda G_{t+1})`, with `G_H = v_H`.

  Args:
    reward: `float32[B, H]`.
    discount: `float32[B, H]`, the discount that follows each reward.
    value: `float32[B, H]`, the value of the state *after* each step; the last one bootstraps.
    lambda_: 0 gives one-step targets, 1 the discounted sum of rewards.

  References:
    Hafner et al. 2020, "Dream to Control", arXiv:1912.01603, equation 6.
  """
  target = value[:, -1]
  targets = []
  for t in reversed(range(reward.shape[1])):
    mixed = (1.0 - lambda_) * value[:, t] + lambda_ * target
    target = reward[:, t] + discount[:, t] * mixed
    targets.append(target)
  return tf.stack(targets[::-1], axis=1)
