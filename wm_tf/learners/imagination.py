"""A controller that learns by the gradient of what it dreams."""

from __future__ import annotations

from wm_tf.learners.actor_critic import Actor, ActorCritic, Critic
from wm_tf.learners.config import ControllerConfig
from wm_tf.learners.gradient_config import GradientConfig
from wm_tf.models.world_model import WorldModel
from wm_tf.training import checkpoints


class Imagination:
  """A multilayer perceptron and its critic, trained by the gradient of dreamed returns."""

  title = "imagine"
  shown = ("dream/return_mean", "dream/value")

  def __init__(self, world_model: WorldModel, settings: ControllerConfig, seed: int):
    """Makes a learner.

    Args:
      world_model: what it dreams in.
      settings: how; only its `actor_critic` is for it.
      seed: of initial weights.
    """
    self._make_networks(world_model, settings.actor_critic, seed)
    self._learning = ActorCritic(world_model, self.policy, self.critic, self._config)
    self._fresh = self.state()

  def _make_networks(self, world_model: WorldModel, config: GradientConfig, seed: int) -> None:
    self._config = config
    self.policy = Actor(world_model, config.actor_hidden_sizes, seed)
    self.critic = Critic(
      world_model, config.critic_hidden_sizes, config.reward_scale, config.discount, seed
    )

  @property
  def model_steps(self):
    return self._config.batch_size * self._config.horizon

  def begin(self, features, previous):
    self.restore(self._fresh)
    if previous is None or not self._config.num_further_updates:
      num_updates = self._config.num_updates
      self._learning.standardise(features)
    else:
      num_updates = self._config.num_further_updates
      self.restore_policy(previous)
      self._learning.trust_critic()
    self.expect(num_updates)
    return num_updates

  def expect(self, num_steps):
    self._learning.anneal_over(num_steps)

  def state(self):
    return checkpoints.values(self._learning.state())

  def restore(self, state):
    checkpoints.assign(self._learning.state(), state)

  def step(self, starts, seed):
    report = self._learning.update(starts, seed)
    return {f"dream/{name}": float(value) for name, value in report._asdict().items()}

  def finish(self):
    pass  # The policy itself is what learns.

  def distribution(self):
    return None

  def _networks(self):
    return {"actor": self.policy.network.state(), "critic": self.critic.network.state()}

  def policy_state(self):
    return checkpoints.values(self._networks())

  def restore_policy(self, state):
    checkpoints.assign(self._networks(), state)
