"""An actor and a critic trained by imagination: gradients of dreamed returns."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

from wm_tf import rng
from wm_tf.checks import check_shares
from wm_tf.core import Nest
from wm_tf.imagination import lambda_returns
from wm_tf.learners.gradient_config import GradientConfig
from wm_tf.models.world_model import WorldModel
from wm_tf.policies.actor import Actor, Critic, FeatureNetwork


@dataclasses.dataclass(frozen=True)
class ActorCriticConfig(GradientConfig):
  """As `GradientConfig`, by the gradient of the returns themselves.

  Attributes:
    lambda_: of the TD(lambda) targets.
  """

  num_updates: int = 250
  batch_size: int = 384
  lambda_: float = 0.95

  def __post_init__(self):
    super().__post_init__()
    check_shares(self, "lambda_")


class Update(NamedTuple):
  """What one update reports, each `float32[]`."""

  return_mean: tf.Tensor  # Mean undiscounted return of the dreams, in units of reward.
  value: tf.Tensor  # Mean target of the critic, in units of reward.
  critic_loss: tf.Tensor
  actor_gradient_norm: tf.Tensor


class ActorCritic:
  """Trains an actor by the gradient of dreamed returns, through the dynamics.

  The dream's sample is a differentiable function of the action: which component of the mixture is
  drawn is taken as given (the gradient of that choice is left out), its mean and scale are not.
  The reward is the head's mean. Beyond the horizon the critic takes over, so that short dreams, in
  which the model errs little, are enough.

  Attributes:
    actor: the policy.
    critic: its values.

  References:
    Hafner et al. 2020, "Dream to Control: Learning Behaviors by Latent Imagination",
    arXiv:1912.01603, equations 6 to 8 and algorithm 1. The world model here is the two-stage one of
    Ha & Schmidhuber 2018, not Dreamer's RSSM.
  """

  def __init__(
    self,
    world_model: WorldModel,
    actor: Actor,
    critic: Critic,
    config: ActorCriticConfig,
    *,
    jit_compile: bool = True,
  ):
    self._world_model, self._config = world_model, config
    self.actor, self.critic = actor, critic
    sizes = config.critic_hidden_sizes
    self._slow_critic = FeatureNetwork(world_model.feature_size, sizes, 1, 0, name="slow_critic")
    adam = lambda rate: keras.optimizers.Adam(rate, global_clipnorm=config.clip_norm)
    self._actor_optimizer = adam(config.actor_learning_rate)
    self._critic_optimizer = adam(config.critic_learning_rate)
    self._actor_optimizer.build(actor.network.weights)
    self._critic_optimizer.build(critic.network.weights)
    self._num_updates = tf.Variable(float(config.num_updates), trainable=False)
    self._gradients = tf.function(self._dream, jit_compile=jit_compile)
    self.update = tf.function(self._update)

  def standardise(self, features: np.ndarray) -> None:
    """Fits the networks' inputs to real features `float32[M, F]`."""
    for network in (self.actor.network, self.critic.network, self._slow_critic):
      network.standardise(features, self._world_model.latent_size)

  def anneal_over(self, num_updates: int) -> None:
    """Lets the noise on the action fall over so many updates instead of `config.num_updates`."""
    self._num_updates.assign(num_updates)

  def trust_critic(self) -> None:
    """Makes the slow critic the critic: for networks that come from elsewhere."""
    for slow, fast in zip(
      self._slow_critic.state().values(), self.critic.network.state().values(), strict=True
    ):
      slow.assign(fast)

  def state(self) -> dict[str, dict[str, tf.Variable]]:
    """Every variable by name: what a checkpoint holds for an exact resume."""
    optimizer = lambda o: {f"{i}": variable.value for i, variable in enumerate(o.variables)}
    return {
      "actor": self.actor.network.state(),
      "critic": self.critic.network.state(),
      "slow_critic": self._slow_critic.state(),
      "actor_optimizer": optimizer(self._actor_optimizer),
      "critic_optimizer": optimizer(self._critic_optimizer),
    }

  def _noise_scale(self) -> tf.Tensor:
    """Standard deviation of the noise on the action at the update to come, `float32[]`."""
    first, last = self._config.action_noise, self._config.final_action_noise
    done = tf.cast(self._actor_optimizer.iterations, tf.float32) / self._num_updates
    return first + tf.minimum(done, 1.0) * (last - first)

  def _dream(self, state: Nest, seed: tf.Tensor, noise_scale: tf.Tensor):
    """Dreams from `state`; returns both gradients and an `Update`."""
    config, model = self._config, self._world_model
    batch_size = tf.nest.flatten(state)[0].shape[0]
    dream_seed, noise_seed = rng.split(seed, 2)
    noise = model.draw_noise(batch_size, config.horizon, dream_seed)
    action_noise = noise_scale * rng.normal(
      [batch_size, config.horizon, model.action_size], noise_seed
    )
    features, columns = [model.features(state)], []
    with tf.GradientTape(persistent=True) as tape:
      for t in range(config.horizon):
        action = tf.tanh(self.actor.network(features[-1]) + action_noise[:, t])
        step_noise = tf.nest.map_structure(lambda x, t=t: x[:, t], noise)
        prediction = model.imagine_with_noise(state, action, step_noise, config.temperature)
        state = prediction.state
        features.append(model.features(state))
        unfamiliarity = model.unfamiliarity(prediction.disagreement)
        columns.append((prediction.reward, prediction.discount, unfamiliarity))
      reward, discount, unfamiliarity = (tf.stack(x, axis=1) for x in zip(*columns, strict=True))
      alive = tf.stop_gradient(tf.math.cumprod(discount, axis=1, exclusive=True))
      after = tf.stack(features[1:], axis=1)
      target = lambda_returns(
        config.reward_scale * (reward - config.disagreement_penalty * unfamiliarity),
        config.discount * discount,
        self._slow_critic(after)[..., 0],
        config.lambda_,
      )
      actor_loss = -tf.reduce_mean(alive * target)
      before = tf.stop_gradient(tf.stack(features[:-1], axis=1))
      error = self.critic.network(before)[..., 0] - tf.stop_gradient(target)
      critic_loss = tf.reduce_mean(alive * tf.square(error))
    values = lambda network: [weight.value for weight in network.weights]
    actor_gradients = tape.gradient(actor_loss, values(self.actor.network))
    critic_gradients = tape.gradient(critic_loss, values(self.critic.network))
    report = Update(
      tf.reduce_mean(tf.reduce_sum(alive * reward, axis=1)),
      tf.reduce_mean(target) / config.reward_scale,
      critic_loss,
      tf.linalg.global_norm(actor_gradients),
    )
    return actor_gradients, critic_gradients, report

  def _update(self, starts: Nest, seed: tf.Tensor) -> Update:
    """Dreams and learns.

    Args:
      starts: M >= 1 states; those of this update's dreams are drawn from them.
      seed: `int32[2]`.

    Returns:
      An `Update`. If a gradient is not finite, nothing is learned from it.
    """
    start_seed, dream_seed = rng.split(seed, 2)
    rows = tf.random.stateless_uniform(
      [self._config.batch_size],
      start_seed,
      maxval=tf.shape(tf.nest.flatten(starts)[0])[0],
      dtype=tf.int32,
    )
    chosen = tf.nest.map_structure(lambda x: tf.gather(x, rows), starts)
    actor_gradients, critic_gradients, report = self._gradients(
      chosen, dream_seed, self._noise_scale()
    )
    finite = tf.math.is_finite(tf.linalg.global_norm(actor_gradients + critic_gradients))
    keep = lambda gradients: [tf.where(finite, x, tf.zeros_like(x)) for x in gradients]
    self._actor_optimizer.apply_gradients(
      zip(keep(actor_gradients), self.actor.network.weights, strict=True)
    )
    self._critic_optimizer.apply_gradients(
      zip(keep(critic_gradients), self.critic.network.weights, strict=True)
    )
    for slow, fast in zip(self._slow_critic.weights, self.critic.network.weights, strict=True):
      slow.assign_add(self._config.target_rate * (fast - slow))
    return report
