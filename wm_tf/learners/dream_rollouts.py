"""What policy gradients learn from: many dreams side by side, each begun anew where one ends.

How they learn is in `tf_agents_learning.py`; nothing here needs TF-Agents.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf

from wm_tf import rng
from wm_tf.checks import check_counts, check_positive, check_shares
from wm_tf.core import Nest
from wm_tf.learners.gradient_config import GradientConfig
from wm_tf.models.world_model import WorldModel

# Maps `(features float32[B, F], step int32[])` to a choice and the action that it means, each
# `float32[B, A]`.
ChooseFn = Callable[[tf.Tensor, tf.Tensor], tuple[tf.Tensor, tf.Tensor]]

METHODS = ("ppo", "ppo_clip", "reinforce")
# What a step is of its episode: TF-Agents' numbers.
FIRST, MID, LAST = 0, 1, 2


@dataclasses.dataclass(frozen=True)
class PolicyGradientConfig(GradientConfig):
  """As `GradientConfig`, by the gradient of the actor's log-probability."""

  num_updates: int = 2000

  def __post_init__(self):
    super().__post_init__()
    check_positive(self, "action_noise", "final_action_noise")  # Else no action has a density.


@dataclasses.dataclass(frozen=True)
class PPOConfig(PolicyGradientConfig):
  """As `PolicyGradientConfig`, and how often the same dreams are learned from.

  Attributes:
    lambda_: of the generalised advantage estimate.
    num_epochs: times that all decisions of a batch are gone through.
    num_minibatches: gradient steps in each of them.
    clip_range: bound on a probability's change beyond which nothing is gained (`ppo_clip`).
    kl_target: divergence in nats of an update that the penalty aims at (`ppo`).
    kl_coefficient: the penalty's weight at first (`ppo`).
  """

  num_updates: int = 400
  batch_size: int = 256
  target_rate: float = 0.2
  lambda_: float = 0.95
  num_epochs: int = 4
  num_minibatches: int = 8
  clip_range: float = 0.2
  kl_target: float = 0.01
  kl_coefficient: float = 1.0

  def __post_init__(self):
    super().__post_init__()
    check_counts(self, "num_epochs", "num_minibatches")
    check_positive(self, "clip_range", "kl_target", "kl_coefficient")
    check_shares(self, "lambda_")
    if self.batch_size * self.horizon < self.num_minibatches:
      raise ValueError(f"num_minibatches: {self.num_minibatches} of them would be empty.")


class Dream(NamedTuple):
  """Where B dreams are, and what the last step brought."""

  state: Nest
  age: tf.Tensor  # int32[B], decisions since it began.
  step_type: tf.Tensor  # int32[B]: FIRST, MID, or LAST, after which another one begins.
  reward: tf.Tensor  # float32[B], less the penalty.
  discount: tf.Tensor  # float32[B]; 0 where it terminated, 1 also where time ran out.
  disagreement: tf.Tensor  # float32[B]


class Luck(NamedTuple):
  """All that is random in steps of B dreams; each `[B, num_steps, ...]`, or `[B, ...]` of one."""

  noise: Nest  # The world model's.
  survival: tf.Tensor  # float32 in [0, 1); the dream survives if it is below the discount.
  row: tf.Tensor  # int32, the real state that a new dream begins from.


class Rollout(NamedTuple):
  """T steps of B dreams: what was seen before each one and after the last, and what was chosen."""

  features: tf.Tensor  # float32[B, T + 1, F]
  step_type: tf.Tensor  # int32[B, T + 1]
  reward: tf.Tensor  # float32[B, T + 1]; what led to the features beside it, as `discount`.
  discount: tf.Tensor  # float32[B, T + 1]
  disagreement: tf.Tensor  # float32[B, T + 1]
  choice: tf.Tensor  # float32[B, T, A]


class Dreams:
  """B dreams that go on for ever: where one ends, the next step begins another.

  They begin from real states, end when the world model's discount says so (with probability
  1 - discount at each step) or at the horizon, and are functions of what is passed in alone: they
  are compiled once, also for weights that change.
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
      horizon: decisions after which a dream ends at the latest.
      temperature: its uncertainty.
      disagreement_penalty: weight of the ensemble's unfamiliarity in the reward.
    """
    self._world_model, self.batch_size, self.horizon = world_model, batch_size, horizon
    self._temperature, self._penalty = temperature, disagreement_penalty

  def draw(self, num_starts, num_steps: int, seed: tf.Tensor) -> Luck:
    """Draws `Luck` for `num_steps` steps, of dreams that begin from `num_starts` states."""
    noise_seed, survival_seed, row_seed = rng.split(seed, 3)
    shape = [self.batch_size, num_steps]
    return Luck(
      self._world_model.draw_noise(self.batch_size, num_steps, noise_seed),
      rng.uniform(shape, survival_seed),
      tf.random.stateless_uniform(shape, row_seed, maxval=num_starts, dtype=tf.int32),
    )

  def begin(self, starts: Nest, row: tf.Tensor) -> Dream:
    """Begins B dreams from the rows `row` (`int32[B]`) of `starts` (M states)."""
    zeros = tf.zeros([self.batch_size])
    return Dream(
      state=tf.nest.map_structure(lambda x: tf.gather(x, row), starts),
      age=tf.zeros([self.batch_size], tf.int32),
      step_type=tf.fill([self.batch_size], FIRST),
      reward=zeros,
      discount=tf.ones_like(zeros),
      disagreement=zeros,
    )

  def step(self, dream: Dream, action: tf.Tensor, starts: Nest, luck: Luck) -> Dream:
    """Goes on by one step; dreams that ended begin anew, and their action does nothing.

    Args:
      dream: where they are.
      action: `float32[B, A]`; what lies beyond [-1, 1] is cut off.
      starts: M states.
      luck: of this step.
    """
    prediction = self._world_model.imagine_with_noise(
      dream.state, tf.clip_by_value(action, -1.0, 1.0), luck.noise, self._temperature
    )
    age = dream.age + 1
    terminated = luck.survival >= prediction.discount
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
    choose = lambda new, old: tf.where(
      tf.reshape(ended, [-1] + [1] * (old.shape.rank - 1)), new, old
    )
    return tf.nest.map_structure(choose, self.begin(starts, luck.row), after)

  def rollout(self, choose_fn: ChooseFn, starts: Nest, luck: Luck) -> Rollout:
    """Begins B dreams and takes T steps.

    Args:
      choose_fn: chooses.
      starts: M states.
      luck: of T + 1 steps; the first one's is for the beginning.
    """
    time_major = lambda x: tf.transpose(x, [1, 0, *range(2, x.shape.rank)])
    luck = tf.nest.map_structure(time_major, luck)
    num_steps = luck.survival.shape[0] - 1
    shown = lambda dream: (self._world_model.features(dream.state), *dream[2:])
    dream = self.begin(starts, luck.row[0])
    action_size = self._world_model.action_size
    columns = [
      tf.TensorArray(x.dtype, num_steps, element_shape=x.shape)
      for x in (*shown(dream), tf.zeros([self.batch_size, action_size]))
    ]

    def step(t, dream, columns):
      seen = shown(dream)
      choice, action = choose_fn(seen[0], t)
      columns = [column.write(t, x) for column, x in zip(columns, (*seen, choice), strict=True)]
      step_luck = tf.nest.map_structure(lambda x: x[t + 1], luck)
      return t + 1, self.step(dream, action, starts, step_luck), columns

    _, dream, columns = tf.while_loop(
      lambda t, *_: t < num_steps, step, (0, dream, columns), maximum_iterations=num_steps
    )
    *seen, choice = (time_major(column.stack()) for column in columns)
    last = (x[:, tf.newaxis] for x in shown(dream))
    return Rollout(*(tf.concat(pair, axis=1) for pair in zip(seen, last, strict=True)), choice)
