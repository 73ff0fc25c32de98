"""Families of world models: the seam between a run and the kind of model it learns.

A run collects, trains a controller in its dreams, evaluates and exports without knowing
how the model is learned. A family knows its fits, the files they leave, and the data they read.
Another family is one file and one line in `families`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from wm_tf.core import Nest
from wm_tf.models.world_model import WorldModel
from wm_tf.registry import Registry

if TYPE_CHECKING:
  from wm_tf.runs.learned import LearnedRun

families = Registry("family")
families.register("two_stage", "wm_tf.runs.two_stage:TwoStage")


class Family:
  """How one run learns its world models.

  Attributes:
    run: the run.
    fits: name of each fit, which is also the name of its folder in the workdir, to its title in
      reports; in the order in which they are made.
  """

  fits: ClassVar[Mapping[str, str]]

  def __init__(self, run: LearnedRun):
    self.run = run

  def new_model(self) -> WorldModel:
    """Returns a world model that has learned nothing, with every weight made.

    It is made before anything is collected, too, so that a configuration that fits neither itself
    nor the environment is refused then.

    Raises:
      ValueError: with the field and the remedy.
    """
    raise NotImplementedError

  def load_model(self, model: WorldModel, iteration: int) -> WorldModel:
    """Gives a world model the weights of an iteration, and returns it.

    Raises:
      WorkdirError: if there are none.
    """
    raise NotImplementedError

  def train(self, iteration: int) -> None:
    """Makes every fit of an iteration that has not been made, in order."""
    raise NotImplementedError

  def prepare(self, iteration: int) -> None:
    """Makes what `sequences` reads, if it is not there."""

  def batch_kinds(self) -> dict[str, int | None]:
    """Returns what each fit's batches are of: the length of sequences, or None for single rows."""
    raise NotImplementedError

  def fit_iteration(self, fit: str, iteration: int) -> int:
    """Returns the iteration whose fit of this name is in use at `iteration`."""
    del fit
    return iteration

  def keeps_features(self, iteration: int) -> bool:
    """Whether features mean what they meant at the iteration before, so that policies can go on."""
    raise NotImplementedError

  def sequences(self, folder: Path, iteration: int) -> Path:
    """Returns the dataset folder that sequences are read from in place of a rollout folder."""
    raise NotImplementedError

  def quality(self, iteration: int) -> dict[str, Any]:
    """Returns the held-out figures of the fits in use at an iteration, by name of the fit."""
    run = self.run
    return {fit: run.quality(fit, self.fit_iteration(fit, iteration)) for fit in self.fits}

  def observation_figures(self, model: WorldModel, observations: Iterable[Nest]) -> dict[str, Any]:
    """Returns figures of how well single observations are kept by the model, by name of the fit.

    Args:
      model: a trained one.
      observations: batches of held-out observations.
    """
    raise NotImplementedError


def make_family(run: LearnedRun) -> Family:
  """Returns the family that `config.family` names, for a run.

  Raises:
    UnknownNameError: if there is no such family.
  """
  return families.get(run.config.family)(run)
