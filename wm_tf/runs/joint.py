"""The joint family: a recurrent state-space model, fitted to sequences of the rollouts themselves.

Folders in the workdir:
  rssm/000    a fit of the model

References:
  Hafner et al. 2023, arXiv:2301.04104.
"""

from __future__ import annotations

import functools
from typing import Any, ClassVar

import keras

from wm_tf import evaluation
from wm_tf.checks import ConfigError
from wm_tf.data import datasets
from wm_tf.models.heads import RewardRangeError
from wm_tf.models.rssm import RSSM
from wm_tf.runs.families import Family
from wm_tf.runs.fitting import fit_model, fitted
from wm_tf.runs.workdir import WorkdirError
from wm_tf.training import checkpoints

_FIT = "rssm"
_NUM_EPISODES = 64  # Largest number of held-out episodes that observations are reconstructed of.
_ROWS = 8  # Episodes in a batch, whose observations are in memory.


class Joint(Family):
  """An `RSSM`: its encoder, dynamics, decoder and heads are fitted at once."""

  fits: ClassVar = {_FIT: "RSSM"}
  trains_online: ClassVar = True

  def new_model(self) -> RSSM:
    """Returns an untrained RSSM. See `Family.new_model`."""
    spec = self.run.spec
    space = spec.action_space
    return RSSM(spec.observation, space.size, self.run.config.rssm, space.num_choices)

  def model_weights(self, iteration):
    """Returns the weights of the RSSM. See `Family.model_weights`."""
    return self.run.path(_FIT, iteration) / "weights.npz"

  def load_model(self, model, iteration):
    """Loads the RSSM. See `Family.load_model`."""
    weights = self.model_weights(iteration)
    if not weights.exists():
      raise WorkdirError(f"{weights} does not exist; run trainers.iterate first.")
    checkpoints.load_weights(model, weights)
    return model

  def batch_kinds(self):
    """Returns T. See `Family.batch_kinds`."""
    return {_FIT: self.run.config.rssm_fit.sequence_length}

  def keeps_features(self, iteration):
    """Returns true: a refit changes features little, as Dreamer's actor learns along with the RSSM.

    See `Family.keeps_features`.
    """
    del iteration
    return True

  def quality(self, iteration):
    """Returns `reconstruction` and `dynamics`. See `Family.quality`."""
    return self.run.quality(_FIT, iteration)

  def observation_figures(self, model, observations, episodes):
    """Returns `reconstruction`. See `Family.observation_figures`."""
    del observations
    spec = self.run.spec.observation
    return {"reconstruction": evaluation.reconstruction_quality(model, spec, episodes)}

  def make_fit(self, fit, iteration):
    """Fits the RSSM to all rollouts so far, unless that fit exists. See `Family.make_fit`.

    Returns:
      `reconstruction` (see `reconstruction_quality`) and `dynamics` (see `dynamics_quality`).
    """
    return fitted(self.run, fit, iteration, self._fit, _check)

  def _fit(self, iteration: int) -> dict[str, Any]:
    run = self.run
    keras.utils.set_random_seed(run.seed)  # A repeated call starts from the same weights.
    model, folders = self.new_model(), run.data_folders(iteration)
    if iteration:
      self.load_model(model, iteration - 1)
    if not (run.path(_FIT, iteration) / "fit.json").exists():
      episodes = datasets.episodes_dataset(folders, batch_size=_ROWS)
      try:
        model.adapt(episodes, rewards_only=iteration > 0)
      except RewardRangeError as error:
        raise ConfigError(str(error)) from error
    sequences = functools.partial(
      datasets.sequences_dataset, sequence_length=run.config.rssm_fit.sequence_length
    )
    fit_model(run, _FIT, "RSSM", model, iteration, sequences, folders)
    return self.figures(model, iteration)

  def figures(self, model, iteration):
    """Returns `reconstruction` and `dynamics`. See `Family.figures`."""
    run, folders = self.run, self.run.data_folders(iteration)
    held_out = datasets.episodes_dataset(
      folders,
      batch_size=_ROWS,
      split="held_out",
      held_out_fraction=run.config.collect.held_out,
    )
    spec = run.spec.observation
    return {
      "reconstruction": evaluation.reconstruction_quality(
        model, spec, held_out.take(_NUM_EPISODES // _ROWS)
      ),
      "dynamics": evaluation.dynamics_quality(model, held_out),
    }


def _check(quality: dict[str, Any]) -> None:
  """Checks both sections of the figures.

  Raises:
    QualityGateError: see `check_reconstruction` and `check_dynamics`.
  """
  evaluation.check_reconstruction(quality["reconstruction"])
  evaluation.check_dynamics(quality["dynamics"])
