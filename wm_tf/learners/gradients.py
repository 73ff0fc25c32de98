"""The base of gradient learners: settings, networks, schedules, checkpoints."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from wm_tf.checks import check_at_least, check_counts, check_positive, check_shares
from wm_tf.core import Nest
from wm_tf.learners.critic_figures import critic_figures
from wm_tf.learners.optimizers import Schedule, apply_if, cooled, make_adam, numbered
from wm_tf.models.world_model import WorldModel
from wm_tf.policies.actor import Actor, Critic, FeatureNetwork
from wm_tf.policies.distributions import ActionDistribution
from wm_tf.training import checkpoints


@dataclasses.dataclass(frozen=True)
class GradientConfig:
  """How an actor and its critic learn from dreams.

  Attributes:
    num_updates: number of updates; each uses a new batch of dreams.
    num_further_updates: number of updates that continue from the networks of the previous
      iteration, if only the dynamics has been refitted since; 0 to always start from new networks.
    batch_size: dreams per update.
    horizon: decisions per dream; the critic estimates the return after them.
    temperature: temperature of the dream.
    discount: factor per decision, multiplied with the model's own discount; None for the value
      that `returns.derive_discount` computes from the length of the episodes.
    action_noise: standard deviation of the noise on the actor's output, before its tanh, at the
      first update. Large noise helps the actor to leave saturated regions. Categorical actions are
      sampled without such noise.
    final_action_noise: the same at the last update; the noise changes linearly between the two.
    entropy_scale: weight of the entropy of the actions in the actor's objective, in units of
      scaled return; of categorical actions, and of those with a learned scale.
    reward_scale: factor on rewards that brings returns to the order of one. None for the inverse
      standard deviation of the discounted returns of the real episodes; targets are then also
      clipped to `return_bounds`.
    disagreement_penalty: penalty per step for each unit of disagreement above
      `usual_disagreement`, in units of reward; see `WorldModel.unfamiliarity`.
    actor_learning_rate, critic_learning_rate: learning rates of Adam.
    target_rate: rate at which the slow critic, which computes the targets, follows the critic: in
      each update it moves by this share of the difference.
    clip_norm: bound on the norm of each network's gradient.
    actor_hidden_sizes, critic_hidden_sizes: widths of the hidden layers.
  """

  num_updates: int
  num_further_updates: int = 0
  batch_size: int = 128
  horizon: int = 15
  temperature: float = 1.0
  discount: float | None = 0.99
  action_noise: float = 0.6
  final_action_noise: float = 0.2
  entropy_scale: float = 3e-3
  reward_scale: float | None = None
  disagreement_penalty: float = 0.0
  actor_learning_rate: float = 3e-4
  critic_learning_rate: float = 1e-3
  target_rate: float = 0.2
  clip_norm: float = 10.0
  actor_hidden_sizes: tuple[int, ...] = (64, 64)
  critic_hidden_sizes: tuple[int, ...] = (128, 128)

  def __post_init__(self):
    check_counts(self, "num_updates", "batch_size", "horizon")
    check_at_least(0, self, "num_further_updates", "disagreement_penalty", "entropy_scale")
    check_at_least(0, self, "action_noise", "final_action_noise")
    check_positive(self, "clip_norm")
    check_shares(self, "discount", "target_rate")
    if self.reward_scale is not None:
      check_positive(self, "reward_scale")


def derive_reward_scale(rewards: Sequence[np.ndarray], discount: float) -> float:
  """Computes the inverse standard deviation of discounted returns.

  The returns are taken from every step of every episode to the end of the episode:
  `G_t = r_t + discount * G_{t+1}`.

  Args:
    rewards: rewards of E real episodes, each `float[T]`.
    discount: factor per decision.

  Returns:
    A positive number; 1 if all returns are equal.

  Raises:
    ValueError: if there are no rewards, or one is not finite.
  """
  found = []
  for episode in rewards:
    total = 0.0
    for reward in np.asarray(episode, np.float64)[::-1]:
      total = reward + discount * total
      found.append(total)
  if not found or not np.isfinite(found).all():
    raise ValueError(
      "reward_scale=None is derived from the rewards of real episodes, which are "
      f"{'not all finite' if found else 'missing'}; set reward_scale to a number."
    )
  spread = float(np.std(found))
  return 1.0 / spread if spread > 1e-8 else 1.0


def return_bounds(rewards: Sequence[np.ndarray], discount: float) -> tuple[float, float]:
  """Computes the range of discounted returns that are possible with the given rewards.

  An episode may end at any step, so the range contains 0.

  Args:
    rewards: rewards of E real episodes, each `float[T]`.
    discount: factor per decision; with 1 the range is infinite.

  Returns:
    `(lowest, largest)`.
  """
  lowest = min([0.0, *(float(np.min(episode)) for episode in rewards)])
  largest = max([0.0, *(float(np.max(episode)) for episode in rewards)])
  if discount >= 1.0:
    return -np.inf, np.inf
  return lowest / (1.0 - discount), largest / (1.0 - discount)


class Update(NamedTuple):
  """Metrics of one update, each `float32[]`.

  Attributes:
    return_mean: mean undiscounted return of the dreams, in units of reward.
    value: mean target of the critic, in units of reward.
    critic_loss: loss of the critic, in units of scaled reward.
  """

  return_mean: tf.Tensor
  value: tf.Tensor
  critic_loss: tf.Tensor


class GradientLearner:
  """The base of learners that train an actor and its critic by gradients.

  A subclass implements `update`. A slow copy of the critic computes the targets of both networks,
  because a critic that learns from its own values can diverge. If `reward_scale` is derived, the
  slow critic's values are clipped to the range of possible returns. Otherwise the actor would seek
  unfamiliar states whose values the critic overestimates.

  Attributes:
    policy: the actor.
    critic: the critic of the actor.
    title, shown, model_steps: see `Learner`.
  """

  title = "imagine"
  shown: tuple[str, ...] = ("dream/return_mean", "dream/value")

  def __init__(
    self,
    world_model: WorldModel,
    config: GradientConfig,
    seed: int,
    *,
    distribution: ActionDistribution | None = None,
    critic_class: type[Critic] = Critic,
    warmup_updates: int = 0,
    cooldown: float = 0.0,
    normalised: bool = False,
  ):
    """Makes networks and their optimisers.

    Args:
      world_model: the world model.
      config: the settings.
      seed: seed of the initial weights.
      distribution: the distribution of the actions; None for that of `Actor`.
      critic_class: `Critic`, or a subclass.
      warmup_updates: updates in which the learning rates increase from 0.
      cooldown: share of the updates in which they decrease at the end; needs `warmup_updates`.
      normalised: whether hidden layers are normalised; see `FeatureNetwork`.
    """
    self._world_model, self._config = world_model, config
    sizes, size = config.critic_hidden_sizes, critic_class.output_size
    self.policy = Actor(
      world_model,
      config.actor_hidden_sizes,
      seed,
      distribution=distribution,
      normalised=normalised,
    )
    self.critic = critic_class(
      world_model, sizes, config.reward_scale, config.discount, seed, normalised=normalised
    )
    self._slow_critic = FeatureNetwork(
      world_model.feature_size, sizes, size, 0, "slow_critic", normalised
    )
    self._num_updates = tf.Variable(float(config.num_updates), trainable=False)
    self._cooldown = cooldown

    def schedule(rate):
      if not warmup_updates:
        return rate
      return Schedule(rate, warmup_updates, self._num_updates, cooldown)

    self._actor_optimizer, self._critic_optimizer = (
      make_adam(network.weights, schedule(rate), config.clip_norm)
      for network, rate in (
        (self.policy.network, config.actor_learning_rate),
        (self.critic.network, config.critic_learning_rate),
      )
    )
    # Bounds of the slow critic's values; not used with an explicit reward scale.
    self._bounds = tf.Variable([-np.inf, np.inf], dtype=tf.float32, trainable=False)
    self._initial = self.policy_state()

  @property
  def model_steps(self) -> int:
    """The number of imagined steps in one update."""
    return self._config.batch_size * self._config.horizon

  # --- The interface `Learner` ------------------------------------------------------------------

  def begin(self, features, previous, rewards=None):
    """Starts from new networks, or from `previous` with `num_further_updates`.

    See `Learner.begin`.
    """
    config = self._config
    self.restore(self._fresh)
    if previous is None or not config.num_further_updates:
      num_updates = config.num_updates
      self.standardise(features)
      if self._derives_scale:
        scale = derive_reward_scale([] if rewards is None else rewards, config.discount)
        self.critic.reward_scale.assign(scale)
    else:
      num_updates = config.num_further_updates
      self.restore_policy(previous)
      self.follow(1.0)
    if self._derives_scale and rewards is not None:
      bounds = return_bounds(rewards, config.discount)
      self._bounds.assign(self.critic.reward_scale * np.float32(bounds))
    self.anneal_over(num_updates)
    return num_updates

  def anneal_over(self, num_steps):
    """Sets the number of updates for action noise and cooldown. See `Learner.anneal_over`."""
    self._num_updates.assign(num_steps)

  def state(self):
    """Returns the values of `variables`. See `Learner.state`."""
    return checkpoints.values(self.variables())

  def restore(self, state):
    """Assigns the values of `variables`. See `Learner.restore`."""
    checkpoints.assign(self.variables(), state)

  def step(self, starts, seed):
    """Runs one update. See `Learner.step`."""
    report = self.update(starts, seed)
    found = report._asdict().items()
    return {f"dream/{name}": float(value) for name, value in found if value is not None}

  def finish(self):
    """Does nothing, because updates train `policy` itself. See `Learner.finish`."""

  def distribution(self):
    """Returns None. See `Learner.distribution`."""
    return None

  def figures(self, starts, seed):
    """Returns the result of `critic_figures`. See `Learner.figures`."""
    settings = self.noise_scale(), self._config.temperature
    return critic_figures(self._world_model, self.policy, self.critic, starts, seed, *settings)

  def policy_state(self):
    """Returns the weights of the actor and the critic. See `Learner.policy_state`."""
    return checkpoints.values(self._policy_variables())

  def restore_policy(self, state):
    """Restores the weights of the actor and the critic. See `Learner.restore_policy`."""
    checkpoints.assign(self._policy_variables(), state)

  # --- Methods for subclasses -------------------------------------------------------------------

  def update(self, starts: Nest, seed: tf.Tensor) -> Update:
    """Dreams and updates the networks.

    Args:
      starts: M >= 1 states, from which the start states of the dreams are drawn.
      seed: `int32[2]`.

    Returns:
      An `Update`; a subclass may return more fields, which may be None.
    """
    raise NotImplementedError

  def variables(self) -> dict[str, dict[str, tf.Variable]]:
    """Returns all variables by name, which a checkpoint holds for an exact resume."""
    return {
      **self._policy_variables(),
      "slow_critic": self._slow_critic.state(),
      "actor_optimizer": numbered(self._actor_optimizer),
      "critic_optimizer": numbered(self._critic_optimizer),
      **({"targets": {"bounds": self._bounds}} if self._derives_scale else {}),
    }

  def num_done(self) -> tf.Tensor:
    """Returns the number of updates since `begin`, `float32[]`."""
    return tf.cast(self._actor_optimizer.iterations, tf.float32)

  def standardise(self, features: np.ndarray) -> None:
    """Sets the standardisation of the networks' inputs from real features.

    Args:
      features: `float32[M, F]`.
    """
    for network in (self.policy.network, self.critic.network, self._slow_critic):
      network.standardise(features, self._world_model.only_centred_features())

  def follow(self, rate: float) -> None:
    """Moves the slow critic towards the critic.

    Args:
      rate: share of the difference; with 1 the two become equal.
    """
    if rate == 1.0:
      pairs = zip(
        self._slow_critic.state().values(), self.critic.network.state().values(), strict=True
      )
      for slow, fast in pairs:
        slow.assign(fast)
      return
    for slow, fast in zip(self._slow_critic.weights, self.critic.network.weights, strict=True):
      slow.assign_add(rate * (fast - slow))

  def slow_values(self, features: tf.Tensor) -> tf.Tensor:
    """Computes the slow critic's values, clipped to the bounds if the reward scale is derived.

    Args:
      features: `float32[..., F]`.

    Returns:
      `float32[...]`, in units of scaled reward.
    """
    return self.bounded(self.critic.scaled_values(self._slow_critic(features)))

  def bounded(self, values: tf.Tensor) -> tf.Tensor:
    """Clips values to the range of possible returns if the reward scale is derived.

    Args:
      values: `float32[...]`, in units of scaled reward.

    Returns:
      `float32[...]`.
    """
    if not self._derives_scale:
      return values
    return tf.clip_by_value(values, self._bounds[0], self._bounds[1])

  def noise_scale(self) -> tf.Tensor:
    """Returns the standard deviation of the noise on continuous actions, `float32[]`."""
    first, last = self._config.action_noise, self._config.final_action_noise
    return first + tf.minimum(self.num_done() / self._num_updates, 1.0) * (last - first)

  def entropy_scale(self) -> tf.Tensor:
    """Returns the weight of the entropy, which decreases in the cooldown, `float32[]`."""
    scale = self._config.entropy_scale
    return scale * cooled(self.num_done(), self._num_updates, self._cooldown)

  def apply_gradients(
    self, actor_gradients: Sequence[tf.Tensor], critic_gradients: Sequence[tf.Tensor]
  ) -> None:
    """Takes a step of each optimiser, with zero gradients if any gradient is not finite.

    Args:
      actor_gradients: one for each weight of the actor's network.
      critic_gradients: one for each weight of the critic's network.
    """
    finite = tf.math.is_finite(tf.linalg.global_norm([*actor_gradients, *critic_gradients]))
    apply_if(finite, self._actor_optimizer, actor_gradients)
    apply_if(finite, self._critic_optimizer, critic_gradients)

  @property
  def _derives_scale(self) -> bool:
    return self._config.reward_scale is None

  @functools.cached_property
  def _fresh(self) -> Nest:
    """The state before any update."""
    self.restore_policy(self._initial)
    return self.state()

  def _policy_variables(self) -> dict[str, dict[str, tf.Variable]]:
    return {"actor": self.policy.network.state(), "critic": self.critic.state()}
