"""The interface of learners, which train a policy in the world model, and their registry.

One learner serves all iterations of a run so that its functions are compiled once; `begin` resets
it for each iteration's world model. To add a learner, write a class and register it in `LEARNERS`.
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
    policy: the policy that is trained.
    critic: estimates the policy's return from a state; None if the learner has no critic.
    shown: names of the metrics that the progress bar shows.
    model_steps: number of imagined steps in one learning step.
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
      world_model: the world model to train in.
      settings: the configuration; a learner reads the fields of its own method.
      seed: seed of the initial weights.

    Returns:
      The learner.
    """

  @classmethod
  def check(cls, settings: ControllerConfig, world_model: WorldModel) -> None:
    """Checks that settings can train a policy in a world model.

    A run calls this before it collects data.

    Args:
      settings: the configuration.
      world_model: trained or untrained; its weights are not used.

    Raises:
      ConfigError: if they cannot.
    """

  def begin(
    self,
    features: np.ndarray,
    previous: Nest | None,
    rewards: Sequence[np.ndarray] | None = None,
  ) -> int:
    """Starts from new weights, or from an earlier policy.

    Args:
      features: real features `float32[M, F]` that set the scale of the policy's inputs.
      previous: `policy_state` of the previous iteration; None if there is none, or if the features
        now mean something else.
      rewards: rewards of real episodes, each `float32[T]`, that set the reward scale; None if there
        are none.

    Returns:
      The number of steps to take.
    """

  def anneal_over(self, num_steps: int) -> None:
    """Sets the number of steps over which schedules, such as action noise, decay.

    Args:
      num_steps: replaces the number that `begin` returned.
    """

  def state(self) -> Nest:
    """Returns the complete state, which a checkpoint holds for an exact resume."""

  def restore(self, state: Nest) -> None:
    """Restores a state.

    Args:
      state: a result of `state`.
    """

  def step(self, starts: Nest, seed: tf.Tensor) -> dict[str, float]:
    """Learns from one batch of imagined rollouts.

    Args:
      starts: M >= 1 world model states that rollouts start from.
      seed: `int32[2]`.

    Returns:
      Metrics by name.
    """

  def finish(self) -> None:
    """Copies the learned parameters into `policy`."""

  def figures(self, starts: Nest, seed: tf.Tensor) -> dict[str, float]:
    """Measures what was learned, after `finish`.

    Args:
      starts: as in `step`.
      seed: `int32[2]`.

    Returns:
      Figures by name; see `critic_figures`. Empty if the learner has no critic.
    """

  def distribution(self) -> Nest | None:
    """Returns the `covariance` that another search can start from; None if there is none."""

  def policy_state(self) -> Nest:
    """Returns the policy's parameters, which `controller.npz` holds."""

  def restore_policy(self, state: Nest) -> None:
    """Restores the policy's parameters.

    Args:
      state: a result of `policy_state`.
    """


# Keys are values of `controller.method`. Learners are paths, so that a method is imported only if
# it is used: imports take seconds, and libraries of unused methods need not be installed.
# To add a learner: `LEARNERS.register("mine", MyLearner)`.
LEARNERS = Registry("learner")
LEARNERS.register("es", "wm_tf.learners.evolution:Evolution")
LEARNERS.register("actor_critic", "wm_tf.learners.actor_critic:ActorCritic")
for _method in ("ppo", "ppo_clip", "reinforce"):
  LEARNERS.register(_method, "wm_tf.learners.policy_gradients.training:PolicyGradient")


def make_learner(world_model: WorldModel, settings: ControllerConfig, seed: int) -> Learner:
  """Makes the learner that `controller.method` names.

  Args:
    world_model: the world model to train in.
    settings: the configuration of the controller.
    seed: seed of the initial weights.

  Returns:
    The learner.

  Raises:
    UnknownNameError: for an unknown method.
  """
  return LEARNERS.get(settings.method).from_settings(world_model, settings, seed)


def check_learner(settings: ControllerConfig, world_model: WorldModel) -> None:
  """Checks that settings can train a policy in a world model, before data are collected.

  Args:
    settings: the configuration of the controller.
    world_model: trained or untrained; its weights are not used.

  Raises:
    ConfigError: if they cannot; the message names the field and how to fix it.
  """
  LEARNERS.get(settings.method).check(settings, world_model)
