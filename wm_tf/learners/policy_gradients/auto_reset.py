"""Batched dreams, each of which restarts from a real state when it ends."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf

from wm_tf import actions, rng
from wm_tf.core import Nest
from wm_tf.imagination import draw_indices
from wm_tf.models.world_model import WorldModel
from wm_tf.nests import gather_rows, time_major

# Maps `(features float32[B, F], step int32[])` to the policy's random choice and the resulting
# action, each `float32[B, A]`.
ChooseFn = Callable[[tf.Tensor, tf.Tensor], tuple[tf.Tensor, tf.Tensor]]

# The type of a step in its episode, with the values of TF-Agents.
FIRST, MID, LAST = 0, 1, 2


class Dream(NamedTuple):
  """The current state of B dreams, and the results of the last step.

  Attributes:
    state: the world model's state.
    age: `int32[B]`, decisions since the dream began.
    step_type: `int32[B]`: FIRST, MID, or LAST, after which another dream begins.
    reward: `float32[B]`, after subtracting the disagreement penalty.
    discount: `float32[B]`; 0 where the dream terminated, 1 also where it reached the horizon.
    disagreement: `float32[B]`.
  """

  state: Nest
  age: tf.Tensor
  step_type: tf.Tensor
  reward: tf.Tensor
  discount: tf.Tensor
  disagreement: tf.Tensor


class Randomness(NamedTuple):
  """The random numbers of B dreams: `[B, num_steps, ...]`, or `[B, ...]` for one step.

  Attributes:
    noise: the world model's noise.
    survival: `float32` in [0, 1); a dream continues if it is below the predicted discount.
    row: `int32`, the index of the real state that a new dream begins from.
  """

  noise: Nest
  survival: tf.Tensor
  row: tf.Tensor


class Rollout(NamedTuple):
  """T steps of B dreams.

  Attributes:
    features: `float32[B, T + 1, F]`, before each step and after the last one.
    step_type, reward, discount, disagreement: `[B, T + 1]`, as in the `Dream` of these features.
    choice: `float32[B, T, A]`.
  """

  features: tf.Tensor
  step_type: tf.Tensor
  reward: tf.Tensor
  discount: tf.Tensor
  disagreement: tf.Tensor
  choice: tf.Tensor


class Dreams:
  """B endless dreams: the step after an end begins a new one.

  A dream begins from a real state. At each step it ends with probability 1 - discount, or at the
  horizon. Methods keep no state, so they are compiled once even if the model's weights change.
  """

  def __init__(
    self,
    world_model: WorldModel,
    batch_size: int,
    horizon: int,
    *,
    temperature: float = 1.0,
    disagreement_penalty: float = 0.0,
  ):
    """Initializes the dreams' settings.

    Args:
      world_model: the world model.
      batch_size: B.
      horizon: largest number of decisions in a dream.
      temperature: temperature of the dream.
      disagreement_penalty: weight of the ensemble's unfamiliarity, subtracted from the reward.
    """
    self._world_model, self.batch_size, self.horizon = world_model, batch_size, horizon
    self._temperature, self._penalty = temperature, disagreement_penalty

  def draw(self, num_starts, num_steps: int, seed: tf.Tensor) -> Randomness:
    """Draws the random numbers of steps.

    Args:
      num_starts: M, the number of states that dreams can begin from.
      num_steps: T.
      seed: `int32[2]`.

    Returns:
      A `Randomness` of `[B, T, ...]`.
    """
    noise_seed, survival_seed, row_seed = rng.split(seed, 3)
    shape = [self.batch_size, num_steps]
    return Randomness(
      self._world_model.draw_noise(self.batch_size, num_steps, noise_seed),
      rng.uniform(shape, survival_seed),
      draw_indices(num_starts, shape, row_seed),
    )

  def begin(self, starts: Nest, row: tf.Tensor) -> Dream:
    """Begins B dreams.

    Args:
      starts: M states.
      row: `int32[B]`, the indices of the states to begin from.

    Returns:
      A `Dream` whose steps are FIRST.
    """
    zeros = tf.zeros([self.batch_size])
    return Dream(
      state=gather_rows(starts, row),
      age=tf.zeros([self.batch_size], tf.int32),
      step_type=tf.fill([self.batch_size], FIRST),
      reward=zeros,
      discount=tf.ones_like(zeros),
      disagreement=zeros,
    )

  def step(self, dream: Dream, action: tf.Tensor, starts: Nest, randomness: Randomness) -> Dream:
    """Takes one step; dreams that have ended begin again, and their action is ignored.

    Args:
      dream: the current `Dream`.
      action: `float32[B, A]`; clipped to [-1, 1], or made one-hot.
      starts: M states.
      randomness: a `Randomness` of one step, `[B, ...]`.

    Returns:
      The next `Dream`.
    """
    num_choices = self._world_model.num_choices
    if num_choices:
      action = actions.one_hot_argmax(action, num_choices)
    else:
      action = tf.clip_by_value(action, -1.0, 1.0)
    prediction = self._world_model.imagine_with_noise(
      dream.state, action, randomness.noise, self._temperature
    )
    age = dream.age + 1
    terminated = randomness.survival >= prediction.discount
    after = Dream(
      state=prediction.state,
      age=age,
      step_type=tf.where(terminated | (age >= self.horizon), LAST, MID),
      reward=prediction.reward
      - self._penalty * self._world_model.unfamiliarity(prediction.disagreement),
      discount=tf.where(terminated, 0.0, 1.0),
      disagreement=prediction.disagreement,
    )
    ended = dream.step_type == LAST

    def choose(new, old):
      return tf.where(tf.reshape(ended, [-1] + [1] * (old.shape.rank - 1)), new, old)

    return tf.nest.map_structure(choose, self.begin(starts, randomness.row), after)

  def rollout(self, choose_fn: ChooseFn, starts: Nest, randomness: Randomness) -> Rollout:
    """Begins B dreams and takes T steps.

    Args:
      choose_fn: chooses the actions.
      starts: M states.
      randomness: a `Randomness` of T + 1 steps, `[B, T + 1, ...]`; the first one begins the dreams.

    Returns:
      A `Rollout` of T steps.
    """
    randomness = time_major(randomness)
    num_steps = randomness.survival.shape[0] - 1

    def shown(dream):
      return (self._world_model.features(dream.state), *dream[2:])

    dream = self.begin(starts, randomness.row[0])
    action_size = self._world_model.action_size
    columns = [
      tf.TensorArray(x.dtype, num_steps, element_shape=x.shape)
      for x in (*shown(dream), tf.zeros([self.batch_size, action_size]))
    ]

    def step(t, dream, columns):
      seen = shown(dream)
      choice, action = choose_fn(seen[0], t)
      columns = [column.write(t, x) for column, x in zip(columns, (*seen, choice), strict=True)]
      of_step = tf.nest.map_structure(lambda x: x[t + 1], randomness)
      return t + 1, self.step(dream, action, starts, of_step), columns

    _, dream, columns = tf.while_loop(
      lambda t, *_: t < num_steps, step, (0, dream, columns), maximum_iterations=num_steps
    )
    *seen, choice = (time_major(column.stack()) for column in columns)
    last = (x[:, tf.newaxis] for x in shown(dream))
    return Rollout(*(tf.concat(pair, axis=1) for pair in zip(seen, last, strict=True)), choice)
