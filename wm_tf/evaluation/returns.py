"""Returns of an agent in the environment (true) and in its world model (fast).

The gap between the two measures how far the world model can be trusted.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from wm_tf import rng
from wm_tf.core import EvalResult, Nest, Policy
from wm_tf.data.collect import Actor, EnvPool, run_episodes
from wm_tf.imagination import imagine_returns, policy_action_fn
from wm_tf.models.world_model import WorldModel


def evaluate_in_environment(
  pool: EnvPool,
  actor: Actor,
  seeds: Sequence[int],
  on_episode: Callable[[Any], None] | None = None,
) -> EvalResult:
  """Plays full episodes and returns their official returns.

  Args:
    pool: environments without training-only options.
    actor: the actor that plays, such as an `AgentActor`, a scripted policy or a served model.
    seeds: seed of each of E episodes; use seeds that are not used in training.
    on_episode: called with the `EpisodeInfo` of each episode when it ends.

  Returns:
    Returns and lengths in frames, in the order of `seeds`.
  """
  found = {}
  for _, summary in run_episodes(pool, actor, seeds, keep_frames=False):
    found[summary.seed] = summary
    if on_episode is not None:
      on_episode(summary)
  return EvalResult(
    episode_return=np.array([found[seed].episode_return for seed in seeds], np.float32),
    length=np.array([found[seed].frames for seed in seeds], np.int32),
    seeds=np.array(seeds, np.int64),
  )


def evaluate_in_model(
  world_model: WorldModel,
  policy: Policy,
  starts: Nest,
  num_decisions: int,
  seeds: Sequence[int],
  *,
  temperature: float = 1.0,
  initial_return: float = 0.0,
  action_repeat: int = 1,
) -> EvalResult:
  """Dreams whole episodes.

  Args:
    world_model: the world model.
    policy: the policy that plays.
    starts: real states of first observations, a nest of `[M, ...]`; the seed of an episode also
      draws its start.
    num_decisions: length of an episode.
    seeds: seed of each of E episodes; an episode depends on its own seed only.
    temperature: temperature of the dream.
    initial_return: mean return of the frames skipped at the start of real episodes, which is added.
    action_repeat: frames per decision, for `length`.

  Returns:
    The expected return of each dream: rewards are weighted by the probability that the episode has
    not terminated before. `length` is the number of frames of a whole dream.
  """
  seeds = np.asarray(seeds, np.int64)
  rows = np.array(
    [np.random.default_rng(s).integers(len(tf.nest.flatten(starts)[0])) for s in seeds]
  )

  @tf.function(autograph=False)
  def play(state, seed):
    act_seed, dream_seed = rng.split(seed, 2)
    return imagine_returns(
      world_model,
      policy_action_fn(policy, act_seed),
      state,
      num_decisions,
      dream_seed,
      memory=policy.initial_memory(tf.shape(seed)[0]),
      temperature=temperature,
    )

  seed = np.stack([seeds & 0x7FFFFFFF, seeds >> 31], axis=1).astype(np.int32)
  returns = play(tf.nest.map_structure(lambda x: tf.gather(x, rows), starts), tf.constant(seed))
  return EvalResult(
    episode_return=returns.imagined_return.numpy() + np.float32(initial_return),
    length=np.full(len(seeds), num_decisions * action_repeat, np.int32),
    seeds=seeds,
  )
