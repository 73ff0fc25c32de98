"""How a policy is trained in the dream, step by step: the seam, and its kinds by name.

A learner is compiled once and used again for each iteration's world model: `begin` makes it forget.
Another kind is a class of its own and one call:

    register_learner("mine", MyLearner)
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np
import tensorflow as tf

from wm_tf.core import Nest, Policy
from wm_tf.models.world_model import WorldModel
from wm_tf.policies.actor import Critic

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


# By `controller.method`: classes, or where they are, since TensorFlow takes seconds to load and an
# unused method's libraries need not be installed.
_LEARNERS: dict[str, type[Learner] | str] = {
  "es": "wm_tf.learners.evolution:Evolution",
  "actor_critic": "wm_tf.learners.actor_critic:ActorCritic",
  "ppo": "wm_tf.learners.policy_gradients.training:PolicyGradient",
  "ppo_clip": "wm_tf.learners.policy_gradients.training:PolicyGradient",
  "reinforce": "wm_tf.learners.policy_gradients.training:PolicyGradient",
}


def register_learner(name: str, learner: type[Learner] | str) -> None:
  """Adds a method.

  Args:
    name: what `controller.method` chooses it by.
    learner: a class, or `package.module:Class`.

  Raises:
    ValueError: if the name is taken.
  """
  if name in _LEARNERS:
    raise ValueError(f"A learner named {name!r} exists already.")
  _LEARNERS[name] = learner


def learner_names() -> tuple[str, ...]:
  """Returns the names that `controller.method` can have."""
  return tuple(_LEARNERS)


def learner_class(method: str) -> type[Learner]:
  """Returns the class of a method's learner.

  Raises:
    ValueError: for an unknown name.
  """
  if method not in _LEARNERS:
    raise ValueError(f"controller.method must be one of {', '.join(_LEARNERS)}, not {method!r}.")
  learner = _LEARNERS[method]
  if isinstance(learner, str):
    module, _, name = learner.partition(":")
    learner = getattr(importlib.import_module(module), name)
  return learner


def make_learner(world_model: WorldModel, settings: ControllerConfig, seed: int) -> Learner:
  """Makes the learner that `controller.method` names.

  Args:
    world_model: what it dreams in.
    settings: how it learns.
    seed: of the initial weights.
  """
  return learner_class(settings.method).from_settings(world_model, settings, seed)


def check_learner(settings: ControllerConfig, world_model: WorldModel) -> None:
  """Raises `ConfigError` for settings that could not train a policy in `world_model`.

  Args:
    settings: of the controller.
    world_model: untrained or trained.
  """
  learner_class(settings.method).check(settings, world_model)
