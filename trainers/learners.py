"""How a controller is trained in the dream, step by step: by evolution or by imagination.

A learner is compiled once and used again for each iteration's world model: `begin` makes it forget.
"""

from __future__ import annotations

import itertools
from typing import Protocol

import numpy as np
import tensorflow as tf

from wm_tf.config import ControllerConfig
from wm_tf.controllers.actor_critic import Actor, ActorCritic, Critic
from wm_tf.controllers.dream_es import DreamES
from wm_tf.controllers.linear import LinearController, fit_basis
from wm_tf.core import Nest, Policy
from wm_tf.models.world_model import WorldModel
from wm_tf.search.cem import CEM
from wm_tf.search.cma_es import CMAES
from wm_tf.search.open_es import OpenES
from wm_tf.search.strategy import Strategy
from wm_tf.training import checkpoints


class Learner(Protocol):
  """Trains one policy.

  Attributes:
    title: what it does, for progress bars.
    policy: what is trained.
    critic: what it expects of a state, or None if it does not say.
    shown: metrics of the progress bar.
  """

  title: str
  policy: Policy
  critic: Critic | None
  shown: tuple[str, ...]

  def begin(self, features: np.ndarray, previous: Nest | None) -> int:
    """Starts over, or from an earlier policy.

    Args:
      features: real ones, `float32[M, F]`, to scale the inputs by.
      previous: `policy_state` of the iteration before, or None if its features meant other things.

    Returns:
      How many steps to do.
    """

  def state(self) -> Nest:
    """All that a checkpoint holds."""

  def restore(self, state: Nest) -> None:
    """Goes on from what `state` gave."""

  def step(self, starts: Nest, seed: tf.Tensor) -> dict[str, float]:
    """Learns from one batch of dreams that begin among `starts`; returns metrics."""

  def finish(self) -> None:
    """Puts what was learned into `policy`."""

  def policy_state(self) -> Nest:
    """What `controller.npz` holds."""

  def restore_policy(self, state: Nest) -> None:
    """Makes `policy` what it was when `policy_state` gave this."""


def make_strategy(settings: ControllerConfig) -> Strategy:
  """The search that evolution uses."""
  common = dict(num_candidates=settings.population_size, initial_scale=settings.initial_scale)
  makers = {
    "cma_es": lambda: CMAES(**common),
    "sep_cma_es": lambda: CMAES(separable=True, **common),
    "open_es": lambda: OpenES(**common),
    "cem": lambda: CEM(num_elites=max(2, settings.population_size // 4), **common),
  }
  return makers[settings.strategy]()


def make_learner(world_model: WorldModel, settings: ControllerConfig, seed: int) -> Learner:
  """The learner that `controller.method` names."""
  if settings.method == "actor_critic":
    return Imagination(world_model, settings, seed)
  return Evolution(world_model, settings)


class Evolution:
  """A linear controller, evolved."""

  title = "evolve"
  critic = None
  shown = ("dream/return_mean",)

  def __init__(self, world_model: WorldModel, settings: ControllerConfig):
    components = settings.hidden_components
    self._latent_size = world_model.latent_size
    self._components = None if components < 0 else components
    basis_size = None if components < 0 else world_model.latent_size + components
    self.policy = LinearController(world_model, basis_size)
    self._num_generations = settings.num_generations
    self._strategy = make_strategy(settings)
    self._es = DreamES(world_model, self.policy, self._strategy, settings.dream)
    self._search = self._first()

  def _first(self):
    return self._strategy.init(tf.zeros([1, self.policy.num_parameters]))

  def begin(self, features, previous):
    # Not from `previous`: a search that goes on from a controller that exploits its dream stalls.
    loc, matrix = fit_basis(features, self._latent_size, self._components)
    self.policy.loc.assign(loc)
    self.policy.matrix.assign(matrix)
    self._search = self._first()
    return self._num_generations

  def state(self):
    return self._search

  def restore(self, state):
    self._search = state

  def step(self, starts, seed):
    self._search, report = self._es.generation(self._search, starts, seed)
    return {
      "dream/return_best": float(report.best),
      "dream/return_mean": float(report.mean),
      "dream/alive": float(report.alive),
    }

  def finish(self):
    self.policy.parameters.assign(self._strategy.mean(self._search)[0])

  def policy_state(self):
    policy = self.policy
    return {
      "basis_loc": policy.loc.numpy(),
      "basis_matrix": policy.matrix.numpy(),
      "parameters": policy.parameters.numpy(),
    }

  def restore_policy(self, state):
    self.policy.loc.assign(state["basis_loc"])
    self.policy.matrix.assign(state["basis_matrix"])
    self.policy.parameters.assign(state["parameters"])


class Imagination:
  """A multilayer perceptron and its critic, trained by the gradient of dreamed returns."""

  title = "imagine"
  shown = ("dream/return_mean", "dream/value")

  def __init__(self, world_model: WorldModel, settings: ControllerConfig, seed: int):
    config = settings.actor_critic
    self._config = config
    self.policy = Actor(world_model, config.actor_hidden_sizes, seed)
    self.critic = Critic(
      world_model, config.critic_hidden_sizes, config.reward_scale, config.discount, seed
    )
    self._learning = ActorCritic(world_model, self.policy, self.critic, config)
    self._fresh = self.state()

  def begin(self, features, previous):
    self.restore(self._fresh)
    if previous is None or not self._config.num_further_updates:
      self._learning.standardise(features)
      return self._config.num_updates
    self.restore_policy(previous)
    self._learning.trust_critic()
    return self._config.num_further_updates

  def state(self):
    return tf.nest.map_structure(lambda variable: variable.numpy(), self._learning.state())

  def restore(self, state):
    _assign(self._learning.state(), state)

  def step(self, starts, seed):
    report = self._learning.update(starts, seed)
    return {
      "dream/return_mean": float(report.imagined_return),
      "dream/value": float(report.value),
      "dream/critic_loss": float(report.critic_loss),
      "dream/actor_gradient_norm": float(report.actor_gradient_norm),
    }

  def finish(self):
    pass  # The policy itself is what learns.

  def policy_state(self):
    networks = {"actor": self.policy.network.state(), "critic": self.critic.network.state()}
    return tf.nest.map_structure(lambda variable: variable.numpy(), networks)

  def restore_policy(self, state):
    networks = {"actor": self.policy.network.state(), "critic": self.critic.network.state()}
    _assign(networks, state)


def _assign(variables: Nest, values: Nest) -> None:
  variables, values = map(checkpoints.flatten_with_path, (variables, values))
  for (name, variable), value in itertools.zip_longest(
    variables.items(), values.values(), fillvalue=None
  ):
    try:
      variable.assign(value)
    except (ValueError, AttributeError) as error:
      raise checkpoints.CheckpointMismatchError(f"{name}: {error}") from error
