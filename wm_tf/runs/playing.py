"""Playing official episodes with any actor, on seeds that training never saw."""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from wm_tf import config as config_lib
from wm_tf import evaluation
from wm_tf.policies import exploration
from wm_tf.core import Episode, EvalResult
from wm_tf.data.collect import Actor, run_episodes
from wm_tf.data.env_pool import EnvPool
from wm_tf.envs import env_spec, make_env, make_heuristic
from wm_tf.training.loggers import progress

# Every purpose has seeds of its own: what an agent is judged on is never trained or chosen on.
_PURPOSES = ("collect", "collect_random", "validation", "evaluation", "dream", "finish")
_SEEDS_PER_PURPOSE = 1 << 27


def episode_seeds(purpose: str, run_seed: int, num: int, iteration: int = 0) -> list[int]:
  """Returns `num` distinct seeds of a purpose; those of different purposes never meet."""
  index = _PURPOSES.index(purpose)
  generator = np.random.default_rng([run_seed, index, iteration])
  chosen: dict[int, None] = {}
  while len(chosen) < num:
    chosen[index * _SEEDS_PER_PURPOSE + int(generator.integers(_SEEDS_PER_PURPOSE))] = None
  return list(chosen)


def summarize(result: EvalResult, seconds: float) -> dict[str, Any]:
  """An `EvalResult` as `results.json` has it."""
  returns = result.episode_return.astype(np.float64)
  return {
    "mean": float(returns.mean()),
    "std": float(returns.std()),
    "n": len(returns),
    "seeds": result.seeds.tolist(),
    "seconds": round(seconds, 1),
    "returns": [round(float(value), 3) for value in returns],
  }


def evaluate(
  config: config_lib.ExperimentConfig, actor: Actor, seeds: Sequence[int], label: str
) -> dict[str, Any]:
  """Plays full official episodes; returns what `results.json` has."""
  started = time.monotonic()
  factory = functools.partial(make_env, config.environment)
  with (
    EnvPool(factory, min(len(seeds), num_workers(config))) as pool,
    progress(len(seeds), label, unit="episode") as bar,
  ):
    result = evaluation.evaluate_in_environment(
      pool, actor, seeds, lambda info: bar.update(1, {"return": info.episode_return})
    )
  return summarize(result, time.monotonic() - started)


def play(config: config_lib.ExperimentConfig, actor: Actor, seed: int) -> Episode:
  """Plays one official episode and keeps its frames."""
  with EnvPool(functools.partial(make_env, config.environment), 1) as pool:
    ((episode, _),) = run_episodes(pool, actor, [seed])
  return episode


def scripted_actor(name: str, environment: str) -> Actor:
  """The baselines of an environment: `random` (Brownian) and `heuristic`."""
  if name == "random":
    return exploration.Brownian(env_spec(environment).action_size)
  return exploration.Scripted(make_heuristic(environment))


def explorers(settings: config_lib.CollectConfig, environment: str) -> exploration.Mixture:
  """Who plays before there is a controller, each in its share of the episodes.

  Raises:
    ValueError: if the shares, or the options of the environment's heuristic, make no sense.
  """
  size = env_spec(environment).action_size
  actors = {
    "uniform": exploration.Uniform(size),
    "held": exploration.Held(size),
    "brownian": exploration.Brownian(size),
  }
  weights = {name: getattr(settings, name) for name in actors}
  for noise, options in settings.heuristics if settings.heuristic else ():
    details = [f"{key}={value:g}" for key, value in (*options, ("noise", noise))]
    name = " ".join(["heuristic", *details])
    heuristic = make_heuristic(environment, **dict(options))
    actor = exploration.Noisy(exploration.Scripted(heuristic), noise)
    actors[name] = exploration.Interrupted(actor, settings.interruption_rate)
    weights[name] = settings.heuristic / len(settings.heuristics)
  chosen = {name: weight for name, weight in weights.items() if weight}
  return exploration.Mixture({name: actors[name] for name in chosen}, chosen)


def num_workers(config: config_lib.ExperimentConfig) -> int:
  """Environment processes: twice the processors, since they wait for each other at each step."""
  return config.collect.num_workers or 2 * (os.cpu_count() or 1)
