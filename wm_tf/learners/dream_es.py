"""Scores a population of controllers in the dream, with one compiled function per generation."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import tensorflow as tf

from wm_tf import rng
from wm_tf.checks import check_counts
from wm_tf.core import Nest
from wm_tf.imagination import draw_rows, imagine_returns, repeat_rows
from wm_tf.models.world_model import WorldModel
from wm_tf.policies.linear import LinearController
from wm_tf.search.strategy import Strategy


@dataclasses.dataclass(frozen=True)
class DreamESConfig:
  """How candidates are scored in the dream.

  Attributes:
    num_rollouts: R, dreams per candidate and generation; all candidates share start states and
      noise.
    horizon: decisions per dream.
    temperature: temperature of the dream; above 1 the dream is harder to exploit.
    l2_penalty: weight of the mean squared parameter, in units of return.
    disagreement_penalty: penalty for each unit of disagreement above `usual_disagreement`, summed
      over a dream, in units of return; see `WorldModel.unfamiliarity`.
  """

  num_rollouts: int = 16
  horizon: int = 60
  temperature: float = 1.1
  l2_penalty: float = 0.05
  disagreement_penalty: float = 0.0

  def __post_init__(self):
    check_counts(self, "num_rollouts", "horizon")


class Generation(NamedTuple):
  """Metrics of one generation: the candidates' imagined returns, before penalties.

  Attributes:
    best: `float32[]`, mean return of the best candidate over its rollouts.
    mean: `float32[]`, mean return over rollouts and candidates.
    alive: `float32[]`, mean probability that a dream continues after its last step.
  """

  best: tf.Tensor
  mean: tf.Tensor
  alive: tf.Tensor


# Smallest number of rows in a block of candidates. Blocks run in parallel on cores that one step
# leaves idle, and the outputs of a step fit into the cache (2 MB of gates with 256 units).
_BLOCK_ROWS = 512


class DreamES:
  """Runs a generation of a search in one `tf.function`, over all candidates and rollouts.

  XLA compiles the dream. It runs in blocks of candidates, with noise that all candidates share.

  Attributes:
    score: the compiled `_score`.
    generation: the compiled `_generation`.
  """

  def __init__(
    self,
    world_model: WorldModel,
    controller: LinearController,
    strategy: Strategy,
    config: DreamESConfig,
    *,
    jit_compile: bool = True,
  ):
    """Initializes the compiled functions.

    Args:
      world_model: the world model to score in.
      controller: computes the actions of candidates; its own parameters are not used.
      strategy: the search.
      config: the settings.
      jit_compile: whether XLA compiles the dreams.
    """
    self._world_model, self._controller = world_model, controller
    self._strategy, self._config = strategy, config
    self._dream = tf.function(self._dreamed, jit_compile=jit_compile, autograph=False)
    self.score = tf.function(self._score, autograph=False)
    self.generation = tf.function(self._generation, autograph=False)

  def _score(self, parameters: tf.Tensor, starts: Nest, seed: tf.Tensor):
    """Scores N candidates.

    Args:
      parameters: `float32[N, D]`, one controller per row.
      starts: R states; every candidate starts from each of them.
      seed: `int32[2]`.

    Returns:
      `(return, unfamiliarity, alive)`, each `float32[N]`.
    """
    num_rollouts = tf.nest.flatten(starts)[0].shape[0]
    # Outside of XLA, which draws random numbers many times more slowly.
    noise = self._world_model.draw_noise(num_rollouts, self._config.horizon, seed)
    num_blocks = _num_blocks(parameters.shape[0], num_rollouts)
    blocks = [self._dream(x, starts, noise) for x in tf.split(parameters, num_blocks)]
    return tuple(tf.concat(parts, axis=0) for parts in zip(*blocks, strict=True))

  def _dreamed(self, parameters: tf.Tensor, starts: Nest, noise: Nest):
    """Computes `_score` for one block of candidates, with given noise of R rollouts."""
    model, controller, config = self._world_model, self._controller, self._config
    num_candidates = parameters.shape[0]
    num_rollouts = tf.nest.flatten(starts)[0].shape[0]
    controllers = controller.folded(parameters)

    def action_fn(t, state, memory):
      features = tf.reshape(
        model.features(state), [num_candidates, num_rollouts, model.feature_size]
      )
      actions = controller.actions_of(controllers, features)
      return tf.reshape(actions, [num_candidates * num_rollouts, model.action_size]), memory

    returns = imagine_returns(
      model,
      action_fn,
      repeat_rows(starts, num_candidates),
      config.horizon,
      None,
      temperature=config.temperature,
      num_copies=num_candidates,
      noise=noise,
    )

    def mean(x):
      return tf.reduce_mean(tf.reshape(x, [num_candidates, num_rollouts]), axis=1)

    return mean(returns.imagined_return), mean(returns.unfamiliarity), mean(returns.alive)

  def _generation(self, state: Nest, starts: Nest, seed: tf.Tensor):
    """Runs one generation: asks for candidates, scores them, and tells their fitness.

    Args:
      state: the strategy's state, for one problem (B = 1).
      starts: M >= 1 states; R of them are drawn for this generation.
      seed: `int32[2]`.

    Returns:
      The strategy's next state and a `Generation`.
    """
    config = self._config
    ask_seed, start_seed, noise_seed = rng.split(seed, 3)
    parameters = self._strategy.ask(state, ask_seed)
    chosen = draw_rows(starts, config.num_rollouts, start_seed)
    returns, unfamiliarity, alive = self.score(parameters[0], chosen, noise_seed)
    fitness = (
      returns
      - config.l2_penalty * tf.reduce_mean(tf.square(parameters[0]), axis=-1)
      - config.disagreement_penalty * unfamiliarity
    )
    state = self._strategy.tell(state, parameters, fitness[tf.newaxis])
    return state, Generation(tf.reduce_max(returns), tf.reduce_mean(returns), tf.reduce_mean(alive))


def _num_blocks(num_candidates: int, num_rollouts: int) -> int:
  """Returns the number of equal blocks, of `_BLOCK_ROWS` rows or more, to split candidates into."""
  most = max(num_candidates * num_rollouts // _BLOCK_ROWS, 1)
  return max(n for n in range(1, min(most, num_candidates) + 1) if num_candidates % n == 0)
