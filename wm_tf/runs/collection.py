"""Collects the rollouts of a run: by exploration in iteration 0, then by its own controllers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from wm_tf.agent import AgentActor
from wm_tf.checks import ConfigError
from wm_tf.data import rollouts
from wm_tf.data.collect import Actor, collect
from wm_tf.envs import training_options
from wm_tf.policies import exploration
from wm_tf.runs.playing import environment_factory, episode_seeds, explorers, num_workers
from wm_tf.runs.workdir import say
from wm_tf.training.loggers import progress

if TYPE_CHECKING:
  from wm_tf.config import CollectConfig
  from wm_tf.runs.learned import LearnedRun


def check_options(run: LearnedRun) -> None:
  """Checks that the environment has the options that the collection's settings need.

  Args:
    run: the run.

  Raises:
    ConfigError: if it lacks one; the message names the field to change.
  """
  settings, name = run.config.collect, run.config.environment
  known = training_options(name)
  for field, option in (
    ("random_start", "random_start"),
    ("stop_after_idle_decisions", "stop_after_idle_decisions"),
  ):
    if getattr(settings, field) and option not in known:
      raise ConfigError(
        f"collect.{field}={getattr(settings, field)}: environment {name} has no option {option}; "
        f"set collect.{field}=0."
      )


def collect_iteration(run: LearnedRun, iteration: int) -> None:
  """Collects the rollouts of an iteration that do not exist yet.

  Args:
    run: the run.
    iteration: 0 collects by exploration policies; later iterations by `controllers`.

  Raises:
    ConfigError: if the run trains online, which collects by itself.
  """
  settings = run.config.collect
  if run.config.online.num_steps and run.config.online.collect:
    raise ConfigError(
      f"online.num_steps={run.config.online.num_steps}: online training collects its own data; run "
      "trainers.iterate, or set online.num_steps=0."
    )
  num = settings.episodes_per_iteration if iteration else settings.num_episodes
  num_random = round(num * settings.random_start)
  for suffix, num_episodes in (("", num - num_random), ("_random", num_random)):
    folder = run.workdir / "data" / f"{iteration:03d}{suffix}"
    done = 0
    if (folder / rollouts.MANIFEST).exists():
      shards = rollouts.existing_shards(folder, rollouts.load_manifest(folder))
      done = sum(len(shard.episodes) for shard in shards)
      say(f"collect {folder.name}: {done} of {num_episodes} episodes are there.")
    if done < num_episodes:
      _collect(run, folder, iteration, num_episodes, done, bool(suffix))


def _collect(
  run: LearnedRun,
  folder: Path,
  iteration: int,
  num_episodes: int,
  done: int,
  random_start: bool,
) -> None:
  settings = run.config.collect
  options = environment_options(settings)
  if random_start:
    options["random_start"] = True
  if iteration == 0:
    actor = explorers(run.config)
    policy = actor.choice
  else:
    actor = controllers(run, iteration)
    policy = actor.choice
  purpose = "collect_random" if random_start else "collect"
  with progress(num_episodes, f"collect {folder.name}", unit="episode", initial=done) as bar:

    def show(num_done, total, info) -> None:
      bar.update(1, {"return": info.episode_return})

    collect(
      folder,
      environment_factory(run.config, **options),
      actor,
      episode_seeds(purpose, run.seed, num_episodes, iteration),
      policy_name=policy,
      iteration=iteration,
      num_workers=num_workers(run.config),
      episodes_per_shard=settings.episodes_per_shard,
      on_progress=show,
    )


def controllers(run: LearnedRun, iteration: int) -> exploration.Mixture:
  """Returns the actor of an iteration after the first: disturbed controllers of earlier ones.

  Args:
    run: the run.
    iteration: the iteration, at least 1.

  Returns:
    The controller of the previous iteration, and the best one so far by validation with the share
    `collect.best_controller`; with noise and interruptions.
  """
  settings, num_choices = run.config.collect, run.spec.action_space.num_choices
  weights = {iteration - 1: 1.0 - settings.best_controller}
  if settings.best_controller:
    best = run.best_iteration(iteration - 1)
    weights[best] = weights.get(best, 0.0) + settings.best_controller

  def disturbed(chosen: int) -> Actor:
    actor = AgentActor(run.agent("controller", chosen))
    actor = exploration.Noisy(actor, settings.controller_noise, num_choices=num_choices)
    rate = settings.controller_interruption_rate
    return exploration.Interrupted(actor, rate, num_choices=num_choices) if rate else actor

  names = {f"controller_{chosen:03d}": chosen for chosen, weight in weights.items() if weight}
  return exploration.Mixture(
    {name: disturbed(chosen) for name, chosen in names.items()},
    {name: weights[chosen] for name, chosen in names.items()},
  )


def environment_options(settings: CollectConfig) -> dict[str, Any]:
  """Returns the options of environments for training data, beside those of the configuration.

  Args:
    settings: the configuration of the collection.

  Returns:
    Only the options that are set, because other environments lack them.
  """
  idle = settings.stop_after_idle_decisions
  return {"stop_after_idle_decisions": idle} if idle else {}
