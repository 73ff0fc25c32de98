"""Playing official episodes with any actor, on seeds that training never saw."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from wm_tf import config as config_lib
from wm_tf import evaluation, report
from wm_tf.core import EnvSpec, Episode, EvalResult
from wm_tf.data.collect import Actor, run_episodes
from wm_tf.data.env_pool import EnvPool
from wm_tf.envs import env_factory, env_spec, make_env, make_heuristic
from wm_tf.policies import exploration
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


def environment_factory(
  config: config_lib.ExperimentConfig, **training_options
) -> Callable[[], Any]:
  """Returns what builds the configured environment; it can be sent to another process.

  Args:
    config: names the environment and its options.
    **training_options: more options, for training data only.

  Raises:
    ConfigError: if there is no such environment or option.
  """
  try:
    return env_factory(config.environment, **config.environment_options, **training_options)
  except (ValueError, TypeError, ImportError) as error:
    raise config_lib.ConfigError(f"environment={config.environment}: {error}") from error


def environment_spec(config: config_lib.ExperimentConfig) -> EnvSpec:
  """Returns the specification of the configured environment.

  Raises:
    ConfigError: if there is no such environment or option.
  """
  try:
    return env_spec(config.environment, **config.environment_options)
  except (ValueError, TypeError, ImportError, AttributeError) as error:
    raise config_lib.ConfigError(f"environment={config.environment}: {error}") from error


def evaluate(
  config: config_lib.ExperimentConfig, actor: Actor, seeds: Sequence[int], label: str
) -> dict[str, Any]:
  """Plays full official episodes.

  Args:
    config: names the environment.
    actor: what plays.
    seeds: one per episode.
    label: of the progress bar.

  Returns:
    What `summarize` returns.
  """
  started = time.monotonic()
  with (
    EnvPool(environment_factory(config), min(len(seeds), num_workers(config))) as pool,
    progress(len(seeds), label, unit="episode") as bar,
  ):

    def show(info) -> None:
      bar.update(1, {"return": info.episode_return})

    result = evaluation.evaluate_in_environment(pool, actor, seeds, show)
  return summarize(result, time.monotonic() - started)


def play(config: config_lib.ExperimentConfig, actor: Actor, seed: int) -> Episode:
  """Plays one official episode and returns it with its observations."""
  with EnvPool(environment_factory(config), 1) as pool:
    ((episode, _),) = run_episodes(pool, actor, [seed])
  return episode


def rendered(config: config_lib.ExperimentConfig, actor: Actor, seed: int) -> np.ndarray:
  """Plays one official episode and returns pictures of it.

  Args:
    config: names the environment.
    actor: what plays.
    seed: of the episode.

  Returns:
    `uint8[T, H, W, 3]`, one per decision: the first image of the observations, or what the
    environment renders if there is none.

  Raises:
    ConfigError: if there is neither.
  """
  observation = environment_spec(config).observation
  if observation.images:
    part = observation.images[0]
    values = observation.unpack(play(config, actor, seed).observation)
    return report.display_frames(values[observation.parts.index(part)], part)
  frames = film(config, actor, seed)
  if frames is None:
    raise config_lib.ConfigError(
      f"environment={config.environment}: it observes no image and renders none."
    )
  return frames


def film(config: config_lib.ExperimentConfig, actor: Actor, seed: int) -> np.ndarray | None:
  """Plays one official episode in this process and returns what the environment renders.

  Args:
    config: names the environment.
    actor: what plays.
    seed: of the episode.

  Returns:
    `uint8[T, H, W, 3]`, one frame per decision; None if the environment renders nothing.
  """
  options = dict(config.environment_options)
  try:
    env = make_env(config.environment, **{"render_mode": "rgb_array", **options})
  except (ValueError, TypeError, ImportError):  # It has no such option.
    return None
  frames, over = [], False
  try:
    observation, info = env.reset(seed=seed)
    actor.begin(1)
    while not over:
      frames.append(env.render())
      batched = tree_map(lambda x: np.asarray(x)[np.newaxis], observation)
      (action,) = actor.act(batched, np.array([len(frames) == 1]), np.array([seed]), [info])
      observation, _, terminated, truncated, info = env.step(action)
      over = terminated or truncated
    frames.append(env.render())
  finally:
    env.close()
  return None if any(frame is None for frame in frames) else np.stack(frames)


def tree_map(fn: Callable[[Any], Any], observation: Any) -> Any:
  """Applies a function to every array of an observation."""
  if isinstance(observation, dict):
    return {name: fn(value) for name, value in observation.items()}
  return fn(observation)


def scripted_actor(name: str, config: config_lib.ExperimentConfig) -> Actor:
  """Returns a baseline of the configured environment.

  Args:
    name: `random` (a Brownian motion, or held choices), or `heuristic`, its scripted policy.
    config: names the environment.

  Raises:
    ConfigError: if it has no scripted policy.
  """
  if name == "random":
    space = environment_spec(config).action_space
    return exploration.Brownian(space.size, num_choices=space.num_choices)
  try:
    return exploration.Scripted(make_heuristic(config.environment))
  except ValueError as error:
    raise config_lib.ConfigError(str(error)) from error


def explorers(config: config_lib.ExperimentConfig) -> exploration.Mixture:
  """Returns what plays before there is a controller: several policies, each with its share.

  Args:
    config: names the environment and the shares.

  Raises:
    ValueError: if the shares, or the options of the environment's scripted policy, make no sense.
  """
  settings, space = config.collect, environment_spec(config).action_space
  actors = {
    "uniform": exploration.Uniform(space.size, num_choices=space.num_choices),
    "held": exploration.Held(space.size, num_choices=space.num_choices),
    "brownian": exploration.Brownian(space.size, num_choices=space.num_choices),
  }
  weights = {name: getattr(settings, name) for name in actors}
  for noise, options in settings.heuristics if settings.heuristic else ():
    details = [f"{key}={value:g}" for key, value in (*options, ("noise", noise))]
    name = " ".join(["heuristic", *details])
    heuristic = make_heuristic(config.environment, **dict(options))
    actor = exploration.Noisy(exploration.Scripted(heuristic), noise, num_choices=space.num_choices)
    actors[name] = exploration.Interrupted(
      actor, settings.interruption_rate, num_choices=space.num_choices
    )
    weights[name] = settings.heuristic / len(settings.heuristics)
  chosen = {name: weight for name, weight in weights.items() if weight}
  return exploration.Mixture({name: actors[name] for name in chosen}, chosen)


def num_workers(config: config_lib.ExperimentConfig) -> int:
  """Environment processes: twice the processors, since they wait for each other at each step."""
  return config.collect.num_workers or 2 * (os.cpu_count() or 1)
