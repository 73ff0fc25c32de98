"""A run: trains, evaluates and exports an agent for an environment, in one folder."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from wm_tf import config as config_lib
from wm_tf.agent import AgentActor
from wm_tf.data import datasets
from wm_tf.learners.learner import Learner, check_learner, make_learner
from wm_tf.models.world_model import WorldModel
from wm_tf.runs import collection, controller
from wm_tf.runs.folder import no_run, read_description
from wm_tf.runs.learned import LearnedRun
from wm_tf.runs.online_checks import check_online
from wm_tf.runs.playing import episode_seeds, explorers
from wm_tf.runs.workdir import read_json, write_json


class Run(LearnedRun):
  """A run of an environment, a configuration and a seed in a folder.

      run = Run("runs/pendulum", environment="gym:Pendulum-v1", preset="quickstart", seed=0)
      run.train()                                   # Continues where a killed call stopped.
      scores = run.evaluate("planner", episodes=10)
      run.export()

  A finished stage returns at once. The run is a context manager that locks the folder against other
  processes; `train` and `export` enter it themselves.
  """

  def __init__(
    self,
    workdir: str | os.PathLike,
    environment: str | None = None,
    preset: str = "quickstart",
    seed: int = 0,
    overrides: Iterable[str] = (),
    *,
    config: config_lib.ExperimentConfig | None = None,
    force: bool = False,
    create: bool = True,
  ):
    """Describes a run. Settings that cannot work are refused here, before any data is collected.

    Args:
      workdir: the folder of the run.
      environment: a registered name, `gym:ID`, `dmc:TASK` or `package.module:Factory`; by default
        car_racing.
      preset: name of the configuration to start from.
      seed: seed of all random numbers.
      overrides: changes of single fields, such as `"dynamics.num_mixtures=8"`.
      config: a complete configuration, in place of `environment`, `preset` and `overrides`.
      force: whether to continue past a failed quality gate, with a warning.
      create: whether the workdir may be created.

    Raises:
      ConfigError: if there is no such environment, preset or field, or the settings of a stage do
        not fit the environment.
    """
    if config is None:
      config = config_lib.make_config(preset, overrides, environment)
    super().__init__(workdir, config, seed, create)
    self.force = force
    self._check()

  def _check(self) -> None:
    """Checks settings that would otherwise fail after hours of work."""
    config, spec = self.config, self.spec
    collection.check_options(self)
    for group, check in (
      ("family", lambda: self.family),
      ("online", lambda: check_online(self)),
      ("collect", lambda: explorers(config)),
      ("collect", self._check_amounts),
      ("planner", lambda: config.planner.strategy(spec.action_size, spec.action_space.num_choices)),
      (config.family, lambda: check_learner(self.controller_settings, self.family.new_model())),
    ):
      try:
        check()
      except config_lib.ConfigError:
        raise
      except ValueError as error:
        raise config_lib.ConfigError(f"{group}: {error}") from error

  def _check_amounts(self) -> None:
    """Checks that the first collection can be split and can fill a batch of each fit."""
    settings = self.config.collect
    num_random = round(settings.num_episodes * settings.random_start)
    seeds = [
      *episode_seeds("collect", self.seed, settings.num_episodes - num_random),
      *episode_seeds("collect_random", self.seed, num_random),
    ]
    for fit, sequence_length in self.family.batch_kinds().items():
      datasets.check_amounts(
        seeds,
        self.spec.max_decisions + 1,
        batch_size=getattr(self.config, f"{fit}_fit").batch_size,
        sequence_length=sequence_length,
        held_out_fraction=settings.held_out,
        episodes_name="collect.num_episodes",
        batch_size_name=f"{fit}_fit.batch_size",
        held_out_name="collect.held_out",
      )

  @property
  def online_settings(self) -> config_lib.OnlineConfig:
    """The settings of online training, as derived for the environment's observations."""
    return self.config.online.derived(bool(self.spec.observation.images))

  # --- All stages ---------------------------------------------------------------------------

  def train(self) -> list[dict[str, Any]]:
    """Runs all iterations: collects rollouts, fits the world model, and trains a controller in it.

    Iterations after the first collect rollouts with the previous controller. With
    `online.num_steps` set, trains online instead, which counts as iteration 0. A killed call can be
    repeated: it continues, and its results are those of an uninterrupted call.

    Returns:
      The result of `validate` for each iteration.
    """
    with self:
      if self.config.online.num_steps:
        from wm_tf.runs.online import train_online

        with self.timing("train_online"):
          train_online(self)
        return [self.timed(self.validate, 0)]
      history = []
      for iteration in range(self.config.num_iterations + 1):
        self.timed(self.collect, iteration)
        self.family.train(iteration)
        self.timed(self.train_controller, iteration)
        history.append(self.timed(self.validate, iteration))
      return history

  def export(self, version: int = 1, finished: bool = False) -> Path:
    """Exports the best controller, its planner and its world model as SavedModels.

    Args:
      version: version folder of all three.
      finished: whether to export the controller as it was finished in the real environment.

    Returns:
      The folder that holds them.
    """
    from wm_tf.runs.publishing import export_run

    with self:
      export_run(self, version, finished)
    return self.workdir / "export"

  # --- Stages -------------------------------------------------------------------------------

  def collect(self, iteration: int) -> None:
    """Collects the rollouts of an iteration: by exploration at 0, then by the previous controller.

    Args:
      iteration: the iteration.
    """
    collection.collect_iteration(self, iteration)

  def train_controller(self, iteration: int) -> None:
    """Trains a controller in the dreams of an iteration's world model.

    Args:
      iteration: the iteration.
    """
    controller.train_controller(self, iteration)

  def validate(self, iteration: int) -> dict[str, Any]:
    """Evaluates the controller of an iteration on validation seeds, or reads the result.

    Args:
      iteration: the iteration.

    Returns:
      `iteration`, and the scores `controller_in_model` and `controller_in_environment` as
      `evaluate` returns.
    """
    path = self.path("controller", iteration) / "validation.json"
    if not path.exists():
      num = self.config.evaluate.validation_episodes
      agent = self.agent("controller", iteration)
      in_model = self.evaluate_in_model(agent, num, iteration)
      in_environment = self.evaluate(
        AgentActor(agent),
        seeds=episode_seeds("validation", self.seed, num),
        label=f"validate {iteration:03d}",
      )
      write_json(
        path,
        {
          "iteration": iteration,
          "controller_in_model": in_model,
          "controller_in_environment": in_environment,
        },
      )
    return read_json(path)

  def train_fit(self, fit: str, iteration: int) -> dict[str, Any]:
    """Makes one fit of an iteration, unless it exists. See `Family.make_fit`.

    Args:
      fit: a name of `family.fits`.
      iteration: the iteration; rollouts up to it are used.

    Returns:
      The held-out figures of the fit.

    Raises:
      ConfigError: if the run's family has no such fit.
    """
    if fit not in self.family.fits:
      raise config_lib.ConfigError(
        f"family={self.config.family} has no fit {fit!r}; its fits are "
        f"{', '.join(self.family.fits)}."
      )
    return self.family.make_fit(fit, iteration)

  # One model and one learner for all iterations, so that they are compiled once.

  @functools.cached_property
  def compiled_model(self) -> WorldModel:
    """The world model that controllers are trained in, reloaded at every iteration."""
    return self.family.new_model()

  @functools.cached_property
  def compiled_learner(self) -> Learner:
    """The learner that trains controllers in `compiled_model`."""
    return make_learner(self.compiled_model, self.controller_settings, self.seed)


def load_run(workdir: str | os.PathLike) -> Run:
  """Opens an existing run, with its own configuration and seed.

  Args:
    workdir: the folder of the run.

  Returns:
    The run.

  Raises:
    WorkdirError: if there is none.
  """
  workdir = Path(workdir).expanduser()
  described = read_description(workdir / "run.json")
  if described is None:
    raise no_run(workdir)
  return Run(workdir, config=described.config, seed=described.seed, create=False)
