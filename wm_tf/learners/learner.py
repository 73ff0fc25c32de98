"""How a policy is trained in the dream, step by step: the seam, and its kinds by name.

A learner is compiled once and used again for each iteration's world model: `begin` makes it forget.
Another kind of learner is a class and one registration in `LEARNERS`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np
import tensorflow as tf

from wm_tf.core import Nest, Policy
from wm_tf.models.world_model import WorldModel
from wm_tf.policies.actor import Critic
from wm_tf.registry import Registry

if TYPE_CHECKING:
  from wm_tf.learners.config import ControllerConfig


class Learner(Protocol):
  """Trains one policy.

  Attributes:
    title: a verb for progress bars.
    policy: what is trained.
    critic: estimates the policy's return from a state; None if the learner has no critic.
    shown: metrics of the progress bar.
    model_steps: imagined steps of one learning step.
  """

  title: str
  policy: Policy
  critic: Critic | None
  shown: tuple[str, ...]
  model_steps: int

  @classmethod
  def from_settings(cls, world_model: WorldModel, settings: ControllerConfig, seed: int) -> Learner:
    """Makes a learner.

    Args:
      world_model: what it dreams in.
      settings: how it learns; it reads the fields of its own method.
      seed: of the initial weights.
    """

  @classmethod
  def check(cls, settings: ControllerConfig, world_model: WorldModel) -> None:
    """Raises `ConfigError` for settings that could not train a policy in `world_model`.

    A run calls this before it collects data; the weights of `world_model` do not matter.
    """

  def begin(
    self,
    features: np.ndarray,
    previous: Nest | None,
    rewards: Sequence[np.ndarray] | None = None,
  ) -> int:
    """Starts from new weights, or from an earlier policy.

    Args:
      features: real features `float32[M, F]`, which the policy's inputs are scaled by.
      previous: `policy_state` of the previous iteration; None if there is none, or if its features
        had another meaning.
      rewards: of real episodes, each `float32[T]`, from which a reward scale may be derived.

    Returns:
      The number of steps to take.
    """

  def anneal_over(self, num_steps: int) -> None:
    """Sets the number of steps over which schedules decay, in place of the result of `begin`."""

  def state(self) -> Nest:
    """Returns everything that a checkpoint holds for an exact resume."""

  def restore(self, state: Nest) -> None:
    """Restores what `state` returned."""

  def step(self, starts: Nest, seed: tf.Tensor) -> dict[str, float]:
    """Learns from one batch of dreams.

    Args:
      starts: M >= 1 states that the dreams begin from.
      seed: `int32[2]`.

    Returns:
      Metrics by name.
    """

  def finish(self) -> None:
    """Copies what was learned into `policy`."""

  def distribution(self) -> Nest | None:
    """Returns the `covariance` that another search can start from; None if there is none."""

  def policy_state(self) -> Nest:
    """Returns what `controller.npz` holds."""

  def restore_policy(self, state: Nest) -> None:
    """Restores what `policy_state` returned."""


# By `controller.method`. Paths, since TensorFlow takes seconds to load and an unused method's
# libraries need not be installed. Another learner: `LEARNERS.register("mine", MyLearner)`.
LEARNERS = Registry("learner")
LEARNERS.register("es", "wm_tf.learners.evolution:Evolution")
LEARNERS.register("actor_critic", "wm_tf.learners.actor_critic:ActorCritic")
for _method in ("ppo", "ppo_clip", "reinforce"):
  LEARNERS.register(_method, "wm_tf.learners.policy_gradients.training:PolicyGradient")


def make_learner(world_model: WorldModel, settings: ControllerConfig, seed: int) -> Learner:
  """Makes the learner that `controller.method` names.

  Args:
    world_model: what it dreams in.
    settings: how it learns.
    seed: of the initial weights.

  Raises:
    UnknownNameError: for an unknown method.
  """
  return LEARNERS.get(settings.method).from_settings(world_model, settings, seed)


def check_learner(settings: ControllerConfig, world_model: WorldModel) -> None:
  """Checks that settings can train a policy in a world model, before data are collected.

  Args:
    settings: of the controller.
    world_model: untrained or trained; its weights do not matter.

  Raises:
    ConfigError: if they cannot; the message names the field and the remedy.
  """
  LEARNERS.get(settings.method).check(settings, world_model)
