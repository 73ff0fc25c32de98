"""Dreams side by side, each of which starts again from a real state where it ends."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf

from wm_tf import actions, rng
from wm_tf.core import Nest
from wm_tf.imagination import draw_indices
from wm_tf.models.world_model import WorldModel
from wm_tf.nests import gather_rows, time_major

# Maps `(features float32[B, F], step int32[])` to the policy's choice and the action that it means,
# each `float32[B, A]`.
ChooseFn = Callable[[tf.Tensor, tf.Tensor], tuple[tf.Tensor, tf.Tensor]]

# The kind of a step in its episode; the numbers are TF-Agents'.
FIRST, MID, LAST = 0, 1, 2


class Dream(NamedTuple):
  """The present state of B dreams, and the results of the last step.

  Attributes:
    state: the world model's.
    age: `int32[B]`, decisions since the dream began.
    step_type: `int32[B]`: FIRST, MID, or LAST, after which another dream begins.
    reward: `float32[B]`, minus the penalty on disagreement.
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
  """All random numbers of steps of B dreams: `[B, num_steps, ...]`, or `[B, ...]` of one step.

  Attributes:
    noise: the world model's.
    survival: `float32` in [0, 1); a dream goes on if it is below the predicted discount.
    row: `int32`, the real state that a new dream begins from.
  """

  noise: Nest
  survival: tf.Tensor
  row: tf.Tensor


class Rollout(NamedTuple):
  """T steps of B dreams.

  Attributes:
    features: `float32[B, T + 1, F]`, before each step and after the last one.
    step_type, reward, discount, disagreement: `[B, T + 1]`, what came with these features.
    choice: `float32[B, T, A]`.
  """

  features: tf.Tensor
  step_type: tf.Tensor
  reward: tf.Tensor
  discount: tf.Tensor
  disagreement: tf.Tensor
  choice: tf.Tensor


class Dreams:
  """B endless dreams: the step after an end begins another one.

  A dream begins from a real state, and ends with probability 1 - discount at each step, or at the
  horizon. All methods are functions of their arguments, so they are compiled once, also for weights
  that change.
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
    """Describes dreams.

    Args:
      world_model: any.
      batch_size: B.
      horizon: largest number of decisions in a dream.
      temperature: its uncertainty.
      disagreement_penalty: weight of the ensemble's unfamiliarity in the reward.
    """
    self._world_model, self.batch_size, self.horizon = world_model, batch_size, horizon
    self._temperature, self._penalty = temperature, disagreement_penalty

  def draw(self, num_starts, num_steps: int, seed: tf.Tensor) -> Randomness:
    """Draws the random numbers of steps.

    Args:
      num_starts: M, the number of states that dreams can begin from.
      num_steps: T.
      seed: `int32[2]`.
    """
    noise_seed, survival_seed, row_seed = rng.split(seed, 3)
    shape = [self.batch_size, num_steps]
    return Randomness(
      self._world_model.draw_noise(self.batch_size, num_steps, noise_seed),
      rng.uniform(shape, survival_seed),
      draw_indices(num_starts, shape, row_seed),
    )

  def begin(self, starts: Nest, row: tf.Tensor) -> Dream:
    """Begins B dreams from the rows `row` (`int32[B]`) of `starts` (M states)."""
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
    """Takes a step; dreams that have ended begin again, and their action is ignored.

    Args:
      dream: the present state.
      action: `float32[B, A]`; clipped to [-1, 1], or made one-hot.
      starts: M states.
      randomness: of this step.
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
      randomness: of T + 1 steps; the first one's is for the beginning.
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
