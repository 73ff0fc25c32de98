"""PPO and REINFORCE in the dream, by TF-Agents.

Without TF-Agents this module loads, and to make a `PolicyGradient` says how to install it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp
from absl import logging

from wm_tf import rng
from wm_tf.core import Nest
from wm_tf.imagination import lambda_returns
from wm_tf.learners.dream_rollouts import (
  LAST,
  METHODS,
  Dreams,
  PolicyGradientConfig,
  PPOConfig,
)
from wm_tf.learners.tf_agents_environment import make_time_step_spec, require_tf_agents
from wm_tf.models.world_model import WorldModel
from wm_tf.policies.actor import Actor, Critic, FeatureNetwork

try:
  from tf_agents.agents.ppo.ppo_clip_agent import PPOClipAgent
  from tf_agents.agents.ppo.ppo_kl_penalty_agent import PPOKLPenaltyAgent
  from tf_agents.agents.reinforce.reinforce_agent import ReinforceAgent
  from tf_agents.networks.network import Network
  from tf_agents.specs import TensorSpec
  from tf_agents.trajectories import time_step as ts
  from tf_agents.trajectories import trajectory
except ImportError:
  Network = PPOKLPenaltyAgent = object


class _FunctionNetwork(Network):
  """A function of features with its weights, as TF-Agents wants a network."""

  def __init__(self, spec, function: Callable, weights: list[tf.Variable], name: str):
    super().__init__(input_tensor_spec=spec, name=name)
    # In functions: Keras 2, whose layer this is, must not look into a module of Keras 3.
    self._function, self._list = function, lambda: list(weights)

  @property
  def trainable_weights(self):
    return self._list()

  def call(self, observation, step_type=None, network_state=(), training=False):
    return self._function(observation), network_state


class _Optimizers:
  """An optimiser of Keras 3 for each network, as TF-Agents calls one.

  If a gradient is not finite, nothing is learned from it.
  """

  def __init__(self, groups: list[tuple[list[keras.Variable], float]], clip_norm: float):
    self._groups = []
    for weights, rate in groups:
      optimizer = keras.optimizers.Adam(rate, global_clipnorm=clip_norm)
      optimizer.build(weights)
      self._groups.append((optimizer, weights))
    self.learning_rate = groups[0][1]  # TF-Agents writes it into summaries.

  @property
  def variables(self) -> list[tf.Variable]:
    return [variable.value for optimizer, _ in self._groups for variable in optimizer.variables]

  def apply_gradients(self, gradients_and_variables) -> None:
    gradients = {variable.ref(): gradient for gradient, variable in gradients_and_variables}
    finite = tf.math.is_finite(tf.linalg.global_norm(list(gradients.values())))
    for optimizer, weights in self._groups:
      own = [gradients[weight.value.ref()] for weight in weights]
      own = [tf.where(finite, gradient, tf.zeros_like(gradient)) for gradient in own]
      optimizer.apply_gradients(zip(own, weights, strict=True))


class _PPOAgent(PPOKLPenaltyAgent):
  """Adapts its penalty when told to: `train` would do so after every minibatch."""

  def update_adaptive_kl_beta(self, kl_divergence):
    return tf.no_op()

  def adapt(self, kl_divergence: tf.Tensor) -> None:
    super().update_adaptive_kl_beta(kl_divergence)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
  """PPO warns of every optimiser that is not Keras 2's."""
  before = logging.get_verbosity()
  logging.set_verbosity(logging.ERROR)
  try:
    yield
  finally:
    logging.set_verbosity(before)


class Update(NamedTuple):
  """What one update reports, each `float32[]`."""

  return_mean: tf.Tensor  # Mean undiscounted return of the dreams, in units of reward.
  value: tf.Tensor  # Mean target of the critic, in units of reward.
  critic_loss: tf.Tensor
  action_noise: tf.Tensor  # Standard deviation of the noise on the actor's output.
  kl_divergence: tf.Tensor  # Mean over the decisions, of the actor before and after, in nats.
  disagreement: tf.Tensor  # Mean over the decisions.


class PolicyGradient:
  """Trains an actor on its dreams by TF-Agents' PPO with a KL penalty, PPO-Clip or REINFORCE.

  What is chosen, and has a probability, is the actor's output before its tanh plus normal noise,
  whose scale falls from update to update: noise gets a dreaming actor out of where it would stay
  for ever. All dreams of an update are one compiled rollout. A dream that runs out of time has not
  come to its end: a slow copy of the critic stands for the rest, in PPO's advantages (generalised
  ones) and in REINFORCE's returns; the critic itself, chasing its own values, would run away.

  Attributes:
    actor: the policy.
    critic: its values.

  References:
    Schulman et al. 2017, "Proximal Policy Optimization Algorithms", arXiv:1707.06347, equations 7
    (clipped) and 8 (KL penalty); Schulman et al. 2016, arXiv:1506.02438, equation 16.
    Williams 1992, "Simple statistical gradient-following algorithms for connectionist reinforcement
    learning", with the learned baseline of Sutton & Barto 2018, section 13.4.
  """

  def __init__(
    self,
    method: str,
    world_model: WorldModel,
    actor: Actor,
    critic: Critic,
    config: PolicyGradientConfig,
    *,
    jit_compile: bool = True,
  ):
    """Makes a trainer.

    Args:
      method: `ppo` or `ppo_clip`, with a `PPOConfig`, or `reinforce`.
      world_model: any.
      actor, critic: what is trained.
      config: how.
      jit_compile: whether XLA compiles the dreams.

    Raises:
      MissingTFAgentsError: without TF-Agents.
      ValueError: for another method, or a `config` that is not the method's.
    """
    require_tf_agents()
    if method not in METHODS:
      raise ValueError(f"method must be one of {', '.join(METHODS)}, not {method!r}.")
    if method != "reinforce" and not isinstance(config, PPOConfig):
      raise ValueError(f"method {method} takes a PPOConfig, not a {type(config).__name__}.")
    self._world_model, self._config = world_model, config
    self.actor, self.critic = actor, critic
    self._dreams = Dreams(
      world_model,
      config.batch_size,
      config.horizon,
      temperature=config.temperature,
      disagreement_penalty=config.disagreement_penalty,
    )
    sizes = config.critic_hidden_sizes
    self._slow_critic = FeatureNetwork(world_model.feature_size, sizes, 1, 0, name="slow_critic")
    self._num_updates = tf.Variable(float(config.num_updates), trainable=False)
    self._done = tf.Variable(0.0, trainable=False)  # Updates so far.
    self._optimizers = _Optimizers(
      [
        (actor.network.weights, config.actor_learning_rate),
        (critic.network.weights, config.critic_learning_rate),
      ],
      config.clip_norm,
    )
    self._agent = self._make_agent(method)
    self._roll = tf.function(self._roll_out, jit_compile=jit_compile, autograph=False)
    self._collect = tf.function(self._dream, autograph=False)
    self._train = tf.function(self._agent_train, autograph=False)
    self._shuffle = tf.function(self._shuffled, autograph=False)
    self._divergence = tf.function(self._kl_divergence, autograph=False)
    self._finish = tf.function(self._finish_update, autograph=False)
    self._learn = self._reinforce if method == "reinforce" else self._ppo

  def _make_agent(self, method: str):
    config = self._config
    time_step_spec = make_time_step_spec(self._world_model)
    network = lambda function, weights, name: _FunctionNetwork(
      time_step_spec.observation, function, [weight.value for weight in weights], name
    )
    actor_network = network(self._distribution, self.actor.network.weights, "actor")
    value_network = network(self._value, self.critic.network.weights, "critic")
    common = dict(
      time_step_spec=time_step_spec,
      action_spec=TensorSpec([self._world_model.action_size], tf.float32, "choice"),
      optimizer=self._optimizers,
      # Its default is a variable of the whole process.
      train_step_counter=tf.Variable(0, dtype=tf.int64, trainable=False),
    )
    if method == "reinforce":
      return ReinforceAgent(
        actor_network=actor_network,
        value_network=value_network,
        # As it comes, the critic would be taught to make advantages larger.
        advantage_fn=lambda returns, value: returns - tf.stop_gradient(value),
        gamma=config.discount,
        normalize_returns=True,
        **common,
      )
    common |= dict(
      actor_net=actor_network,
      value_net=value_network,
      num_epochs=1,
      normalize_observations=False,
      normalize_rewards=False,
      compute_value_and_advantage_in_train=False,
      update_normalizers_in_train=False,
      aggregate_losses_across_replicas=False,
    )
    with _quiet():
      if method == "ppo_clip":
        return PPOClipAgent(importance_ratio_clipping=config.clip_range, **common)
      return _PPOAgent(
        initial_adaptive_kl_beta=config.kl_coefficient,
        adaptive_kl_target=config.kl_target,
        adaptive_kl_tolerance=0.5,
        kl_cutoff_factor=0.0,
        **common,
      )

  def standardise(self, features: np.ndarray) -> None:
    """Fits the networks' inputs to real features `float32[M, F]`."""
    for network in (self.actor.network, self.critic.network, self._slow_critic):
      network.standardise(features, self._world_model.latent_size)

  def anneal_over(self, num_updates: int) -> None:
    """Lets the noise on the action fall over so many updates instead of `config.num_updates`."""
    self._num_updates.assign(num_updates)

  def trust_critic(self) -> None:
    """Makes the slow critic the critic: for networks that come from elsewhere."""
    self._follow(1.0)

  def _follow(self, rate: float) -> None:
    for slow, fast in zip(self._slow_critic.weights, self.critic.network.weights, strict=True):
      slow.assign_add(rate * (fast - slow))

  def state(self) -> dict[str, dict[str, tf.Variable]]:
    """Every variable by name: what a checkpoint holds for an exact resume."""
    beta = getattr(self._agent, "_adaptive_kl_beta", None)
    return {
      "actor": self.actor.network.state(),
      "critic": self.critic.network.state(),
      "slow_critic": self._slow_critic.state(),
      "progress": {"updates": self._done},
      "optimizers": {f"{i}": x for i, x in enumerate(self._optimizers.variables)},
      "penalty": {} if beta is None else {"kl_coefficient": beta},
    }

  def update(self, starts: Nest, seed: tf.Tensor) -> Update:
    """Dreams and learns.

    Args:
      starts: M >= 1 states; those that dreams begin from are drawn from them.
      seed: `int32[2]`.

    Returns:
      An `Update`. If a gradient is not finite, nothing is learned from it.
    """
    dream_seed, shuffle_seed = rng.split(seed, 2)
    experience, report = self._collect(starts, dream_seed)
    critic_loss, divergence = self._learn(experience, shuffle_seed)
    self._finish()
    return Update(*report[:2], critic_loss, report[2], divergence, report[3])

  # --- The networks as TF-Agents sees them ------------------------------------------------------

  def _noise_scale(self) -> tf.Tensor:
    first, last = self._config.action_noise, self._config.final_action_noise
    return first + tf.minimum(self._done / self._num_updates, 1.0) * (last - first)

  def _distribution(self, features):
    loc = self.actor.network(features)
    scale = tf.ensure_shape(tf.fill(tf.shape(loc), self._noise_scale()), loc.shape)
    return tfp.distributions.MultivariateNormalDiag(loc, scale)

  def _value(self, features):
    return self.critic.network(features)[..., 0]

  # --- Dreaming ---------------------------------------------------------------------------------

  def _roll_out(self, starts, luck, noise):
    scale = self._noise_scale()

    def choose(features, t):
      choice = self.actor.network(features) + scale * noise[t]
      return choice, tf.tanh(choice)

    rollout = self._dreams.rollout(choose, starts, luck)
    features = rollout.features
    return rollout, self._value(features[:, :-1]), self._slow_critic(features[:, 1:])[..., 0]

  def _dream(self, starts: Nest, seed: tf.Tensor):
    """Returns a `Trajectory` `[B, T, ...]` to train on, and figures for an `Update`."""
    config = self._config
    luck_seed, noise_seed = rng.split(seed, 2)
    num_starts = tf.shape(tf.nest.flatten(starts)[0])[0]
    # Drawn outside of XLA, which is several times slower at it.
    luck = self._dreams.draw(num_starts, config.horizon + 1, luck_seed)
    shape = [config.horizon, config.batch_size, self._world_model.action_size]
    rollout, value, value_after = self._roll(starts, luck, rng.normal(shape, noise_seed))
    before, after = (lambda x: x[:, :-1]), (lambda x: x[:, 1:])
    time_step = ts.TimeStep(
      *(before(x) for x in (rollout.step_type, rollout.reward, rollout.discount, rollout.features))
    )
    reward, discount = config.reward_scale * after(rollout.reward), after(rollout.discount)
    mask = tf.cast(time_step.step_type != LAST, tf.float32)  # Else another dream began.
    info = self._agent.collect_policy.distribution(time_step).info
    target = lambda_returns(
      reward, config.discount * discount, value_after, getattr(config, "lambda_", 1.0)
    )
    if info:  # PPO. TF-Agents' own advantages would bootstrap from the last value but one.
      info = {
        "dist_params": info["dist_params"],
        "value_prediction": value,
        "return": target,
        "advantage": target - value,
      }
    else:  # REINFORCE sums rewards to the end of a dream and no further.
      end = tf.cast(after(rollout.step_type) == LAST, tf.float32)
      reward += end * config.discount * discount * value_after
    experience = trajectory.Trajectory(
      step_type=time_step.step_type,
      observation=time_step.observation,
      action=rollout.choice,
      policy_info=info,
      next_step_type=after(rollout.step_type),
      reward=reward,
      discount=discount,
    )
    mean = lambda x: tf.reduce_sum(mask * x) / tf.reduce_sum(mask)
    unfamiliarity = self._world_model.unfamiliarity(rollout.disagreement)
    raw = rollout.reward + config.disagreement_penalty * unfamiliarity
    return experience, (
      tf.reduce_mean(tf.reduce_sum(raw, axis=1)),
      mean(target) / config.reward_scale,
      self._noise_scale(),
      mean(after(rollout.disagreement)),
    )

  # --- Learning ---------------------------------------------------------------------------------

  def _reinforce(self, experience, seed):
    return self._train(experience), tf.constant(0.0)

  def _ppo(self, experience, seed):
    config = self._config
    # Each decision by itself: `[N, 1, ...]`.
    flat = tf.nest.map_structure(lambda x: tf.reshape(x, [-1, 1, *x.shape[2:]]), experience)
    for epoch in range(config.num_epochs):
      for rows in self._shuffle(rng.fold_in(seed, epoch)):
        loss = self._train(flat, rows)
    return loss, self._divergence(flat)

  def _finish_update(self):
    self._done.assign_add(1.0)
    self._follow(self._config.target_rate)

  def _shuffled(self, seed):
    config = self._config
    num = config.batch_size * config.horizon
    order = tf.argsort(rng.uniform([num], seed))
    size = num // config.num_minibatches
    return tf.reshape(order[: size * config.num_minibatches], [config.num_minibatches, size])

  def _agent_train(self, experience, rows=None):
    if rows is not None:
      experience = tf.nest.map_structure(lambda x: tf.gather(x, rows), experience)
    return self._agent.train(experience).extra.value_estimation_loss

  def _kl_divergence(self, flat):
    """Mean divergence of the actor now from the one that dreamed; adapts the penalty to it."""
    old = tfp.distributions.MultivariateNormalDiag(**flat.policy_info["dist_params"])
    kl = old.kl_divergence(self._distribution(flat.observation))
    mask = tf.cast(~flat.is_boundary(), tf.float32)
    mean = tf.reduce_sum(mask * kl) / tf.reduce_sum(mask)
    if isinstance(self._agent, _PPOAgent):
      self._agent.adapt(mean)
    return mean
