"""An actor and a critic that learn from dreams, by either of two gradients."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, NamedTuple

import tensorflow as tf

from wm_tf import rng
from wm_tf.checks import ConfigError, check_at_least, check_choice, check_shares
from wm_tf.core import Nest
from wm_tf.imagination import draw_rows, lambda_returns
from wm_tf.learners.actor_rollouts import (
  Replayed,
  Rollout,
  differentiable_rollout,
  forward_rollout,
)
from wm_tf.learners.gradients import GradientConfig, GradientLearner
from wm_tf.learners.returns import follow_range, range_scale
from wm_tf.models.world_model import WorldModel
from wm_tf.policies.actor import Critic, TwoHotCritic
from wm_tf.policies.distributions import DISTRIBUTIONS, make_distribution

if TYPE_CHECKING:
  from wm_tf.learners.config import ControllerConfig

ACTOR_GRADIENTS = ("dynamics", "reinforce")
CRITICS = {"mse": Critic, "symexp_twohot": TwoHotCritic}
SLOW_CRITICS = ("target", "regulariser")
RETURN_NORMALISATIONS = ("scale", "percentiles")
_SATURATED = 0.99


@dataclasses.dataclass(frozen=True)
class ActorCriticConfig(GradientConfig):
  """Settings of an `ActorCritic`: a `GradientConfig`, and options of Dreamer V1 to V3.

  `entropy_scale` applies to categorical actions and those with a learned scale. `action_noise` and
  `final_action_noise` apply to `tanh_normal`. `wm_tf.config.presets.DREAMER_LEARNER` has the values
  of Dreamer V3.

  Attributes:
    lambda_: lambda of the TD(lambda) targets, in [0, 1].
    actor_gradient: `dynamics` for the gradient of the returns through the world model, or
      `reinforce` for the score function estimator, which treats the world model as a black box.
    action_distribution: the distribution of continuous actions. `tanh_normal` has a scheduled
      scale; `clipped_normal` and `truncated_normal` have a learned one, which `reinforce` needs.
    uniform_share: weight of a uniform distribution that is mixed with categorical actions, so that
      the actor never stops exploring ("unimix").
    critic: `mse` for a regression of the return, or `symexp_twohot` for a categorical distribution
      over exponentially spaced returns.
    slow_critic: `target` if the slow critic computes the targets; `regulariser` if the critic
      itself computes them, and its loss also draws it towards the slow critic. Both use
      `target_rate`.
    return_normalisation: `scale` for returns in units of `reward_scale`; with `percentiles` the
      actor's returns are also divided by the moving average of the range from their 5th to their
      95th percentile, or by 1 if that is larger.
    warmup_updates: updates in which the learning rates increase linearly from 0.
    cooldown: share of the updates, at the end, in which the learning rates and `entropy_scale`
      decrease linearly to a twentieth; needs `warmup_updates`. Online training does the same with
      the learning rate of the world model.
    normalised_layers: whether the hidden layers of the actor and the critic have an `RMSNorm`.
    replay_scale: weight of the critic's loss on the returns of the real steps that dreams start
      from; used in online training, where these are replayed with the steps that follow them.
  """

  num_updates: int = 1000
  lambda_: float = 0.95
  actor_gradient: str = "dynamics"
  action_distribution: str = "tanh_normal"
  uniform_share: float = 0.0
  critic: str = "mse"
  slow_critic: str = "target"
  return_normalisation: str = "scale"
  warmup_updates: int = 0
  cooldown: float = 0.0
  normalised_layers: bool = False
  replay_scale: float = 0.0

  def __post_init__(self):
    super().__post_init__()
    check_shares(self, "lambda_", "uniform_share", "cooldown")
    check_at_least(0, self, "warmup_updates", "replay_scale")
    check_choice(self, "actor_gradient", ACTOR_GRADIENTS)
    check_choice(self, "action_distribution", tuple(DISTRIBUTIONS))
    check_choice(self, "critic", tuple(CRITICS))
    check_choice(self, "slow_critic", SLOW_CRITICS)
    check_choice(self, "return_normalisation", RETURN_NORMALISATIONS)
    if self.cooldown and not self.warmup_updates:
      raise ValueError(f"cooldown={self.cooldown} needs warmup_updates, at least 1.")


class Update(NamedTuple):
  """Metrics of one update, each `float32[]` or None; see `gradients.Update`.

  Attributes:
    actor_gradient_norm: norm of the actor's gradient before clipping.
    clipped: share of the two networks whose gradient is longer than `clip_norm`.
    saturated: share of numbers in the actions whose absolute value is at least 0.99; None for
      categorical actions.
    entropy: mean entropy of the actions in nats; None with `tanh_normal`.
    return_low, return_high: moving averages of the 5th and the 95th percentile of the scaled
      returns; None without `percentiles`.
    replay_loss: loss of the critic on real steps, before it is weighted; None without it.
  """

  return_mean: tf.Tensor
  value: tf.Tensor
  critic_loss: tf.Tensor
  actor_gradient_norm: tf.Tensor
  clipped: tf.Tensor
  saturated: tf.Tensor | None = None
  entropy: tf.Tensor | None = None
  return_low: tf.Tensor | None = None
  return_high: tf.Tensor | None = None
  replay_loss: tf.Tensor | None = None


class ActorCritic(GradientLearner):
  """Trains an actor and its critic on dreams.

  The critic estimates the return after the horizon, so dreams can be short; the model is most
  accurate over few steps. Each step is weighted by the probability that the dream has not ended
  before it.

  `actor_gradient=dynamics`: an imagined step is a differentiable function of the action, given the
  drawn noise of the world model. In an MDN-RNN the gradient flows through the drawn component's
  mean and scale, but not through the choice of the component. Categorical actions have the
  straight-through gradient of their probabilities. The actor maximises the mean over steps of

      G_t / S + entropy_scale * H(pi(. | s_t)).

  `actor_gradient=reinforce`: dreams are computed forward only. The actor maximises the mean over
  steps, with a constant advantage, of

      log pi(a_t | s_t) (G_t - v(s_t)) / S + entropy_scale * H(pi(. | s_t)).

  G_t is the lambda-return of the scaled rewards, v the value by which it is bootstrapped, and S is
  1 or, with `return_normalisation=percentiles`, the range of the returns.

  References:
    Hafner et al. 2020, "Dream to Control: Learning Behaviors by Latent Imagination",
    arXiv:1912.01603, equations 6 to 8 and algorithm 1 (gradient through the dynamics).
    Hafner et al. 2021, "Mastering Atari with Discrete World Models", arXiv:2010.02193, equations 4
    to 6 (REINFORCE, straight-through gradients, the slow critic as the target).
    Hafner et al. 2023, "Mastering Diverse Domains through World Models", arXiv:2301.04104, sections
    "Critic learning" and "Actor learning" (two-hot critic, slow critic as a regulariser, loss on
    replayed steps, percentiles).
    Any world model replaces the RSSM of these papers.
  """

  def __init__(
    self,
    world_model: WorldModel,
    config: ActorCriticConfig,
    seed: int = 0,
    *,
    jit_compile: bool = True,
  ):
    """Makes a learner.

    Args:
      world_model: the world model.
      config: the settings.
      seed: seed of the initial weights.
      jit_compile: whether XLA compiles the dreams and their gradients.

    Raises:
      ConfigError: if the settings do not fit the world model's actions.
    """
    _check_density(config, world_model)
    super().__init__(
      world_model,
      config,
      seed,
      distribution=make_distribution(world_model, config.action_distribution, config.uniform_share),
      critic_class=CRITICS[config.critic],
      warmup_updates=config.warmup_updates,
      cooldown=config.cooldown,
      normalised=config.normalised_layers,
    )
    self._normalises = config.return_normalisation == "percentiles"
    self._return_range = tf.Variable([0.0, 0.0], trainable=False)
    if config.slow_critic == "regulariser" or config.critic != "mse":
      self.follow(1.0)  # The slow critic starts as a copy of the critic.
    dream = self._reinforce if config.actor_gradient == "reinforce" else self._dream
    self._gradients = tf.function(dream, jit_compile=jit_compile, autograph=False)
    self._update = tf.function(self._dream_and_apply, autograph=False)

  @classmethod
  def from_settings(cls, world_model: WorldModel, settings: ControllerConfig, seed: int):
    """Makes a learner from `settings.actor_critic`. See `Learner.from_settings`."""
    return cls(world_model, settings.actor_critic, seed)

  @classmethod
  def check(cls, settings: ControllerConfig, world_model: WorldModel) -> None:
    """Checks that the actions have the density that `reinforce` needs. See `Learner.check`."""
    _check_density(settings.actor_critic, world_model)

  def variables(self):
    """Adds the range of the returns if it is used. See `GradientLearner.variables`."""
    normalisation = {"normalisation": {"range": self._return_range}} if self._normalises else {}
    return super().variables() | normalisation

  def update(self, starts, seed, allowed=None, replayed=None):
    """Dreams and updates the networks. See `GradientLearner.update`.

    Args:
      starts: M >= 1 states, a nest of `[M, ...]`.
      seed: `int32[2]`.
      allowed: `bool[M]`, the states that dreams may start from; None for all. See
        `actor_rollouts.replayed_starts`.
      replayed: real steps that the critic also learns from if `replay_scale` is positive, a
        `Replayed`; None for dreams only.

    Returns:
      An `Update`.
    """
    return self._update(starts, seed, allowed, replayed if self._config.replay_scale else None)

  # --- Gradients --------------------------------------------------------------------------------

  def _draw_noise(self, num: int, seed: tf.Tensor, noise_scale) -> tuple[Nest, tf.Tensor]:
    """Draws the noise of the world model and of the actions for `num` dreams."""
    config, model = self._config, self._world_model
    dream_seed, noise_seed = rng.split(seed, 2)
    shape = [num, config.horizon, model.action_size]
    return (
      model.draw_noise(num, config.horizon, dream_seed),
      self.policy.distribution.draw_noise(shape, noise_seed, noise_scale),
    )

  def _roll_out(self, rollout_fn, state: Nest, noise: tuple[Nest, tf.Tensor]) -> Rollout:
    """Dreams with a result of `_draw_noise`."""
    return rollout_fn(self._world_model, self.policy, state, *noise, self._config.temperature)

  def _dream(self, state: Nest, noise: tuple[Nest, tf.Tensor], replayed=None):
    """Computes the gradients of the actor and the critic through the dynamics, and an `Update`."""
    with tf.GradientTape(persistent=True) as tape:
      rollout = self._roll_out(differentiable_rollout, state, noise)
      alive = rollout.alive()
      target = self._targets(rollout, self._values(rollout.features[:, 1:]))
      return_range, scale = self._normalise(target)
      actor_loss = -tf.reduce_mean(alive * (target if scale is None else target / scale))
      if rollout.entropy is not None:
        actor_loss -= self.entropy_scale() * tf.reduce_mean(alive * rollout.entropy)
      critic_loss = self._critic_loss(rollout, target, alive)
      replay_loss, total_loss = self._with_replay(critic_loss, replayed)
    actor_gradients, critic_gradients = (
      tape.gradient(loss, [weight.value for weight in network.weights])
      for loss, network in (
        (actor_loss, self.policy.network),
        (total_loss, self.critic.network),
      )
    )
    losses, gradients = (critic_loss, replay_loss), (actor_gradients, critic_gradients)
    report = self._report(rollout, target, alive, losses, gradients, return_range)
    return actor_gradients, critic_gradients, report

  def _reinforce(self, state: Nest, noise: tuple[Nest, tf.Tensor], replayed=None):
    """Computes the same as `_dream` with the score function gradient of the actor."""
    distribution = self.policy.distribution
    rollout = self._roll_out(forward_rollout, state, noise)
    alive = rollout.alive()
    values = self._values(rollout.features)
    target = self._targets(rollout, values[:, 1:])
    return_range, scale = self._normalise(target)
    advantage = target - values[:, :-1]
    if scale is not None:
      advantage /= scale
    with tf.GradientTape() as tape:
      outputs = self.policy.network(rollout.features[:, :-1])
      entropy = distribution.entropy(outputs)
      objective = distribution.log_prob(outputs, rollout.action) * advantage
      actor_loss = -tf.reduce_mean(alive * (objective + self.entropy_scale() * entropy))
    weights = [weight.value for weight in self.policy.network.weights]
    actor_gradients = tape.gradient(actor_loss, weights)
    with tf.GradientTape() as tape:
      critic_loss = self._critic_loss(rollout, target, alive)
      replay_loss, total_loss = self._with_replay(critic_loss, replayed)
    weights = [weight.value for weight in self.critic.network.weights]
    critic_gradients = tape.gradient(total_loss, weights)
    rollout, losses = rollout._replace(entropy=entropy), (critic_loss, replay_loss)
    gradients = actor_gradients, critic_gradients
    report = self._report(rollout, target, alive, losses, gradients, return_range)
    return actor_gradients, critic_gradients, report

  def _values(self, features: tf.Tensor) -> tf.Tensor:
    """Returns the values `float32[...]` that targets are bootstrapped from."""
    if self._config.slow_critic == "target":
      return self.slow_values(features)
    return self.bounded(self.critic.scaled_values(self.critic.network(features)))

  def _targets(self, rollout: Rollout, values: tf.Tensor) -> tf.Tensor:
    """Returns the lambda-returns `float32[B, H]`, in units of scaled reward."""
    config = self._config
    reward_scale = tf.convert_to_tensor(self.critic.reward_scale)
    reward = rollout.reward - config.disagreement_penalty * rollout.unfamiliarity
    return lambda_returns(
      reward_scale * reward, config.discount * rollout.discount, values, config.lambda_
    )

  def _normalise(self, target: tf.Tensor) -> tuple[tf.Tensor | None, tf.Tensor | None]:
    """Returns the new range of the returns and their scale; None and None without percentiles."""
    if not self._normalises:
      return None, None
    return_range = follow_range(self._return_range, tf.stop_gradient(target))
    return return_range, range_scale(return_range)

  def _critic_loss(self, rollout: Rollout, target: tf.Tensor, alive: tf.Tensor) -> tf.Tensor:
    features = tf.stop_gradient(rollout.features[:, :-1])
    return tf.reduce_mean(alive * self._value_loss(features, tf.stop_gradient(target)))

  def _value_loss(self, features: tf.Tensor, target: tf.Tensor) -> tf.Tensor:
    """Returns the critic's loss for targets, and its distance from the slow critic if it counts."""
    outputs = self.critic.network(features)
    loss = self.critic.loss(outputs, target)
    if self._config.slow_critic == "regulariser":
      loss += self.critic.loss(outputs, tf.stop_gradient(self.slow_values(features)))
    return loss

  def _with_replay(self, critic_loss: tf.Tensor, replayed: Replayed | None):
    """Returns the critic's loss on replayed steps, or None, and its whole loss."""
    config = self._config
    if replayed is None:
      return None, critic_loss
    reward_scale = tf.convert_to_tensor(self.critic.reward_scale)
    values = self._values(replayed.features)
    target = replayed.targets(values, reward_scale, config.discount, config.lambda_)
    loss = self._value_loss(replayed.features[:, :-1], tf.stop_gradient(target))
    weight = tf.cast(replayed.followed(), tf.float32)
    loss = tf.reduce_sum(weight * loss) / tf.maximum(1.0, tf.reduce_sum(weight))
    return loss, critic_loss + config.replay_scale * loss

  def _report(self, rollout: Rollout, target, alive, losses, gradients, return_range) -> Update:
    norms = tf.stack([tf.linalg.global_norm(gradient) for gradient in gradients])
    found = Update(
      tf.reduce_mean(tf.reduce_sum(alive * rollout.reward, axis=1)),
      tf.reduce_mean(target) / tf.convert_to_tensor(self.critic.reward_scale),
      losses[0],
      norms[0],
      tf.reduce_mean(tf.cast(norms > self._config.clip_norm, tf.float32)),
      replay_loss=losses[1],
    )
    if not self._world_model.num_choices:
      extreme = tf.cast(tf.abs(rollout.action) >= _SATURATED, tf.float32)
      share = tf.reduce_sum(alive[..., tf.newaxis] * extreme) / tf.reduce_sum(alive)
      found = found._replace(saturated=share / rollout.action.shape[-1])
    if rollout.entropy is not None:
      found = found._replace(entropy=tf.reduce_mean(rollout.entropy))
    if return_range is not None:
      found = found._replace(return_low=return_range[0], return_high=return_range[1])
    return found

  def _dream_and_apply(
    self,
    starts: Nest,
    seed: tf.Tensor,
    allowed: tf.Tensor | None,
    replayed: Replayed | None,
  ) -> Update:
    start_seed, dream_seed = rng.split(seed, 2)
    num = self._config.batch_size
    chosen = draw_rows(starts, num, start_seed, allowed)
    # Outside of XLA, which draws random numbers many times more slowly.
    noise = self._draw_noise(num, dream_seed, self.noise_scale())
    actor_gradients, critic_gradients, report = self._gradients(chosen, noise, replayed)
    self.apply_gradients(actor_gradients, critic_gradients)
    self.follow(self._config.target_rate)
    if self._normalises:
      found = tf.stack([report.return_low, report.return_high])
      finite = tf.reduce_all(tf.math.is_finite(found))
      self._return_range.assign(tf.where(finite, found, self._return_range))
    return report


def _check_density(config: ActorCriticConfig, world_model: WorldModel) -> None:
  if config.actor_gradient != "reinforce" or world_model.num_choices:
    return
  if config.action_distribution == "tanh_normal":
    raise ConfigError(
      "controller.actor_critic.actor_gradient=reinforce needs the density of continuous actions. "
      "Set controller.actor_critic.action_distribution=clipped_normal."
    )
