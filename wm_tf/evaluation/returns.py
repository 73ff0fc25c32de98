"""Returns of an agent in the environment (true) and in the model (fast).

The gap between the two is the headline number of any world model.
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
  """Plays full episodes and keeps their official returns.

  Args:
    pool: environments without training-only options.
    actor: what plays: an `AgentActor`, a scripted or random policy, a served model.
    seeds: one per episode; use seeds that training never saw.
    on_episode: called with each episode's summary as it ends.
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
  """Plays whole episodes in the dream.

  Args:
    world_model: any.
    policy: what plays.
    starts: M real states of first frames; episode `e` starts from one drawn by its seed.
    num_decisions: length of an episode.
    seeds: one per episode; an episode depends on its own seed only.
    temperature: of the dream.
    initial_return: what the skipped frames at the start of a real episode bring on average.
    action_repeat: frames per decision, for `length`.

  Returns:
    The expected return given each dream's course: rewards count with the probability that the
    episode has not terminated before. `length` is the number of frames of a whole dream.
  """
  seeds = np.asarray(seeds, np.int64)
  rows = np.array(
    [np.random.default_rng(s).integers(len(tf.nest.flatten(starts)[0])) for s in seeds]
  )

  @tf.function
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
