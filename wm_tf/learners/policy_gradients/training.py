"""A learner that trains an actor by policy gradients of its dreams, with TF-Agents."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, NamedTuple

import tensorflow as tf
import tensorflow_probability as tfp

from wm_tf import actions, rng
from wm_tf.checks import ConfigError
from wm_tf.core import Nest
from wm_tf.imagination import lambda_returns
from wm_tf.learners.gradients import GradientLearner
from wm_tf.learners.optimizers import numbered
from wm_tf.learners.policy_gradients.auto_reset import LAST, Dreams
from wm_tf.learners.policy_gradients.methods import METHODS, PolicyGradientConfig, PPOConfig
from wm_tf.models.world_model import WorldModel

if TYPE_CHECKING:
  from wm_tf.learners.config import ControllerConfig


class Update(NamedTuple):
  """Metrics of one update, each `float32[]`; see `gradients.Update`.

  Attributes:
    action_noise: standard deviation of the noise on continuous actions, before the tanh; 0 for
      categorical actions.
    kl_divergence: mean KL divergence in nats of the actor before and after the update; 0 for
      `reinforce`.
    disagreement: mean disagreement of the dreams' steps.
  """

  return_mean: tf.Tensor
  value: tf.Tensor
  critic_loss: tf.Tensor
  action_noise: tf.Tensor
  kl_divergence: tf.Tensor
  disagreement: tf.Tensor


class PolicyGradient(GradientLearner):
  """Trains an actor on its dreams by PPO with a KL penalty, PPO-Clip or REINFORCE.

  The random choice of a continuous policy is the actor's output before its tanh plus normal noise,
  whose scale decreases over the updates. That of a categorical policy is a sample of each group.
  All dreams of an update are one compiled rollout. At the horizon a dream is truncated, not
  terminated: the slow critic estimates the return after it, in PPO's generalised advantages and in
  REINFORCE's returns.

  Training needs TF-Agents. Using or exporting a trained policy does not.

  References:
    Schulman et al. 2017, "Proximal Policy Optimization Algorithms", arXiv:1707.06347, equations 7
    (clipped) and 8 (KL penalty); Schulman et al. 2016, arXiv:1506.02438, equation 16.
    Williams 1992, "Simple statistical gradient-following algorithms for connectionist reinforcement
    learning", with the learned baseline of Sutton & Barto 2018, section 13.4.
  """

  shown = ("dream/return_mean", "dream/value", "dream/action_noise")

  def __init__(
    self,
    method: str,
    world_model: WorldModel,
    config: PolicyGradientConfig,
    seed: int = 0,
    *,
    jit_compile: bool = True,
  ):
    """Makes a learner.

    Args:
      method: one of `methods.METHODS`.
      world_model: the world model.
      config: the settings; a `PPOConfig` for `ppo` and `ppo_clip`.
      seed: seed of the initial weights.
      jit_compile: whether XLA compiles the dreams.

    Raises:
      ValueError: for an unknown method, or the configuration of another method.
    """
    if method not in METHODS:
      raise ValueError(f"method must be one of {', '.join(METHODS)}, not {method!r}.")
    if method != "reinforce" and not isinstance(config, PPOConfig):
      raise ValueError(f"method {method} takes a PPOConfig, not a {type(config).__name__}.")
    super().__init__(world_model, config, seed)
    self.title = method
    self._dreams = Dreams(
      world_model,
      config.batch_size,
      config.horizon,
      temperature=config.temperature,
      disagreement_penalty=config.disagreement_penalty,
    )
    self._done = tf.Variable(0.0, trainable=False)  # Updates since `begin`.
    self._roll = tf.function(self._roll_out, jit_compile=jit_compile, autograph=False)
    self._collect = tf.function(self._dream, autograph=False)
    self._train = tf.function(self._agent_train, autograph=False)
    self._shuffle = tf.function(self._shuffled, autograph=False)
    self._divergence = tf.function(self._kl_divergence, autograph=False)
    self._finish = tf.function(self._finish_update, autograph=False)
    self._learn = self._reinforce if method == "reinforce" else self._ppo

  @classmethod
  def from_settings(cls, world_model: WorldModel, settings: ControllerConfig, seed: int):
    """Makes a learner from `settings.reinforce` or `settings.ppo`. See `Learner.from_settings`."""
    config = settings.reinforce if settings.method == "reinforce" else settings.ppo
    return cls(settings.method, world_model, config, seed)

  @classmethod
  def check(cls, settings: ControllerConfig, world_model: WorldModel) -> None:
    """Checks that TF-Agents is installed. See `Learner.check`."""
    from wm_tf.learners.policy_gradients.environment import MissingTFAgentsError, require_tf_agents

    try:
      require_tf_agents()
    except MissingTFAgentsError as error:
      raise ConfigError(f"controller.method={settings.method}: {error}") from error

  @functools.cached_property
  def _agents(self):
    # TF-Agents takes seconds to load, and only training needs it.
    from wm_tf.learners.policy_gradients import agents

    return agents

  @functools.cached_property
  def _agent(self):
    return self._agents.make_agent(
      self.title, self, self._world_model, self._config, self._distribution
    )

  def variables(self):
    """Adds the state of TF-Agents' agent. See `GradientLearner.variables`."""
    found = super().variables()
    del found["actor_optimizer"], found["critic_optimizer"]
    optimizers = (self._actor_optimizer, self._critic_optimizer)
    steps = [variable for optimizer in optimizers for variable in numbered(optimizer).values()]
    beta = self._agents.penalty(self._agent)
    return found | {
      "progress": {"updates": self._done},
      "optimizers": {f"{i}": variable for i, variable in enumerate(steps)},
      "penalty": {} if beta is None else {"kl_coefficient": beta},
    }

  def num_done(self):
    """Returns the number of updates since `begin`. See `GradientLearner.num_done`."""
    return self._done

  def update(self, starts, seed):
    """Imagines rollouts and trains on them. See `GradientLearner.update`."""
    dream_seed, shuffle_seed = rng.split(seed, 2)
    _ = self._agent  # Variables must be created outside of `tf.function`s.
    experience, report = self._collect(starts, dream_seed)
    critic_loss, divergence = self._learn(experience, shuffle_seed)
    self._finish()
    return Update(*report[:2], critic_loss, report[2], divergence, report[3])

  # --- The policy -------------------------------------------------------------------------------

  def _distribution(self, features):
    """Returns the distribution of the choice for features of any leading dimensions."""
    raw = self.policy.network(features)
    if self._world_model.num_choices:
      return self._make_distribution(logits=raw)
    scale = tf.ensure_shape(tf.fill(tf.shape(raw), self.noise_scale()), raw.shape)
    return self._make_distribution(loc=raw, scale_diag=scale)

  def _make_distribution(self, **parameters):
    num_choices = self._world_model.num_choices
    if num_choices:
      return self._agents.OneHotGroups(parameters["logits"], num_choices)
    return tfp.distributions.MultivariateNormalDiag(**parameters)

  # --- Dreaming ---------------------------------------------------------------------------------

  def _roll_out(self, starts, randomness, noise):
    """Dreams with `noise` `float32[T, B, A]`; returns a `Rollout` and the critics' values."""
    scale, num_choices = self.noise_scale(), self._world_model.num_choices

    def choose(features, t):
      raw = self.policy.network(features)
      if num_choices:
        choice = actions.sample(raw, noise[t], num_choices)
        return choice, choice
      choice = raw + scale * noise[t]
      return choice, tf.tanh(choice)

    rollout = self._dreams.rollout(choose, starts, randomness)
    features = rollout.features
    values = self.critic.network(features[:, :-1])[..., 0]
    return rollout, values, self.slow_values(features[:, 1:])

  def _dream(self, starts: Nest, seed: tf.Tensor):
    """Returns a `Trajectory` `[B, T, ...]` to train on, and metrics for an `Update`."""
    config, model = self._config, self._world_model
    dream_seed, noise_seed = rng.split(seed, 2)
    num_starts = tf.shape(tf.nest.flatten(starts)[0])[0]
    # Random numbers are drawn outside of XLA, where drawing is several times slower.
    randomness = self._dreams.draw(num_starts, config.horizon + 1, dream_seed)
    draw = rng.uniform if model.num_choices else rng.normal
    noise = draw([config.horizon, config.batch_size, model.action_size], noise_seed)
    rollout, value, value_after = self._roll(starts, randomness, noise)
    before, after = (tf.nest.map_structure(lambda x, s=s: x[:, s], rollout[:5]) for s in _SHIFTS)
    features, step_type, reward, discount, _ = before
    time_step = self._agents.make_time_step(step_type, reward, discount, features)
    _, next_step_type, reward, discount, disagreement = after
    reward_scale = tf.convert_to_tensor(self.critic.reward_scale)
    reward = reward_scale * reward
    mask = tf.cast(step_type != LAST, tf.float32)  # After LAST another dream begins.
    info = self._agent.collect_policy.distribution(time_step).info
    target = lambda_returns(
      reward, config.discount * discount, value_after, getattr(config, "lambda_", 1.0)
    )
    if info:  # PPO. TF-Agents' own advantages would bootstrap from the value before the last one.
      info = {
        "dist_params": info["dist_params"],
        "value_prediction": value,
        "return": target,
        "advantage": target - value,
      }
    else:  # REINFORCE sums rewards only up to the end of a dream.
      end = tf.cast(next_step_type == LAST, tf.float32)
      reward += end * config.discount * discount * value_after
    experience = self._agents.make_trajectory(
      time_step, rollout.choice, info, next_step_type, reward, discount
    )

    def mean(x):
      return tf.reduce_sum(mask * x) / tf.reduce_sum(mask)

    unfamiliarity = model.unfamiliarity(rollout.disagreement)
    unpenalised = rollout.reward + config.disagreement_penalty * unfamiliarity
    return experience, (
      tf.reduce_mean(tf.reduce_sum(unpenalised, axis=1)),
      mean(target) / reward_scale,
      tf.zeros([]) if model.num_choices else self.noise_scale(),
      mean(disagreement),
    )

  # --- Learning ---------------------------------------------------------------------------------

  def _reinforce(self, experience, seed):
    return self._train(experience), tf.constant(0.0)

  def _ppo(self, experience, seed):
    config = self._config
    # Each decision is a separate sequence: `[N, 1, ...]`.
    flat = tf.nest.map_structure(lambda x: tf.reshape(x, [-1, 1, *x.shape[2:]]), experience)
    for epoch in range(config.num_epochs):
      for rows in self._shuffle(rng.fold_in(seed, epoch)):
        loss = self._train(flat, rows)
    return loss, self._divergence(flat)

  def _finish_update(self):
    self._done.assign_add(1.0)
    self.follow(self._config.target_rate)

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
    """Returns the mean divergence from the actor before the update, and adapts the penalty."""
    old = self._make_distribution(**flat.policy_info["dist_params"])
    kl = old.kl_divergence(self._distribution(flat.observation))
    mask = tf.cast(~flat.is_boundary(), tf.float32)
    mean = tf.reduce_sum(mask * kl) / tf.reduce_sum(mask)
    self._agents.adapt_penalty(self._agent, mean)
    return mean


_SHIFTS = (slice(None, -1), slice(1, None))  # Columns before each step, and after it.
