"""Finishes a trained controller: a search around it in the real environment."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from wm_tf import actions
from wm_tf.agent import Agent, restart, step_seeds
from wm_tf.checks import check_at_least, check_choice, check_positive
from wm_tf.core import EnvSpec
from wm_tf.data.collect import run_episodes
from wm_tf.data.env_pool import EnvPool
from wm_tf.learners.search_space import PARAMETERS as PARAMETERS
from wm_tf.learners.search_space import SearchSpace as SearchSpace
from wm_tf.models.world_model import WorldModel
from wm_tf.search.cma_es import CMAES, CMAESState
from wm_tf.search.named import check_search, make_search

_SEEDS = 1 << 31  # The code of an episode is `candidate * _SEEDS + seed`.


@dataclasses.dataclass(frozen=True)
class FinishConfig:
  """How a trained controller is finished in the real environment.

  Attributes:
    strategy: `cma_es`, or `sep_cma_es` with a diagonal covariance.
    parameters: the parameters to search: `output`, an affine map of the policy's raw outputs
      (A^2 + A numbers, which need few episodes); the `last` layer; or `all` layers.
    population_size: N, candidates per generation.
    num_generations: number of generations; it may be raised later.
    initial_scale: standard deviation of the first generation, in units of the root mean square of
      each layer's weights (`output`: of a gain of 1).
    num_seeds: S, real episodes per candidate; all candidates of a generation share the seeds.
    first_share: share of the seeds after which the worse half of the candidates stops; 1 for never.
    validate_every: generations between two validations.
    validation_episodes: episodes per validated candidate, always on the same seeds.
  """

  strategy: str = "cma_es"
  parameters: str = "output"
  population_size: int = 8
  num_generations: int = 15
  initial_scale: float = 0.1
  num_seeds: int = 12
  first_share: float = 0.5
  validate_every: int = 5
  validation_episodes: int = 40

  def __post_init__(self):
    check_search(self, "strategy", "finish")
    check_choice(self, "parameters", PARAMETERS, group="finish.")
    check_at_least(4, self, "population_size")
    check_at_least(1, self, "num_seeds")
    check_positive(
      self, "num_generations", "validate_every", "validation_episodes", "initial_scale"
    )
    if not 0 < self.first_share <= 1:
      raise ValueError(f"first_share is a share: above 0 and at most 1, not {self.first_share}.")

  @property
  def num_first_seeds(self) -> int:
    """The number of seeds that all candidates play."""
    return math.ceil(self.first_share * self.num_seeds)

  @property
  def num_episodes(self) -> int:
    """The number of episodes of a generation."""
    kept = -(-self.population_size // 2)
    others = self.num_seeds - self.num_first_seeds
    return self.population_size * self.num_first_seeds + kept * others

  def make_strategy(self) -> CMAES:
    """Returns the search over a `SearchSpace`."""
    return make_search(
      self.strategy, num_candidates=self.population_size, initial_scale=self.initial_scale
    )


def begin(strategy: CMAES, space: SearchSpace, covariance: np.ndarray | None = None) -> CMAESState:
  """Makes the first state of a search, centred on the given controller.

  Args:
    strategy: the search.
    space: the space that is searched.
    covariance: covariance `[D, D]`, or its diagonal `[D]`, of the search that found the controller
      in the dream. Its shape is used but not its size, because the step size in the dream does not
      tell how far the real optimum is. None, or another D, starts from the identity.

  Returns:
    The state, for one problem (B = 1) in float64.
  """
  if covariance is not None and len(covariance) != space.size:
    covariance = None  # It belongs to other parameters.
  origin = tf.zeros([1, space.size], tf.float64)
  return strategy.init(origin, None if covariance is None else covariance[np.newaxis])


# --- Candidates in parallel ----------------------------------------------------------------------


class CandidatePolicy(tf.Module):
  """A `Policy` of many candidates of a `SearchSpace`; a row's memory is its candidate's index.

  Shared layers are computed for the whole batch, searched layers by batched products.
  """

  def __init__(self, world_model: WorldModel, space: SearchSpace, name: str = "candidates"):
    """Creates the policy; every candidate starts as the controller of `space`.

    Args:
      world_model: maps observations to the states that the candidates see.
      space: the candidates.
      name: name of the module.
    """
    super().__init__(name=name)
    self._world_model, self._space = world_model, space
    frozen = space.network.layers[: space.num_frozen]
    self._frozen = [tf.constant(layer) for layer in frozen]
    self._loc, self._matrix = (tf.constant(x, tf.float32) for x in space.network[:2])
    # The unknown first dimension lets the number of candidates change without retracing.
    self._layers = [
      tf.Variable(layer, trainable=False, shape=[None, *layer.shape[1:]])
      for layer in space.layers(np.zeros([1, space.size]))
    ]

  def become(self, x: np.ndarray) -> None:
    """Replaces the candidates.

    Args:
      x: vectors of the new candidates, `[N, D]`.
    """
    for variable, layer in zip(self._layers, self._space.layers(x), strict=True):
      variable.assign(layer)

  def initial_memory(self, batch_size):
    """Returns candidate 0 for every row, `int32[B]`. See `Policy.initial_memory`."""
    return tf.zeros([batch_size], tf.int32)

  def act(self, state, memory, seed=None, explore: bool = False):
    """Returns `float32[B, A]` and the unchanged `memory`, `int32[B]`. See `Policy.act`."""
    x = tf.linalg.matmul(self._world_model.features(state) - self._loc, self._matrix)
    for layer in self._frozen:
      x = tf.nn.silu(tf.linalg.matmul(x, layer[:-1]) + layer[-1])
    for index, variable in enumerate(self._layers):
      layer = tf.gather(variable, memory)
      x = tf.nn.silu(x) if index else x
      x = tf.linalg.matvec(layer[:, :-1], x, transpose_a=True) + layer[:, -1]
    return actions.greedy(x, self._world_model.num_choices), memory


class CandidateActor:
  """An `Actor` for rows of environments, each with the candidate of its episode."""

  def __init__(self, agent: Agent):
    """Makes an actor from an agent whose policy is a `CandidatePolicy`."""
    self._agent, self._state = agent, None

    @tf.function(autograph=False)
    def act(observation, state, is_first, seed, candidate):
      state = restart(agent, state, is_first)._replace(memory=candidate)
      return agent.act(observation, state, seed)

    self._act = act

  def begin(self, rows: int) -> None:
    """Starts `rows` rows. See `Actor.begin`."""
    self._state = self._agent.initial_state(rows)
    self._steps = np.zeros(rows, np.int64)

  def act(self, observation, is_first, seeds, infos=None) -> np.ndarray:
    """Acts; `seeds` are codes of candidates and seeds. See `Actor.act`."""
    candidate, seeds = np.divmod(seeds, _SEEDS)
    self._steps = np.where(is_first, 0, self._steps + 1)
    action, self._state = self._act(
      tf.nest.map_structure(tf.constant, observation),
      self._state,
      tf.constant(is_first),
      tf.constant(step_seeds(seeds, self._steps)),  # The same noise for all candidates.
      tf.constant(candidate, tf.int32),
    )
    return action.numpy()


class CandidatePool(EnvPool):
  """An `EnvPool` that resets environments with the seed of an episode's code."""

  def reset(self, row: int, seed: int) -> None:
    """Resets with `seed % _SEEDS`. See `EnvPool.reset`."""
    super().reset(row, seed % _SEEDS)


# --- Selection -----------------------------------------------------------------------------------


def race(
  play_fn: Callable[[Sequence[int], Sequence[int]], np.ndarray],
  num_candidates: int,
  seeds: Sequence[int],
  num_first: int,
) -> np.ndarray:
  """Plays all candidates on the first seeds, and the better half of them on the others.

  The early stop does not bias the selection, because candidates are compared on equal seeds only.
  The better half is chosen by means over the first seeds and ranked by means over all S seeds. The
  other candidates rank below it, by the first seeds. Seeds are new in every generation, so no
  candidate gains by suiting the first ones. CMA-ES uses only ranks and gives the worse half little
  weight. Episodes are never stopped early, because that would change the official return.

  Args:
    play_fn: maps n candidate indices and m seeds to returns `[n, m]`.
    num_candidates: N.
    seeds: S of them.
    num_first: number of first seeds; with S all candidates play all seeds.

  Returns:
    `float64[N, S]`, NaN where nothing was played.
  """
  returns = np.full([num_candidates, len(seeds)], np.nan)
  everyone = np.arange(num_candidates)
  returns[:, :num_first] = play_fn(everyone, seeds[:num_first])
  if num_first < len(seeds):
    best = np.argsort(-returns[:, :num_first].mean(1), kind="stable")
    kept = np.sort(best[: -(-num_candidates // 2)])
    returns[kept, num_first:] = play_fn(kept, seeds[num_first:])
  return returns


def fitness(returns: np.ndarray) -> np.ndarray:
  """Returns the ranks of candidates, `float64[N]`: N - 1 is the best.

  Args:
    returns: the result of `race`, `float64[N, S]`.
  """
  finished = ~np.isnan(returns[:, -1])
  order = np.lexsort((np.nanmean(returns, axis=1), finished))
  ranks = np.empty(len(returns))
  ranks[order] = np.arange(len(returns))
  return ranks


class Generation(NamedTuple):
  """The results of one generation.

  Attributes:
    best: `float64[D]`, the candidate that ranked first.
    best_return: its mean return over S episodes, which the selection biases upwards.
    mean_return: mean return of all candidates over the first seeds.
    std_return: standard deviation of the single episodes of `mean_return`.
    num_episodes: number of episodes that were played.
  """

  best: np.ndarray
  best_return: float
  mean_return: float
  std_return: float
  num_episodes: int


class RealES:
  """A search whose candidates play the real environment, many episodes in parallel.

  Every candidate plays the same seeds, with the same noise in the agent (common random numbers).
  """

  def __init__(
    self,
    spec: EnvSpec,
    world_model: WorldModel,
    space: SearchSpace,
    strategy: CMAES,
    num_first_seeds: int,
  ):
    """Creates the search.

    Args:
      spec: specification of the environment.
      world_model: maps observations to the states that the candidates see.
      space: the candidates.
      strategy: proposes and ranks the candidates.
      num_first_seeds: number of seeds that every candidate plays; only the better half plays the
        rest.
    """
    self._policy = CandidatePolicy(world_model, space)
    self._actor = CandidateActor(Agent(spec, world_model, self._policy))
    self._strategy, self._num_first_seeds = strategy, num_first_seeds

  def play(
    self,
    pool: CandidatePool,
    x: np.ndarray,
    seeds: Sequence[int],
    on_episode: Callable[[Any], None] | None = None,
  ) -> np.ndarray:
    """Returns the official returns of candidates on the same seeds, `float64[N, S]`.

    Args:
      pool: official environments.
      x: vectors of the candidates, `[N, D]`.
      seeds: S seeds.
      on_episode: called with each episode's summary as it ends; None for no call.
    """
    self._policy.become(x)
    codes = [index * _SEEDS + seed for seed in seeds for index in range(len(x))]
    found = {}
    for _, info in run_episodes(pool, self._actor, codes, keep_frames=False):
      found[info.seed] = info.episode_return
      if on_episode is not None:
        on_episode(info)
    return np.array([[found[i * _SEEDS + seed] for seed in seeds] for i in range(len(x))])

  def generation(
    self,
    pool: CandidatePool,
    state: CMAESState,
    seeds: Sequence[int],
    seed: tf.Tensor,
    on_episode: Callable[[Any], None] | None = None,
  ) -> tuple[CMAESState, Generation]:
    """Runs one generation: asks for candidates, plays them, and tells their ranks.

    Args:
      pool: official environments.
      state: state of the search, for one problem (B = 1).
      seeds: S seeds, new ones in every generation.
      seed: `int32[2]`, for the candidates.
      on_episode: called with each episode's summary as it ends; None for no call.

    Returns:
      The next state of the search, and a `Generation`.
    """
    x = self._strategy.ask(state, seed)
    candidates = x.numpy()[0]

    def play(rows, seeds):
      return self.play(pool, candidates[rows], seeds, on_episode)

    first = min(self._num_first_seeds, len(seeds))
    returns = race(play, len(candidates), seeds, first)
    ranks = fitness(returns)
    best = int(ranks.argmax())
    return self._strategy.tell(state, x, ranks[np.newaxis]), Generation(
      best=candidates[best],
      best_return=float(returns[best].mean()),
      mean_return=float(returns[:, :first].mean()),
      std_return=float(returns[:, :first].std()),
      num_episodes=int(np.isfinite(returns).sum()),
    )
