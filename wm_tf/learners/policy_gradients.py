"""A controller that learns by policy gradients, with TF-Agents."""

from __future__ import annotations

import functools

from wm_tf.checks import ConfigError
from wm_tf.learners import dream_rollouts as policy_gradient
from wm_tf.learners.config import ControllerConfig
from wm_tf.learners.imagination import Imagination
from wm_tf.models.world_model import WorldModel


def check_method(settings: ControllerConfig) -> None:
  """Raises `ConfigError` if `controller.method` needs what is not installed."""
  if settings.method in policy_gradient.METHODS:
    # TF-Agents takes seconds to load.
    from wm_tf.learners.tf_agents_environment import MissingTFAgentsError, require_tf_agents

    try:
      require_tf_agents()
    except MissingTFAgentsError as error:
      raise ConfigError(f"controller.method={settings.method}: {error}") from error


class PolicyGradients(Imagination):
  """The networks of imagination, trained by PPO or REINFORCE in the same dreams.

  Only to train them takes TF-Agents: what was trained plays, and is exported, without it.
  """

  shown = ("dream/return_mean", "dream/value", "dream/action_noise")

  def __init__(self, world_model: WorldModel, settings: ControllerConfig, seed: int):
    """Makes a learner.

    Args:
      world_model: what it dreams in.
      settings: how; its `method`, and its `ppo` or its `reinforce`, are for it.
      seed: of initial weights.
    """
    config = settings.reinforce if settings.method == "reinforce" else settings.ppo
    self.title = settings.method
    self._world_model = world_model
    self._make_networks(world_model, config, seed)
    self._initial = self.policy_state()

  @functools.cached_property
  def _learning(self):
    from wm_tf.learners.tf_agents_learning import PolicyGradient

    return PolicyGradient(self.title, self._world_model, self.policy, self.critic, self._config)

  @functools.cached_property
  def _fresh(self):
    self.restore_policy(self._initial)
    return self.state()
