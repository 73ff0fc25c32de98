"""TF-Agents' PPO and REINFORCE agents for the actor and critic of a `GradientLearner`.

This module can be imported without TF-Agents, but `make_agent` then raises `MissingTFAgentsError`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence

import tensorflow as tf
import tensorflow_probability as tfp
from absl import logging

from wm_tf import actions
from wm_tf.learners.policy_gradients.environment import make_time_step_spec, require_tf_agents
from wm_tf.learners.policy_gradients.methods import PolicyGradientConfig
from wm_tf.models.world_model import WorldModel

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


class OneHotGroups(tfp.distributions.Distribution):
  """Independent categorical distributions over one-hot groups, as one event `[A]`."""

  def __init__(self, logits, num_choices: Sequence[int], name: str = "OneHotGroups"):
    """Makes a distribution.

    Args:
      logits: `float32[..., A]`.
      num_choices: number of choices in each group.
      name: name of the distribution.
    """
    parameters = dict(locals())
    self._num_choices = tuple(num_choices)
    self._logits = tf.convert_to_tensor(logits)
    super().__init__(
      dtype=self._logits.dtype,
      reparameterization_type=tfp.distributions.NOT_REPARAMETERIZED,
      validate_args=False,
      allow_nan_stats=True,
      parameters=parameters,
      name=name,
    )

  @classmethod
  def _parameter_properties(cls, dtype, num_classes=None):
    return dict(logits=tfp.util.ParameterProperties(event_ndims=1), num_choices=None)

  @property
  def logits(self):
    """The logits, `float32[..., A]`."""
    return self._logits

  @property
  def num_choices(self) -> tuple[int, ...]:
    """The number of choices in each group."""
    return self._num_choices

  def _event_shape(self):
    return self._logits.shape[-1:]

  def _event_shape_tensor(self):
    return tf.shape(self._logits)[-1:]

  def _batch_shape(self):
    return self._logits.shape[:-1]

  def _batch_shape_tensor(self):
    return tf.shape(self._logits)[:-1]

  def _sample_n(self, n, seed=None):
    shape = tf.concat([[n], tf.shape(self._logits)], axis=0)
    uniform = tfp.random.sanitize_seed(seed)
    uniform = tf.random.stateless_uniform(shape, uniform, dtype=self.dtype)
    return actions.sample(self._logits[tf.newaxis], uniform, self._num_choices)

  def _log_prob(self, value):
    return actions.log_probability(self._logits, value, self._num_choices)

  def _entropy(self):
    return actions.entropy(self._logits, self._num_choices)

  def _mode(self):
    return actions.one_hot_argmax(self._logits, self._num_choices)


@tfp.distributions.RegisterKL(OneHotGroups, OneHotGroups)
def _kl_one_hot_groups(a: OneHotGroups, b: OneHotGroups, name=None):
  """Returns KL(a || b), summed over groups."""
  p, log_p, log_q = (
    actions.by_group(fn, logits, a.num_choices)
    for fn, logits in (
      (tf.nn.softmax, a.logits),
      (tf.nn.log_softmax, a.logits),
      (tf.nn.log_softmax, b.logits),
    )
  )
  return tf.reduce_sum(p * (log_p - log_q), axis=-1)


class _FunctionNetwork(Network):
  """A function of features and its weights as a TF-Agents network."""

  def __init__(self, spec, function: Callable, weights: list[tf.Variable], name: str):
    super().__init__(input_tensor_spec=spec, name=name)
    # This is a Keras 2 layer, which must not track a Keras 3 module. Functions hide the module.
    self._function, self._list = function, lambda: list(weights)

  @property
  def trainable_weights(self):
    return self._list()

  def call(self, observation, step_type=None, network_state=(), training=False):
    """Computes the function. See `tf_agents.networks.Network.call`."""
    return self._function(observation), network_state


class _Optimizer:
  """The optimisers of a `GradientLearner`, with the methods that TF-Agents calls."""

  def __init__(self, learner, learning_rate: float):
    self._learner = learner
    self.learning_rate = learning_rate  # TF-Agents writes it into summaries.

  def apply_gradients(self, gradients_and_variables) -> None:
    """Applies gradients with the learner's optimisers."""
    gradients = {variable.ref(): gradient for gradient, variable in gradients_and_variables}
    self._learner.apply_gradients(
      *(
        [gradients[weight.value.ref()] for weight in network.weights]
        for network in (self._learner.policy.network, self._learner.critic.network)
      )
    )


class _PPOAgent(PPOKLPenaltyAgent):
  """A PPO agent that adapts its penalty in `adapt`, not in `train` after every minibatch."""

  def update_adaptive_kl_beta(self, kl_divergence):
    """Does nothing; see the class."""
    return tf.no_op()

  def adapt(self, kl_divergence: tf.Tensor) -> None:
    """Adapts the weight of the penalty to a divergence `float32[]`."""
    super().update_adaptive_kl_beta(kl_divergence)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
  """Hides PPO's warning about optimisers that are not from Keras 2."""
  before = logging.get_verbosity()
  logging.set_verbosity(logging.ERROR)
  try:
    yield
  finally:
    logging.set_verbosity(before)


def make_agent(
  method: str, learner, world_model: WorldModel, config: PolicyGradientConfig, distribution_fn
):
  """Makes the TF-Agents agent of a method.

  Args:
    method: one of `methods.METHODS`.
    learner: a `GradientLearner`, whose networks and optimisers the agent uses.
    world_model: describes features and actions.
    config: a `PPOConfig` for `ppo` and `ppo_clip`, else a `PolicyGradientConfig`.
    distribution_fn: maps features to the distribution of the choice.

  Returns:
    A `TFAgent`.

  Raises:
    MissingTFAgentsError: if TF-Agents is not installed.
  """
  require_tf_agents()
  time_step_spec = make_time_step_spec(world_model)

  def network(function, weights, name):
    variables = [weight.value for weight in weights]
    return _FunctionNetwork(time_step_spec.observation, function, variables, name)

  def value(features):
    return learner.critic.network(features)[..., 0]

  def advantage(returns, value):
    # Without `stop_gradient` the critic would be trained to increase advantages.
    return returns - tf.stop_gradient(value)

  actor_network = network(distribution_fn, learner.policy.network.weights, "actor")
  value_network = network(value, learner.critic.network.weights, "critic")
  entropy_scale = config.entropy_scale if world_model.num_choices else 0.0
  common = dict(
    time_step_spec=time_step_spec,
    action_spec=TensorSpec([world_model.action_size], tf.float32, "choice"),
    optimizer=_Optimizer(learner, config.actor_learning_rate),
    # The default is one variable for the whole process.
    train_step_counter=tf.Variable(0, dtype=tf.int64, trainable=False),
  )
  if method == "reinforce":
    return ReinforceAgent(
      actor_network=actor_network,
      value_network=value_network,
      advantage_fn=advantage,
      gamma=config.discount,
      normalize_returns=True,
      entropy_regularization=entropy_scale or None,
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
    entropy_regularization=entropy_scale,
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


def penalty(agent) -> tf.Variable | None:
  """Returns the weight of the KL penalty, a scalar variable; None if the agent has none.

  Args:
    agent: a result of `make_agent`.
  """
  return getattr(agent, "_adaptive_kl_beta", None)


def adapt_penalty(agent, kl_divergence: tf.Tensor) -> None:
  """Adapts the weight of the KL penalty; does nothing if the agent has none.

  Args:
    agent: a result of `make_agent`.
    kl_divergence: mean divergence of one update in nats, `float32[]`.
  """
  if isinstance(agent, _PPOAgent):
    agent.adapt(kl_divergence)


def make_time_step(step_type, reward, discount, features):
  """Makes a `TimeStep` of TF-Agents.

  Args:
    step_type: `int32[B, T]`.
    reward: `float32[B, T]`.
    discount: `float32[B, T]`.
    features: `float32[B, T, F]`.

  Returns:
    The `TimeStep`.
  """
  return ts.TimeStep(step_type, reward, discount, features)


def make_trajectory(time_step, choice, info, next_step_type, reward, discount):
  """Makes a `Trajectory` of TF-Agents.

  Args:
    time_step: the `TimeStep` before each step, of `[B, T, ...]`.
    choice: the policy's random choice, `float32[B, T, A]`.
    info: the policy's information, a nest of `[B, T, ...]`; `()` for none.
    next_step_type: `int32[B, T]`, after each step.
    reward: `float32[B, T]`, after each step.
    discount: `float32[B, T]`, after each step.

  Returns:
    The `Trajectory`.
  """
  return trajectory.Trajectory(
    step_type=time_step.step_type,
    observation=time_step.observation,
    action=choice,
    policy_info=info,
    next_step_type=next_step_type,
    reward=reward,
    discount=discount,
  )
