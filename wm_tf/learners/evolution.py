"""A controller that is evolved in the dream."""

from __future__ import annotations

import tensorflow as tf

from wm_tf.learners.config import ControllerConfig
from wm_tf.learners.dream_es import DreamES
from wm_tf.models.world_model import WorldModel
from wm_tf.policies.linear import LinearController, fit_basis
from wm_tf.search.cem import CEM
from wm_tf.search.cma_es import CMAES, CMAESState
from wm_tf.search.open_es import OpenES
from wm_tf.search.strategy import Strategy
from wm_tf.training import checkpoints


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


class Evolution:
  """A linear controller, evolved."""

  title = "evolve"
  critic = None
  shown = ("dream/return_mean",)

  def __init__(self, world_model: WorldModel, settings: ControllerConfig, seed: int = 0):
    """Makes a learner.

    Args:
      world_model: what it dreams in.
      settings: how; its `actor_critic` is not for it.
      seed: not used; a search begins with nothing random.
    """
    del seed
    components = settings.hidden_components
    self._latent_size = world_model.latent_size
    self._components = None if components < 0 else components
    basis_size = None if components < 0 else world_model.latent_size + components
    self.policy = LinearController(world_model, basis_size)
    self._num_generations = settings.num_generations
    dream = settings.dream
    self.model_steps = settings.population_size * dream.num_rollouts * dream.horizon
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

  def expect(self, num_steps):
    pass  # Nothing falls.

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

  def distribution(self):
    if not isinstance(self._search, CMAESState):
      return None
    return {"covariance": self._search.covariance[0].numpy()}

  def _variables(self):
    policy = self.policy
    return {
      "basis_loc": policy.loc,
      "basis_matrix": policy.matrix,
      "parameters": policy.parameters,
    }

  def policy_state(self):
    return checkpoints.values(self._variables())

  def restore_policy(self, state):
    checkpoints.assign(self._variables(), state)
