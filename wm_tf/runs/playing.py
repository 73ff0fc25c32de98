"""Plays official episodes with any actor, on seeds that are not used in training."""

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

# Each purpose has its own range of seeds, so that agents are not evaluated on training seeds.
_PURPOSES = ("collect", "collect_random", "validation", "evaluation", "dream", "finish")
_SEEDS_PER_PURPOSE = 1 << 27


def episode_seeds(purpose: str, run_seed: int, num: int, iteration: int = 0) -> list[int]:
  """Draws distinct episode seeds for a purpose; the seeds of two purposes are disjoint.

  Args:
    purpose: one of `collect`, `collect_random`, `validation`, `evaluation`, `dream`, `finish`.
    run_seed: seed of the run.
    num: number of seeds.
    iteration: number of the stream within the purpose. A longer draw from a stream starts with the
      same seeds.

  Returns:
    `num` seeds.
  """
  index = _PURPOSES.index(purpose)
  generator = np.random.default_rng([run_seed, index, iteration])
  chosen: dict[int, None] = {}
  while len(chosen) < num:
    chosen[index * _SEEDS_PER_PURPOSE + int(generator.integers(_SEEDS_PER_PURPOSE))] = None
  return list(chosen)


def summarize(result: EvalResult, seconds: float) -> dict[str, Any]:
  """Converts an `EvalResult` to the form that `results.json` has.

  Args:
    result: returns of E episodes.
    seconds: time that they took.

  Returns:
    `mean` and `std` of the returns, `n` = E, `seeds`, `seconds`, and the `returns`.
  """
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
  """Returns a function that builds the configured environment; it can be pickled.

  Args:
    config: configuration that names the environment and its options.
    **training_options: further options, for training data only.

  Returns:
    A function without arguments that returns the environment.

  Raises:
    ConfigError: if there is no such environment or option.
  """
  try:
    return env_factory(config.environment, **config.environment_options, **training_options)
  except (ValueError, TypeError, ImportError) as error:
    raise config_lib.ConfigError(f"environment={config.environment}: {error}") from error


def environment_spec(config: config_lib.ExperimentConfig) -> EnvSpec:
  """Returns the specification of the configured environment.

  Args:
    config: configuration that names the environment and its options.

  Returns:
    The specification.

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
  """Plays full official episodes and summarises their returns.

  Args:
    config: configuration that names the environment.
    actor: the actor that plays.
    seeds: seed of each episode.
    label: name of the progress bar.

  Returns:
    The result of `summarize`.
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
  """Plays one official episode.

  Args:
    config: configuration that names the environment.
    actor: the actor that plays.
    seed: seed of the episode.

  Returns:
    The episode with its observations.
  """
  with EnvPool(environment_factory(config), 1) as pool:
    ((episode, _),) = run_episodes(pool, actor, [seed])
  return episode


def rendered(config: config_lib.ExperimentConfig, actor: Actor, seed: int) -> np.ndarray:
  """Plays one official episode and returns images of it.

  Args:
    config: configuration that names the environment.
    actor: the actor that plays.
    seed: seed of the episode.

  Returns:
    `uint8[T, H, W, 3]`, one image for each observation: the first image part of the observation, or
    the environment's own rendering if observations have no image.

  Raises:
    ConfigError: if the environment neither observes nor renders an image.
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
  """Plays one official episode in this process and returns the environment's rendering.

  Args:
    config: configuration that names the environment.
    actor: the actor that plays.
    seed: seed of the episode.

  Returns:
    `uint8[T, H, W, 3]`, one frame for each observation; None if the environment renders nothing.
  """
  options = dict(config.environment_options)
  try:
    env = make_env(config.environment, **{"render_mode": "rgb_array", **options})
  except (ValueError, TypeError, ImportError):  # The environment has no `render_mode`.
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
  """Applies a function to every array of an observation.

  Args:
    fn: maps an array to a new value.
    observation: an array, or a dict of arrays.

  Returns:
    The results, in the structure of `observation`.
  """
  if isinstance(observation, dict):
    return {name: fn(value) for name, value in observation.items()}
  return fn(observation)


def scripted_actor(name: str, config: config_lib.ExperimentConfig) -> Actor:
  """Returns a baseline actor of the configured environment.

  Args:
    name: `random` (a Brownian motion; for categorical actions, choices that are kept for several
      decisions), or `heuristic`, the environment's scripted policy.
    config: configuration that names the environment.

  Returns:
    The actor.

  Raises:
    ConfigError: if the environment has no scripted policy.
  """
  if name == "random":
    space = environment_spec(config).action_space
    return exploration.Brownian(space.size, num_choices=space.num_choices)
  try:
    return exploration.Scripted(make_heuristic(config.environment))
  except ValueError as error:
    raise config_lib.ConfigError(str(error)) from error


def explorers(config: config_lib.ExperimentConfig) -> exploration.Mixture:
  """Returns the actor of iteration 0: a mixture of exploration policies.

  Args:
    config: configuration that names the environment and has the shares, in `collect`.

  Returns:
    The mixture; each policy of a share above 0 plays that share of the episodes.

  Raises:
    ValueError: if the shares or the options of the scripted policy are invalid.
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
  """Returns the number of environment processes.

  Args:
    config: `collect.num_workers` is used if it is above 0.

  Returns:
    By default twice the number of processors, because environments wait for each other at each
    step.
  """
  return config.collect.num_workers or 2 * (os.cpu_count() or 1)
