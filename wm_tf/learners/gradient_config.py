"""What learners by gradients of dreams have in common: the settings."""

from __future__ import annotations

import dataclasses

from wm_tf.checks import check_at_least, check_counts, check_positive, check_shares


@dataclasses.dataclass(frozen=True)
class GradientConfig:
  """How an actor and its critic learn from dreams.

  Attributes:
    num_updates: batches of dreams, each learned from and thrown away.
    num_further_updates: updates that go on from the networks of the iteration before, when only
      the dynamics has been refitted since; 0 to start over even then.
    batch_size: dreams per update.
    horizon: decisions per dream; the critic stands for what comes after.
    temperature: uncertainty of the dream.
    discount: factor per decision, on top of the model's own.
    action_noise: standard deviation of the noise on the actor's output, before its tanh, at the
      first update. Much of it finds the ways out of where the actor would stay for ever.
    final_action_noise: the same at the last update; in between it falls linearly.
    reward_scale: factor on rewards that brings values to the order of one.
    disagreement_penalty: what a step costs for each unit of disagreement beyond the usual, in units
      of reward; see `WorldModel.unfamiliarity`.
    actor_learning_rate, critic_learning_rate: of Adam.
    target_rate: how far the slow critic, which makes the targets, follows the critic in an update.
    clip_norm: bound on the norm of each network's gradient.
    actor_hidden_sizes, critic_hidden_sizes: hidden layers.
  """

  num_updates: int
  num_further_updates: int = 0
  batch_size: int = 128
  horizon: int = 20
  temperature: float = 1.0
  discount: float = 0.99
  action_noise: float = 0.6
  final_action_noise: float = 0.2
  reward_scale: float = 0.1
  disagreement_penalty: float = 0.0
  actor_learning_rate: float = 3e-4
  critic_learning_rate: float = 1e-3
  target_rate: float = 0.02
  clip_norm: float = 10.0
  actor_hidden_sizes: tuple[int, ...] = (64, 64)
  critic_hidden_sizes: tuple[int, ...] = (128, 128)

  def __post_init__(self):
    check_counts(self, "num_updates", "batch_size", "horizon")
    check_at_least(0, self, "num_further_updates", "disagreement_penalty")
    check_at_least(0, self, "action_noise", "final_action_noise")
    check_positive(self, "clip_norm")
    check_shares(self, "discount", "target_rate")
