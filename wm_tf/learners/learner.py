"""How a controller is trained in the dream, step by step: the seam, and its kinds by name.

A learner is compiled once and used again for each iteration's world model: `begin` makes it forget.
Another kind is a file of its own, a line in `_LEARNERS` and its name in `wm_tf.config.METHODS`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np
import tensorflow as tf

from wm_tf.core import Nest, Policy
from wm_tf.learners import dream_rollouts as policy_gradient
from wm_tf.learners.config import ControllerConfig
from wm_tf.learners.evolution import Evolution
from wm_tf.learners.imagination import Imagination
from wm_tf.learners.policy_gradients import PolicyGradients
from wm_tf.models.world_model import WorldModel
from wm_tf.policies.actor import Critic


class Learner(Protocol):
  """Trains one policy.

  Attributes:
    title: what it does, for progress bars.
    policy: what is trained.
    critic: what it expects of a state, or None if it does not say.
    shown: metrics of the progress bar.
    model_steps: imagined steps that one step of learning takes.
  """

  title: str
  policy: Policy
  critic: Critic | None
  shown: tuple[str, ...]
  model_steps: int

  def begin(self, features: np.ndarray, previous: Nest | None) -> int:
    """Starts over, or from an earlier policy.

    Args:
      features: real ones, `float32[M, F]`, to scale the inputs by.
      previous: `policy_state` of the iteration before, or None if its features meant other things.

    Returns:
      How many steps to do.
    """

  def expect(self, num_steps: int) -> None:
    """Lets what falls from step to step, as noise does, fall over so many, not over `begin`'s."""

  def state(self) -> Nest:
    """All that a checkpoint holds."""

  def restore(self, state: Nest) -> None:
    """Goes on from what `state` gave."""

  def step(self, starts: Nest, seed: tf.Tensor) -> dict[str, float]:
    """Learns from one batch of dreams that begin among `starts`; returns metrics."""

  def finish(self) -> None:
    """Puts what was learned into `policy`."""

  def distribution(self) -> Nest | None:
    """What another search may go on from, a `covariance`; None if nothing was searched by one."""

  def policy_state(self) -> Nest:
    """What `controller.npz` holds."""

  def restore_policy(self, state: Nest) -> None:
    """Makes `policy` what it was when `policy_state` gave this."""


# By `controller.method`.
_LEARNERS: dict[str, Callable[[WorldModel, ControllerConfig, int], Learner]] = {
  "es": Evolution,
  "actor_critic": Imagination,
  **dict.fromkeys(policy_gradient.METHODS, PolicyGradients),
}


def make_learner(world_model: WorldModel, settings: ControllerConfig, seed: int) -> Learner:
  """The learner that `controller.method` names.

  Args:
    world_model: what it dreams in.
    settings: how.
    seed: of initial weights.
  """
  return _LEARNERS[settings.method](world_model, settings, seed)
