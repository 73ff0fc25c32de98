"""What an actor-critic learns from: dreams, with and without a gradient, and replayed steps."""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf

from wm_tf.core import Nest
from wm_tf.imagination import lambda_returns
from wm_tf.models.world_model import WorldModel
from wm_tf.nests import time_major
from wm_tf.policies.actor import Actor


class Rollout(NamedTuple):
  """B dreams of H steps.

  Attributes:
    features: `float32[B, H + 1, F]`, of the start states and of the states after each step.
    action: `float32[B, H, A]`.
    reward, discount, unfamiliarity: `float32[B, H]`, of each step.
    entropy: `float32[B, H]`, of the distribution of each action; None if it was not computed.
  """

  features: tf.Tensor
  action: tf.Tensor
  reward: tf.Tensor
  discount: tf.Tensor
  unfamiliarity: tf.Tensor
  entropy: tf.Tensor | None

  def alive(self) -> tf.Tensor:
    """Returns the probability that a dream has not ended before each step, `float32[B, H]`.

    The learner weights the steps by it. It has no gradient, so that an actor cannot improve its
    objective by ending dreams.
    """
    return tf.stop_gradient(tf.math.cumprod(self.discount, axis=1, exclusive=True))


def differentiable_rollout(
  world_model: WorldModel,
  actor: Actor,
  state: Nest,
  noise: Nest,
  action_noise: tf.Tensor,
  temperature: float,
) -> Rollout:
  """Dreams with a gradient through the dynamics and the actions.

  Args:
    world_model: the world model.
    actor: chooses the actions.
    state: B states to start from.
    noise: the world model's noise, a nest of `[B, H, ...]`.
    action_noise: noise of the actor's distribution, `float32[B, H, A]`.
    temperature: temperature of the dream.

  Returns:
    The rollout, with the entropy if the actor's distribution is learned.
  """
  distribution = actor.distribution
  features, columns, entropies = [world_model.features(state)], [], []
  for t in range(action_noise.shape[1]):
    outputs = actor.network(features[-1])
    action = distribution.sample(outputs, action_noise[:, t])
    if distribution.learned:
      entropies.append(distribution.entropy(outputs))
    step_noise = tf.nest.map_structure(lambda x, t=t: x[:, t], noise)
    prediction = world_model.imagine_with_noise(state, action, step_noise, temperature)
    state = prediction.state
    features.append(world_model.features(state))
    unfamiliarity = world_model.unfamiliarity(prediction.disagreement)
    columns.append((action, prediction.reward, prediction.discount, unfamiliarity))
  return Rollout(
    tf.stack(features, axis=1),
    *(tf.stack(x, axis=1) for x in zip(*columns, strict=True)),
    tf.stack(entropies, axis=1) if entropies else None,
  )


def forward_rollout(
  world_model: WorldModel,
  actor: Actor,
  state: Nest,
  noise: Nest,
  action_noise: tf.Tensor,
  temperature: float,
) -> Rollout:
  """Dreams in a loop, without a gradient. It is faster and takes less memory and compile time.

  Args:
    world_model, actor, state, noise, action_noise, temperature: as in `differentiable_rollout`.

  Returns:
    The rollout, without the entropy.
  """
  batch_size, horizon, action_size = action_noise.shape
  imagine_with_noise = world_model.imaginer()
  noise, action_noise = time_major(noise), time_major(action_noise)

  def step(t, state, columns):
    features = world_model.features(state)
    action = actor.distribution.sample(actor.network(features), action_noise[t])
    step_noise = tf.nest.map_structure(lambda x: x[t], noise)
    prediction = imagine_with_noise(state, action, step_noise, temperature)
    unfamiliarity = world_model.unfamiliarity(prediction.disagreement)
    found = (features, action, prediction.reward, prediction.discount, unfamiliarity)
    written = (column.write(t, x) for column, x in zip(columns, found, strict=True))
    return t + 1, prediction.state, tuple(written)

  columns = tuple(
    tf.TensorArray(tf.float32, horizon, element_shape=[batch_size, *size])
    for size in ([world_model.feature_size], [action_size], [], [], [])
  )
  _, state, columns = tf.while_loop(
    lambda t, *_: t < horizon, step, (0, state, columns), maximum_iterations=horizon
  )
  features, *others = (column.stack() for column in columns)
  features = tf.concat([features, world_model.features(state)[tf.newaxis]], axis=0)
  return Rollout(*time_major((features, *others)), None)


class Replayed(NamedTuple):
  """B replayed windows of T real steps, in arrival alignment.

  Attributes:
    features: `float32[B, T, F]`, of the posteriors.
    reward, discount: `float32[B, T]`, those that arrive with each state; a discount is 0 at a
      terminal state.
    is_first: `bool[B, T]`, true at the first state of an episode.
    mask: `bool[B, T]`, which steps are real.
  """

  features: tf.Tensor
  reward: tf.Tensor
  discount: tf.Tensor
  is_first: tf.Tensor
  mask: tf.Tensor

  def followed(self) -> tf.Tensor:
    """Returns `bool[B, T - 1]`, which states are followed by one of the same episode."""
    return self.mask[:, :-1] & self.mask[:, 1:] & ~self.is_first[:, 1:]

  def targets(
    self, values: tf.Tensor, reward_scale: tf.Tensor | float, discount: float, lambda_: float
  ) -> tf.Tensor:
    """Computes the lambda-returns of the actions that were taken.

    The value bootstraps at the end of a window, and of an episode that was truncated.

    Args:
      values: the value of each state, `float32[B, T]`, in units of scaled reward.
      reward_scale: factor on rewards.
      discount: factor per decision.
      lambda_: see `lambda_returns`.

    Returns:
      `float32[B, T - 1]`; they are only defined where `followed` is true.
    """
    followed = self.followed()
    reward = tf.where(followed, reward_scale * self.reward[:, 1:], values[:, :-1])
    discount = tf.where(followed, discount * self.discount[:, 1:], 0.0)
    return lambda_returns(reward, discount, values[:, 1:], lambda_)


def replayed_starts(states: Nest, mask: tf.Tensor, discount: tf.Tensor) -> tuple[Nest, tf.Tensor]:
  """Returns the posteriors of replayed windows as states that dreams start from.

  Args:
    states: posteriors of B windows of T steps, a nest of `[B, T, ...]`.
    mask: `bool[B, T]`, which steps are real.
    discount: `float32[B, T]`; 0 at terminal states, from which no dream may start.

  Returns:
    The states, a nest of `[B * T, ...]`, and which of them may be drawn, `bool[B * T]`: the
    arguments `starts` and `allowed` of `ActorCritic.update`.
  """
  rows = tf.nest.map_structure(lambda x: tf.reshape(x, [-1, *x.shape[2:]]), states)
  return rows, tf.reshape(mask & (discount > 0.0), [-1])
