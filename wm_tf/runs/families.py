"""Families of world models: the interface between a run and the kind of model that it learns.

A run collects data, trains a controller in dreams, evaluates and exports without knowing how the
model is learned. A family knows its fits, the files that they write, and the data that they read.
Another family is one module and one registration in `families`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from wm_tf.core import Batch, Nest
from wm_tf.models.world_model import WorldModel
from wm_tf.registry import Registry

if TYPE_CHECKING:
  from wm_tf.runs.learned import LearnedRun

families = Registry("family")
families.register("two_stage", "wm_tf.runs.two_stage:TwoStage")
families.register("rssm", "wm_tf.runs.joint:Joint")


class Family:
  """The way in which a run learns its world models.

  Attributes:
    run: the run.
    fits: name of each fit to its title in reports, in the order of fitting. The name is also that
      of the fit's folder in the workdir.
    datasets: patterns of the dataset folders in the workdir that the family writes.
    trains_online: whether `runs.online` can train the family; it then has `figures`.
  """

  fits: ClassVar[Mapping[str, str]]
  datasets: ClassVar[tuple[str, ...]] = ()
  trains_online: ClassVar[bool] = False

  def __init__(self, run: LearnedRun):
    self.run = run

  def new_model(self) -> WorldModel:
    """Returns an untrained world model with all weights created.

    A run also calls this before it collects data, so that a configuration that does not fit the
    environment is refused early.

    Raises:
      ValueError: if the configuration cannot be used; the message has the field and the remedy.
    """
    raise NotImplementedError

  def load_model(self, model: WorldModel, iteration: int) -> WorldModel:
    """Loads the weights of an iteration into a world model.

    Args:
      model: a model as `new_model` returns.
      iteration: iteration of the weights.

    Returns:
      `model`.

    Raises:
      WorkdirError: if the iteration has no weights.
    """
    raise NotImplementedError

  def model_weights(self, iteration: int) -> Path:
    """Returns the file that `load_model` reads.

    Args:
      iteration: iteration of the weights.

    Returns:
      The path; the file may not exist yet.
    """
    raise NotImplementedError

  def make_fit(self, fit: str, iteration: int) -> dict[str, Any]:
    """Makes one fit of an iteration, unless it exists.

    Args:
      fit: one of `fits`.
      iteration: the iteration; rollouts up to it are used.

    Returns:
      The held-out figures of the fit.

    Raises:
      QualityGateError: if the model has not learned, and the run is not forced.
      WorkdirError: if data or an earlier fit are missing.
    """
    raise NotImplementedError

  def figures(self, model: WorldModel, iteration: int) -> dict[str, Any]:
    """Measures a model that was trained online on held-out episodes.

    Args:
      model: the model.
      iteration: the iteration; rollouts up to it are used.

    Returns:
      The content of the fit's `quality.json`.
    """
    raise NotImplementedError

  def train(self, iteration: int) -> None:
    """Makes every fit of an iteration that does not exist yet, in order.

    Args:
      iteration: the iteration; rollouts up to it are used.
    """
    for fit in self.fits:
      with self.run.timing(f"train_{fit}"):
        self.make_fit(fit, iteration)

  def prepare(self, iteration: int) -> None:
    """Makes the data that `sequences` refers to, if they do not exist.

    Args:
      iteration: the iteration; rollouts up to it are prepared.
    """

  def batch_kinds(self) -> dict[str, int | None]:
    """Returns the sequence length T in the batches of each fit; None for batches of single rows."""
    raise NotImplementedError

  def fit_iteration(self, fit: str, iteration: int) -> int:
    """Returns the iteration whose fit is in use at an iteration.

    Args:
      fit: name of the fit.
      iteration: the iteration.

    Returns:
      An iteration from 0 to `iteration`; a family that fits less often overrides this method.
    """
    del fit
    return iteration

  def keeps_features(self, iteration: int) -> bool:
    """Returns whether a policy of the previous iteration can be trained further.

    That is so if features have the same meaning as at `iteration - 1`.

    Args:
      iteration: the iteration, at least 1.
    """
    raise NotImplementedError

  def sequences(self, folder: Path, iteration: int) -> Path:
    """Returns the folder of the dataset that a rollout folder was converted to.

    Args:
      folder: the rollout folder.
      iteration: iteration of the fits in use.

    Returns:
      The folder that sequences are read from; by default `folder` itself.
    """
    del iteration
    return folder

  def quality(self, iteration: int) -> dict[str, Any]:
    """Returns the held-out figures of the fits in use at an iteration.

    Args:
      iteration: the iteration.

    Returns:
      Sections of `results.json` by name; by default figures by name of the fit. The report judges
      the sections that `report.verdicts.checks` names.
    """
    run = self.run
    return {fit: run.quality(fit, self.fit_iteration(fit, iteration)) for fit in self.fits}

  def observation_figures(
    self, model: WorldModel, observations: Iterable[Nest], episodes: Iterable[Batch]
  ) -> dict[str, Any]:
    """Measures how well a model reconstructs observations.

    Args:
      model: a trained world model.
      observations: batches of held-out observations, each part `[B, ...]`.
      episodes: batches of whole held-out episodes with raw observations.

    Returns:
      Sections of `doctor.json` by name, as of `quality`.
    """
    raise NotImplementedError

  def dynamics_facts(self) -> dict[str, Any]:
    """Returns facts about the model that reports show beside the figures of its dynamics."""
    return {}

  def has_disagreement(self) -> bool:
    """Returns whether the disagreement of the model's predictions is measured, and reported."""
    return False


def make_family(run: LearnedRun) -> Family:
  """Makes the family that `config.family` names.

  Args:
    run: the run.

  Returns:
    The family.

  Raises:
    UnknownNameError: if there is no such family.
  """
  return families.get(run.config.family)(run)
