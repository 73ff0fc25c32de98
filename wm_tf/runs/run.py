"""A run: everything from an environment's name to a served agent, in one folder."""

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
from wm_tf.runs.playing import episode_seeds, explorers
from wm_tf.runs.workdir import read_json, write_json


class Run(LearnedRun):
  """A run: an environment, a configuration, a seed and a folder; its stages in order.

      run = Run("runs/pendulum", environment="gym:Pendulum-v1", preset="quickstart", seed=0)
      run.train()                                   # goes on where it was killed
      scores = run.evaluate("planner", episodes=10)
      run.export()

  A stage that is done returns at once. As a context manager it holds the folder, so that another
  process is refused; `train` and `export` do so by themselves.
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
    """Describes a run. Everything that cannot work is refused here, before it begins.

    Args:
      workdir: the folder.
      environment: a registered name, `gym:ID` or `package.module:Factory`; car_racing if None.
      preset: configuration to start from.
      seed: of everything that is random.
      overrides: fields to change, such as `"dynamics.num_mixtures=8"`.
      config: a whole configuration, instead of `environment`, `preset` and `overrides`.
      force: whether to go on past a failed quality gate, with a warning.
      create: whether the workdir may be a new one.

    Raises:
      ConfigError: if there is no such environment, preset or field, or a stage could not begin.
    """
    if config is None:
      config = config_lib.make_config(preset, overrides, environment)
    super().__init__(workdir, config, seed, create)
    self.force = force
    self._check()

  def _check(self) -> None:
    """Refuses now what would otherwise fail after hours."""
    config, spec = self.config, self.spec
    collection.check_options(self)
    for group, check in (
      ("collect", lambda: explorers(config)),
      ("collect", self._check_amounts),
      ("planner", lambda: config.planner.strategy(spec.action_size, spec.action_space.num_choices)),
      (config.family, lambda: check_learner(config.controller, self.family.new_model())),
    ):
      try:
        check()
      except config_lib.ConfigError:
        raise
      except ValueError as error:
        raise config_lib.ConfigError(f"{group}: {error}") from error

  def _check_amounts(self) -> None:
    """Refuses a first collection that cannot be split, or does not fill a batch of a fit."""
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

  # --- The whole ----------------------------------------------------------------------------

  def train(self) -> list[dict[str, Any]]:
    """Collects, fits and dreams, then again with the controller's own data, as configured.

    Killed and called again it goes on, and ends as it would have.

    Returns:
      The validation of each iteration.
    """
    with self:
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
      finished: whether to take the controller as it was finished in the real environment.

    Returns:
      The folder that holds them.
    """
    from wm_tf.runs.publishing import export_run

    with self:
      export_run(self, version, finished)
    return self.workdir / "export"

  # --- Stages -------------------------------------------------------------------------------

  def collect(self, iteration: int) -> None:
    """Collects the rollouts of an iteration: exploration at 0, then the last controller."""
    collection.collect_iteration(self, iteration)

  def train_controller(self, iteration: int) -> None:
    """Trains a controller in the dream of an iteration."""
    controller.train_controller(self, iteration)

  def validate(self, iteration: int) -> dict[str, Any]:
    """Plays the controller of an iteration on validation seeds, in the model and for real."""
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

  # One model and one learner for all iterations, so that they are compiled once.

  @functools.cached_property
  def compiled_model(self) -> WorldModel:
    """The world model that controllers are trained in, iteration after iteration."""
    return self.family.new_model()

  @functools.cached_property
  def compiled_learner(self) -> Learner:
    """What trains controllers in it."""
    return make_learner(self.compiled_model, self.config.controller, self.seed)


def load_run(workdir: str | os.PathLike) -> Run:
  """Opens a run that exists, with its own configuration and seed.

  Args:
    workdir: its folder.

  Raises:
    WorkdirError: if there is none.
  """
  workdir = Path(workdir).expanduser()
  described = read_description(workdir / "run.json")
  if described is None:
    raise no_run(workdir)
  return Run(workdir, config=described.config, seed=described.seed, create=False)
