"""The two-stage family: a VAE on observations, then a dynamics on its latents.

Folders in the workdir:
  vae/000       a fit of the VAE; `frames` in it holds the decoded data/ while the fit runs
  latents/000   posteriors of all rollouts so far, under the VAE of iteration 0
  dynamics/000  a fit of the dynamics

References:
  Ha & Schmidhuber 2018, arXiv:1803.10122, section 3.
"""

from __future__ import annotations

import functools
import hashlib
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import keras
import tensorflow as tf

from wm_tf import evaluation
from wm_tf.checks import ConfigError
from wm_tf.data import datasets, rollouts
from wm_tf.data.manifest import CorruptManifestError
from wm_tf.evaluation import disagreement
from wm_tf.models.ensemble import Ensemble, dynamics_class
from wm_tf.models.heads import RewardRangeError
from wm_tf.models.mdn_rnn import LatentDynamics
from wm_tf.models.vae import VAE
from wm_tf.runs.families import Family
from wm_tf.runs.fitting import fit_model, fitted
from wm_tf.runs.workdir import WorkdirError
from wm_tf.training import checkpoints
from wm_tf.training.loggers import progress


class TwoStage(Family):
  """A VAE, and an MDN-RNN or an ensemble of MDN-RNNs on its latents."""

  fits: ClassVar = {"vae": "VAE", "dynamics": "MDN-RNN"}
  datasets: ClassVar = ("vae/*/frames/*", "latents/*/*")

  # --- Models -------------------------------------------------------------------------------

  def new_model(self) -> LatentDynamics:
    """Returns an untrained dynamics on an untrained VAE. See `Family.new_model`."""
    return self.new_dynamics(self.new_vae())

  def new_vae(self) -> VAE:
    """Returns an untrained VAE."""
    return VAE(self.run.config.vae, self.run.spec.observation)

  def new_dynamics(self, vae: VAE) -> LatentDynamics:
    """Returns an untrained dynamics.

    Args:
      vae: the VAE whose latents it predicts.

    Returns:
      An `MDNRNN` or an `Ensemble`, by the configuration.
    """
    config, space = self.run.config.dynamics, self.run.spec.action_space
    return dynamics_class(config)(vae, space.size, config, num_choices=space.num_choices)

  def model_weights(self, iteration):
    """Returns the weights of the dynamics, which hold the VAE's. See `Family.model_weights`."""
    return self.run.path("dynamics", iteration) / "weights.npz"

  def load_model(self, model, iteration):
    """Loads the dynamics and its VAE from one file. See `Family.load_model`."""
    weights = self.model_weights(iteration)
    if not weights.exists():
      raise WorkdirError(f"{weights} does not exist; run trainers.train_dynamics first.")
    checkpoints.load_weights(model, weights)
    return model

  def vae(self, iteration: int) -> VAE:
    """Loads the VAE in use at an iteration.

    Args:
      iteration: the iteration.

    Returns:
      The VAE.

    Raises:
      WorkdirError: if it has not been trained.
    """
    vae = self.new_vae()
    weights = self._vae_weights(iteration)
    if not weights.exists():
      raise WorkdirError(f"{weights} does not exist; run trainers.train_vae first.")
    checkpoints.load_weights(vae, weights)
    return vae

  def _vae_weights(self, iteration: int) -> Path:
    return self.run.path("vae", self.fit_iteration("vae", iteration)) / "weights.npz"

  # --- The interface of a family ------------------------------------------------------------

  def batch_kinds(self):
    """Returns None for the VAE, and T for the dynamics. See `Family.batch_kinds`."""
    return {"vae": None, "dynamics": self.run.config.dynamics_fit.sequence_length}

  def fit_iteration(self, fit, iteration):
    """Returns at most `num_vae_refits` for the VAE. See `Family.fit_iteration`."""
    return min(iteration, self.run.config.num_vae_refits) if fit == "vae" else iteration

  def keeps_features(self, iteration):
    """Returns whether both iterations use the same VAE. See `Family.keeps_features`."""
    return self.fit_iteration("vae", iteration) == self.fit_iteration("vae", iteration - 1)

  def sequences(self, folder, iteration):
    """Returns the folder of latents for a rollout folder. See `Family.sequences`."""
    return self.run.path("latents", self.fit_iteration("vae", iteration)) / folder.name

  def prepare(self, iteration):
    """Encodes rollouts whose latents are missing. See `Family.prepare`."""
    if not all(self._is_encoded(*pair) for pair in self._encoded_pairs(iteration)):
      self.encode(iteration)

  def make_fit(self, fit, iteration):
    """Fits the VAE or the dynamics. See `Family.make_fit`."""
    return {"vae": self.train_vae, "dynamics": self.train_dynamics}[fit](iteration)

  def observation_figures(self, model, observations, episodes):
    """Returns the result of `vae_quality` under `vae`. See `Family.observation_figures`."""
    del episodes
    return {"vae": evaluation.vae_quality(model.vae, observations)}

  def dynamics_facts(self):
    """Returns the kind of the mixture. See `Family.dynamics_facts`."""
    return {"mixture": self.run.config.dynamics.mixture_kind}

  def has_disagreement(self):
    """Returns whether the dynamics is an ensemble. See `Family.has_disagreement`."""
    return self.run.config.dynamics.ensemble_size > 1

  # --- The VAE ------------------------------------------------------------------------------

  def train_vae(self, iteration: int) -> dict[str, Any]:
    """Fits the VAE in use at an iteration to all observations so far, unless it exists.

    The figures are those of `vae_quality`. See `Family.make_fit`.
    """
    iteration = self.fit_iteration("vae", iteration)
    return fitted(self.run, "vae", iteration, self._fit_vae, evaluation.check_vae)

  def _fit_vae(self, iteration: int) -> dict[str, Any]:
    run = self.run
    keras.utils.set_random_seed(run.seed)  # A repeated call starts from the same weights.
    vae = self.new_vae()
    folders = decoded = run.data_folders(iteration)
    cache = run.path("vae", iteration) / "frames"
    if run.config.vae_fit.shuffle_buffer is None:
      decoded = [cache / folder.name for folder in folders]
      self._write_all(datasets.cache_frames, f"decode {iteration:03d}", folders, decoded)
    if iteration:
      checkpoints.load_weights(vae, run.path("vae", iteration - 1) / "weights.npz")
    else:
      vae.adapt(
        datasets.observations_dataset(decoded, batch_size=256, seed=None, drop_remainder=False)
      )
    fit_model(run, "vae", "VAE", vae, iteration, datasets.observations_dataset, decoded)
    shutil.rmtree(cache, ignore_errors=True)
    held_out = datasets.observations_dataset(
      folders,
      batch_size=64,
      seed=0,
      split="held_out",
      held_out_fraction=run.config.collect.held_out,
      drop_remainder=False,
    )
    return evaluation.vae_quality(vae, held_out.take(32))

  # --- Latents ------------------------------------------------------------------------------

  def encode(self, iteration: int) -> None:
    """Writes the posteriors of all rollouts so far under the VAE in use at an iteration.

    Args:
      iteration: the iteration.

    Raises:
      WorkdirError: if the VAE has not been trained.
    """
    model = self.new_dynamics(self.vae(iteration))
    fingerprint = hashlib.sha256(self._vae_weights(iteration).read_bytes()).hexdigest()
    parts = self.run.spec.observation
    signature = parts.pack([tf.TensorSpec([None, *part.shape], part.dtype) for part in parts.parts])

    @functools.partial(tf.function, input_signature=[signature], autograph=False)
    def encode_fn(observation):
      return model.embed(observation).value

    write = functools.partial(datasets.write_latents, encode_fn=encode_fn, fingerprint=fingerprint)
    sources, targets = zip(*self._encoded_pairs(iteration), strict=True)
    self._write_all(write, f"encode {iteration:03d}", sources, targets)

  def _encoded_pairs(self, iteration: int) -> list[tuple[Path, Path]]:
    """Returns each rollout folder with the folder of its latents."""
    return [(data, self.sequences(data, iteration)) for data in self.run.data_folders(iteration)]

  def _write_all(
    self,
    write_fn: Callable[..., rollouts.Manifest],
    label: str,
    sources: Sequence[Path],
    targets: Sequence[Path],
  ) -> None:
    """Writes a dataset made of each source folder, with a progress bar."""
    total = sum(len(rollouts.load_manifest(folder).episodes) for folder in sources)
    done = 0
    with progress(total, label, unit="episode") as bar:
      for source, target in zip(sources, targets, strict=True):

        def update(count: int, _: int, before: int = done) -> None:
          bar.update(before + count - bar.count)

        done += len(write_fn(source, target, on_progress=update).episodes)

  def _is_encoded(self, source: Path, target: Path) -> bool:
    """Returns whether the latents of a rollout folder exist; files are checked by size only."""
    frames = rollouts.load_manifest(source).shards
    try:
      latents = rollouts.existing_shards(target, rollouts.load_manifest(target))
    except (FileNotFoundError, CorruptManifestError, rollouts.CorruptShardError):
      return False
    return [shard.source for shard in latents] == [shard.sha256 for shard in frames]

  # --- The dynamics -------------------------------------------------------------------------

  def train_dynamics(self, iteration: int) -> dict[str, Any]:
    """Fits the dynamics of an iteration to all latents so far, unless it exists.

    The figures are those of `dynamics_quality`. See `Family.make_fit`.
    """
    quality = fitted(self.run, "dynamics", iteration, self._fit_dynamics, evaluation.check_dynamics)
    self.prepare(iteration)  # The latents of an earlier fit may have been removed.
    return quality

  def _fit_dynamics(self, iteration: int) -> dict[str, Any]:
    run = self.run
    self.encode(iteration)
    keras.utils.set_random_seed(run.seed)
    model = self.initial_dynamics(iteration)
    folders = run.sequence_folders(iteration)
    if not (run.path("dynamics", iteration) / "fit.json").exists():
      try:
        model.adapt(datasets.episodes_dataset(folders, batch_size=16))
      except RewardRangeError as error:
        raise ConfigError(str(error)) from error
      except ValueError as error:
        where = folders[0].parent
        raise WorkdirError(f"{where}: {error} Remove it: it is encoded again.") from error
    sequences = functools.partial(
      datasets.sequences_dataset, sequence_length=run.config.dynamics_fit.sequence_length
    )
    fit_model(run, "dynamics", "dynamics", model, iteration, sequences, folders)
    held_out_fraction = run.config.collect.held_out
    if isinstance(model, Ensemble):
      options = {"split": "train", "held_out_fraction": held_out_fraction}
      disagreement.calibrate(
        model, datasets.episodes_dataset(folders, batch_size=16, seed=run.seed, **options)
      )
      checkpoints.save_weights(model, run.path("dynamics", iteration) / "weights.npz")
    held_out = datasets.episodes_dataset(
      folders, batch_size=8, split="held_out", held_out_fraction=held_out_fraction
    )
    return evaluation.dynamics_quality(model, held_out)

  def initial_dynamics(self, iteration: int) -> LatentDynamics:
    """Returns the dynamics that a fit starts from.

    Args:
      iteration: iteration of the fit.

    Returns:
      At iteration 0 an untrained dynamics, else the previous one, with the VAE now in use.
    """
    run = self.run
    model = self.new_dynamics(self.vae(iteration))
    if iteration:
      vae_weights = [variable.numpy() for variable in model.vae.weights]
      checkpoints.load_weights(model, run.path("dynamics", iteration - 1) / "weights.npz")
      for variable, value in zip(model.vae.weights, vae_weights, strict=True):
        variable.assign(value)
    return model
