"""A learner that evolves a linear controller in the world model."""

from __future__ import annotations

from typing import TYPE_CHECKING

import tensorflow as tf

from wm_tf.checks import ConfigError
from wm_tf.learners.dream_es import DreamES
from wm_tf.models.world_model import WorldModel
from wm_tf.policies.linear import LinearController, fit_basis
from wm_tf.search.cma_es import CMAESState
from wm_tf.search.named import make_search
from wm_tf.search.strategy import Strategy
from wm_tf.training import checkpoints

if TYPE_CHECKING:
  from wm_tf.learners.config import ControllerConfig


def make_strategy(settings: ControllerConfig) -> Strategy:
  """Makes the search that evolution uses.

  Args:
    settings: the configuration of the controller.

  Returns:
    The search.

  Raises:
    ValueError: if the settings contradict each other.
  """
  return make_search(
    settings.strategy,
    num_candidates=settings.population_size,
    initial_scale=settings.initial_scale,
    num_elites=max(2, settings.population_size // 4),
  )


class Evolution:
  """The `Learner` that evolves a `LinearController`."""

  title = "evolve"
  critic = None
  shown = ("dream/return_mean",)

  def __init__(self, world_model: WorldModel, settings: ControllerConfig):
    """Makes a learner.

    Args:
      world_model: the world model to train in.
      settings: the configuration; settings of gradient learners are not used.
    """
    self._world_model = world_model
    components = settings.hidden_components
    self._components = None if components < 0 else components
    num_centred = int(world_model.only_centred_features().sum())
    self.policy = LinearController(
      world_model, None if components < 0 else num_centred + components
    )
    self._num_generations = settings.num_generations
    dream = settings.dream
    self.model_steps = settings.population_size * dream.num_rollouts * dream.horizon
    self._strategy = make_strategy(settings)
    self._es = DreamES(world_model, self.policy, self._strategy, settings.dream)
    self._search = self._first()

  @classmethod
  def from_settings(cls, world_model: WorldModel, settings: ControllerConfig, seed: int):
    """Makes a learner; `seed` is not used. See `Learner.from_settings`."""
    del seed
    return cls(world_model, settings)

  @classmethod
  def check(cls, settings: ControllerConfig, world_model: WorldModel) -> None:
    """Checks `hidden_components` and the settings of the search. See `Learner.check`."""
    components = settings.hidden_components
    largest = int((~world_model.only_centred_features()).sum())
    if components > largest:
      raise ConfigError(
        f"controller.hidden_components={components}: the world model has only {largest} hidden "
        f"units. Use at most {largest}, or -1 for all of them."
      )
    if components > 2 * settings.num_starts:
      raise ConfigError(
        f"controller.hidden_components={components} needs as many real states; raise "
        f"controller.num_starts={settings.num_starts} to at least {-(-components // 2)}."
      )
    try:
      make_strategy(settings)
    except ValueError as error:
      raise ConfigError(f"controller: {error}") from error

  def _first(self):
    return self._strategy.init(tf.zeros([1, self.policy.num_parameters]))

  def begin(self, features, previous, rewards=None):
    """Fits the basis and starts a new search; `previous` is not used. See `Learner.begin`."""
    # A search stalls if it starts from a controller that exploits its dream.
    del previous, rewards
    only_centred = self._world_model.only_centred_features()
    loc, matrix = fit_basis(features, only_centred, self._components)
    self.policy.loc.assign(loc)
    self.policy.matrix.assign(matrix)
    self._search = self._first()
    return self._num_generations

  def anneal_over(self, num_steps):
    """Does nothing, because evolution has no schedule. See `Learner.anneal_over`."""
    pass

  def state(self):
    """Returns the state of the search. See `Learner.state`."""
    return self._search

  def restore(self, state):
    """Restores the state of the search. See `Learner.restore`."""
    self._search = state

  def step(self, starts, seed):
    """Runs one generation. See `Learner.step`."""
    self._search, report = self._es.generation(self._search, starts, seed)
    return {
      "dream/return_best": float(report.best),
      "dream/return_mean": float(report.mean),
      "dream/alive": float(report.alive),
    }

  def finish(self):
    """Copies the mean of the search distribution into `policy`. See `Learner.finish`."""
    self.policy.parameters.assign(self._strategy.mean(self._search)[0])

  def figures(self, starts, seed):
    """Returns no figures, because evolution has no critic. See `Learner.figures`."""
    return {}

  def distribution(self):
    """Returns the covariance `[D, D]`, or its diagonal `[D]`; None without CMA-ES.

    See `Learner.distribution`.
    """
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
    """Returns the basis and the parameters of the controller. See `Learner.policy_state`."""
    return checkpoints.values(self._variables())

  def restore_policy(self, state):
    """Restores the basis and the parameters. See `Learner.restore_policy`."""
    checkpoints.assign(self._variables(), state)
