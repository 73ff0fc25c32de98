"""Settings of the policy gradient methods."""

from __future__ import annotations

import dataclasses

from wm_tf.checks import check_counts, check_positive, check_shares
from wm_tf.learners.gradients import GradientConfig

METHODS = ("ppo", "ppo_clip", "reinforce")


@dataclasses.dataclass(frozen=True)
class PolicyGradientConfig(GradientConfig):
  """Settings of REINFORCE: a `GradientConfig` for gradients of the actor's log-probability."""

  num_updates: int = 2000
  horizon: int = 20

  def __post_init__(self):
    super().__post_init__()
    # Without noise, continuous actions have no density.
    check_positive(self, "action_noise", "final_action_noise")


@dataclasses.dataclass(frozen=True)
class PPOConfig(PolicyGradientConfig):
  """Settings of PPO, which takes several gradient steps on the same dreams.

  Attributes:
    lambda_: lambda of the generalised advantage estimate, in [0, 1].
    num_epochs: passes over all decisions of a batch.
    num_minibatches: gradient steps in each pass.
    clip_range: largest relative change of a probability that the objective rewards (`ppo_clip`).
    kl_target: target of the KL divergence of one update, in nats (`ppo`).
    kl_coefficient: initial weight of the KL penalty (`ppo`).
  """

  num_updates: int = 400
  batch_size: int = 256
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
