"""An actor and a critic trained by the gradient of dreamed returns, through the dynamics."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, NamedTuple

import tensorflow as tf

from wm_tf import actions, rng
from wm_tf.checks import check_shares
from wm_tf.core import Nest
from wm_tf.imagination import draw_rows, lambda_returns
from wm_tf.learners.gradients import GradientConfig, GradientLearner
from wm_tf.models.world_model import WorldModel

if TYPE_CHECKING:
  from wm_tf.learners.config import ControllerConfig


@dataclasses.dataclass(frozen=True)
class ActorCriticConfig(GradientConfig):
  """Settings of an `ActorCritic`: a `GradientConfig` with lambda.

  Attributes:
    lambda_: lambda of the TD(lambda) targets, in [0, 1].
  """

  num_updates: int = 1000
  lambda_: float = 0.95

  def __post_init__(self):
    super().__post_init__()
    check_shares(self, "lambda_")


class Update(NamedTuple):
  """Metrics of one update, each `float32[]`; see `gradients.Update`.

  Attributes:
    actor_gradient_norm: norm of the actor's gradient before clipping.
  """

  return_mean: tf.Tensor
  value: tf.Tensor
  critic_loss: tf.Tensor
  actor_gradient_norm: tf.Tensor


class ActorCritic(GradientLearner):
  """Trains an actor by the gradient of dreamed returns, through the dynamics.

  An imagined step is a differentiable function of the action, given the drawn mixture component.
  The gradient flows through the component's mean and scale, but not through the choice of the
  component. The reward is the mean of the reward head. The critic estimates the return after the
  horizon, so dreams can be short; the model is most accurate over few steps.

  Categorical actions are sampled, with the straight-through gradient of their probabilities and an
  entropy bonus.

  References:
    Hafner et al. 2020, "Dream to Control: Learning Behaviors by Latent Imagination",
    arXiv:1912.01603, equations 6 to 8 and algorithm 1. The world model of Ha & Schmidhuber 2018
    replaces Dreamer's RSSM.
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
    """
    super().__init__(world_model, config, seed)
    self._gradients = tf.function(self._dream, jit_compile=jit_compile, autograph=False)
    self.update = tf.function(self._update, autograph=False)

  @classmethod
  def from_settings(cls, world_model: WorldModel, settings: ControllerConfig, seed: int):
    """Makes a learner from `settings.actor_critic`. See `Learner.from_settings`."""
    return cls(world_model, settings.actor_critic, seed)

  @classmethod
  def check(cls, settings: ControllerConfig, world_model: WorldModel) -> None:
    """Accepts any settings for any world model. See `Learner.check`."""
    pass

  def _draw_action_noise(self, batch_size, seed: tf.Tensor) -> tf.Tensor:
    """Draws `float32[B, H, A]`: normal for continuous actions, uniform for categorical ones."""
    model = self._world_model
    draw = rng.uniform if model.num_choices else rng.normal
    return draw([batch_size, self._config.horizon, model.action_size], seed)

  def _dream(self, state: Nest, seed: tf.Tensor, noise_scale: tf.Tensor):
    """Dreams from `state`; returns the gradients of the actor and the critic, and an `Update`."""
    config, model, num_choices = self._config, self._world_model, self._world_model.num_choices
    batch_size = tf.nest.flatten(state)[0].shape[0]
    dream_seed, noise_seed = rng.split(seed, 2)
    noise = model.draw_noise(batch_size, config.horizon, dream_seed)
    action_noise = self._draw_action_noise(batch_size, noise_seed)
    if not num_choices:
      action_noise = noise_scale * action_noise
    reward_scale = tf.convert_to_tensor(self.critic.reward_scale)
    features, columns = [model.features(state)], []
    with tf.GradientTape(persistent=True) as tape:
      for t in range(config.horizon):
        raw = self.policy.network(features[-1])
        if num_choices:
          action = actions.straight_through(raw, action_noise[:, t], num_choices)
          entropy = actions.entropy(raw, num_choices)
        else:
          action = tf.tanh(raw + action_noise[:, t])
          entropy = tf.zeros([batch_size])
        step_noise = tf.nest.map_structure(lambda x, t=t: x[:, t], noise)
        prediction = model.imagine_with_noise(state, action, step_noise, config.temperature)
        state = prediction.state
        features.append(model.features(state))
        unfamiliarity = model.unfamiliarity(prediction.disagreement)
        columns.append((prediction.reward, prediction.discount, unfamiliarity, entropy))
      reward, discount, unfamiliarity, entropy = (
        tf.stack(x, axis=1) for x in zip(*columns, strict=True)
      )
      alive = tf.stop_gradient(tf.math.cumprod(discount, axis=1, exclusive=True))
      after = tf.stack(features[1:], axis=1)
      target = lambda_returns(
        reward_scale * (reward - config.disagreement_penalty * unfamiliarity),
        config.discount * discount,
        self.slow_values(after),
        config.lambda_,
      )
      actor_loss = -tf.reduce_mean(alive * target)
      if num_choices:
        actor_loss -= config.entropy_scale * tf.reduce_mean(alive * entropy)
      before = tf.stop_gradient(tf.stack(features[:-1], axis=1))
      error = self.critic.network(before)[..., 0] - tf.stop_gradient(target)
      critic_loss = tf.reduce_mean(alive * tf.square(error))
    actor_gradients, critic_gradients = (
      tape.gradient(loss, [weight.value for weight in network.weights])
      for loss, network in (
        (actor_loss, self.policy.network),
        (critic_loss, self.critic.network),
      )
    )
    report = Update(
      tf.reduce_mean(tf.reduce_sum(alive * reward, axis=1)),
      tf.reduce_mean(target) / reward_scale,
      critic_loss,
      tf.linalg.global_norm(actor_gradients),
    )
    return actor_gradients, critic_gradients, report

  def _update(self, starts: Nest, seed: tf.Tensor) -> Update:
    start_seed, dream_seed = rng.split(seed, 2)
    chosen = draw_rows(starts, self._config.batch_size, start_seed)
    actor_gradients, critic_gradients, report = self._gradients(
      chosen, dream_seed, self.noise_scale()
    )
    self.apply_gradients(actor_gradients, critic_gradients)
    self.follow(self._config.target_rate)
    return report
