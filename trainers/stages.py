"""The stages of a run in a workdir: each is resumable, and returns at once when it is done."""

from __future__ import annotations

import functools
import hashlib
import logging
import math
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from trainers.evolution import make_strategy
from trainers.gradient_learners import check_method
from trainers.learned import LearnedRun
from trainers.learners import Learner, make_learner
from trainers.playing import episode_seeds, explorers, num_workers
from trainers.workdir import WorkdirError, read_json, say, write_json
from wm_tf import config as config_lib
from wm_tf import disagreement, evaluation, files, rng
from wm_tf.agent import AgentActor
from wm_tf.controllers import exploration
from wm_tf.core import Nest
from wm_tf.data import datasets, rollouts
from wm_tf.data.collect import collect
from wm_tf.data.manifest import CorruptManifestError
from wm_tf.envs import make_env
from wm_tf.imagination import Draw, draw_states, recently_rewarded
from wm_tf.models.ensemble import Ensemble
from wm_tf.models.mdn_rnn import LatentDynamics
from wm_tf.models.vae import VAE
from wm_tf.training import checkpoints
from wm_tf.training.loggers import make_loggers, progress, read_history, restore_history
from wm_tf.training.loop import NonFiniteLossError, fit

_STEPS_PER_CHECKPOINT = 10  # Of a controller's training.
_MAX_BAD_STEPS = 10  # In a row, of the same.
_DISTRIBUTION = "distribution.npz"


class Run(LearnedRun):
  """A run: configuration, seed and workdir, and its stages in order."""

  def __init__(
    self,
    workdir: str | os.PathLike,
    config: config_lib.ExperimentConfig,
    seed: int,
    force: bool = False,
    create: bool = True,
  ):
    """Describes a run; entering the context opens its workdir.

    Args:
      workdir, config, seed, create: as of `RunFolder`.
      force: whether to go on past a failed quality gate.

    Raises:
      ConfigError: if there is no such environment, or a stage could not begin.
    """
    super().__init__(workdir, config, seed, create)
    self.force = force
    action_size = self.spec.action_size
    for group, check in (  # What would otherwise fail after hours fails now.
      ("collect", self._explorers),
      ("controller", lambda: make_strategy(config.controller)),
      ("planner", lambda: config.planner.strategy(action_size)),
    ):
      try:
        check()
      except ValueError as error:
        raise config_lib.ConfigError(f"{group}: {error}") from error

  def iterate(self) -> list[dict[str, Any]]:
    """Collects, refits and dreams `num_iterations` times after the first; returns validations."""
    check_method(self.config.controller)  # Before hours of collecting and fitting.
    history = []
    for iteration in range(self.config.num_iterations + 1):
      for stage in (self.collect, self.train_vae, self.train_dynamics, self.train_controller):
        self.timed(stage, iteration)
      history.append(self.timed(self.validate, iteration))
    return history

  # --- Rollouts -----------------------------------------------------------------------------

  def collect(self, iteration: int) -> None:
    """Collects the rollouts of an iteration: exploration at 0, then the last controller."""
    settings = self.config.collect
    num = settings.episodes_per_iteration if iteration else settings.num_episodes
    num_random = round(num * settings.random_start)
    for suffix, num_episodes in (("", num - num_random), ("_random", num_random)):
      folder = self.workdir / "data" / f"{iteration:03d}{suffix}"
      there = 0
      if (folder / rollouts.MANIFEST).exists():
        shards = rollouts.shards_there(folder, rollouts.load_manifest(folder))
        there = sum(len(shard.episodes) for shard in shards)
        say(f"collect {folder.name}: {there} of {num_episodes} episodes are there.")
      if there < num_episodes:
        self._collect(folder, iteration, num_episodes, there, bool(suffix))

  def _collect(
    self, folder: Path, iteration: int, num_episodes: int, there: int, random_start: bool
  ) -> None:
    settings = self.config.collect
    options = {}  # An environment need not know options that are not asked for.
    if settings.stop_after_idle_decisions:
      options["stop_after_idle_decisions"] = settings.stop_after_idle_decisions
    if random_start:
      options["random_start"] = True
    if iteration == 0:
      actor = self._explorers()
      policy = actor.choice
    else:
      agent = self.agent("controller", iteration - 1)
      actor = exploration.Noisy(AgentActor(agent), settings.controller_noise)
      policy = f"controller_{iteration - 1:03d}"
    purpose = "collect_random" if random_start else "collect"
    label = f"collect {folder.name}"
    with progress(num_episodes, label, unit="episode", initial=there) as bar:
      collect(
        folder,
        functools.partial(make_env, self.config.environment, **options),
        actor,
        episode_seeds(purpose, self.seed, num_episodes, iteration),
        policy_name=policy,
        iteration=iteration,
        num_workers=num_workers(self.config),
        episodes_per_shard=settings.episodes_per_shard,
        on_progress=lambda done, total, info: bar.update(1, {"return": info.episode_return}),
      )

  def _explorers(self) -> exploration.Mixture:
    return explorers(self.config.collect, self.config.environment)

  # --- Fits ---------------------------------------------------------------------------------

  def train_vae(self, iteration: int) -> dict[str, float]:
    """Fits the VAE of an iteration to all frames so far; returns its held-out figures."""
    iteration = self.vae_iteration(iteration)
    return self._fitted("vae", iteration, self._fit_vae, evaluation.check_vae)

  def _fit_vae(self, iteration: int) -> dict[str, float]:
    keras.utils.set_random_seed(self.seed)  # Initial weights: a killed run begins with the same.
    vae = VAE(self.config.vae)
    if iteration:
      checkpoints.load_weights(vae, self.path("vae", iteration - 1) / "weights.npz")
    folders = decoded = self.data_folders(iteration)
    cache = self.path("vae", iteration) / "frames"
    if self.config.vae_fit.shuffle_buffer is None:
      decoded = [cache / folder.name for folder in folders]
      self._write_all(datasets.cache_frames, f"decode {iteration:03d}", folders, decoded)
    self._fit("vae", "VAE", vae, iteration, datasets.frames_dataset, decoded)
    shutil.rmtree(cache, ignore_errors=True)
    held_out = datasets.frames_dataset(
      folders,
      batch_size=64,
      seed=0,
      split="held_out",
      held_out_fraction=self.config.collect.held_out,
      drop_remainder=False,
    )
    return evaluation.vae_quality(vae, held_out.take(32))

  def encode(self, iteration: int) -> None:
    """Writes the posteriors of all rollouts so far under the VAE of an iteration."""
    vae = self.vae(iteration)
    weights = self.path("vae", self.vae_iteration(iteration)) / "weights.npz"
    fingerprint = hashlib.sha256(weights.read_bytes()).hexdigest()
    encode = tf.function(
      lambda frames: tf.concat(vae.encode(frames), axis=-1),
      input_signature=[tf.TensorSpec([None, 64, 64, 3], tf.uint8)],
    )
    write = functools.partial(datasets.write_latents, encode_fn=encode, fingerprint=fingerprint)
    sources, targets = self.data_folders(iteration), self.latent_folders(iteration)
    self._write_all(write, f"encode {iteration:03d}", sources, targets)

  def _write_all(
    self,
    write_fn: Callable[..., rollouts.Manifest],
    label: str,
    sources: Sequence[Path],
    targets: Sequence[Path],
  ) -> None:
    """Makes latents or decoded frames of rollouts, with progress."""
    total = sum(len(rollouts.load_manifest(folder).episodes) for folder in sources)
    before = 0
    with progress(total, label, unit="episode") as bar:
      for source, target in zip(sources, targets, strict=True):
        update = lambda done, _, before=before: bar.update(before + done - bar.count)
        before += len(write_fn(source, target, on_progress=update).episodes)

  def _encode_missing(self, iteration: int) -> None:
    """Encodes again what latents there should be and are not, as far as sizes tell."""
    folders = zip(self.data_folders(iteration), self.latent_folders(iteration), strict=True)
    if not all(self._is_encoded(source, target) for source, target in folders):
      self.encode(iteration)

  def _is_encoded(self, source: Path, target: Path) -> bool:
    frames = rollouts.load_manifest(source).shards
    try:
      latents = rollouts.shards_there(target, rollouts.load_manifest(target))
    except (FileNotFoundError, CorruptManifestError, rollouts.CorruptShardError):
      return False
    return [shard.source for shard in latents] == [shard.sha256 for shard in frames]

  def train_dynamics(self, iteration: int) -> dict[str, Any]:
    """Fits the dynamics of an iteration to all latents so far; returns their held-out figures."""
    quality = self._fitted("dynamics", iteration, self._fit_dynamics, evaluation.check_dynamics)
    self._encode_missing(iteration)  # If the fit was done before, they may have gone since.
    return quality

  def _fit_dynamics(self, iteration: int) -> dict[str, Any]:
    self.encode(iteration)
    keras.utils.set_random_seed(self.seed)
    model = self.new_world_model(self.vae(iteration))
    if iteration:
      previous = self.path("dynamics", iteration - 1) / "weights.npz"
      vae_weights = [v.numpy() for v in model.vae.weights]
      checkpoints.load_weights(model, previous)
      for variable, value in zip(model.vae.weights, vae_weights, strict=True):
        variable.assign(value)
    folders = self.latent_folders(iteration)
    if not (self.path("dynamics", iteration) / "fit.json").exists():
      try:
        model.adapt(datasets.episodes_dataset(folders, batch_size=16))
      except ValueError as error:
        where = folders[0].parent
        raise WorkdirError(f"{where}: {error} Remove it: it is encoded again.") from error
    sequences = functools.partial(
      datasets.sequences_dataset, sequence_length=self.config.dynamics_fit.sequence_length
    )
    self._fit("dynamics", "dynamics", model, iteration, sequences, folders)
    if isinstance(model, Ensemble):
      options = {"split": "train", "held_out_fraction": self.config.collect.held_out}
      disagreement.calibrate(
        model, datasets.episodes_dataset(folders, batch_size=16, seed=self.seed, **options)
      )
      checkpoints.save_weights(model, self.path("dynamics", iteration) / "weights.npz")
    held_out = datasets.episodes_dataset(
      folders, batch_size=8, split="held_out", held_out_fraction=self.config.collect.held_out
    )
    return evaluation.dynamics_quality(model, held_out)

  def _fitted(
    self, stage: str, iteration: int, fit_fn: Callable[[int], Any], gate_fn: Callable[[Any], None]
  ) -> dict[str, Any]:
    """The held-out figures of a fit, which is done now unless it has been, past their gate."""
    path = self.path(stage, iteration) / "quality.json"
    if path.exists() and (path.parent / "weights.npz").exists():
      say(f"fit {stage} {iteration:03d}: done before.")
    else:
      write_json(path, fit_fn(iteration))
    _seal(path.parent, "run.json", "metrics.jsonl", "weights.npz", "fit.json", "quality.json")
    quality = self.quality(stage, iteration)
    try:
      gate_fn(quality)
    except evaluation.QualityGateError as error:
      if self.config.quality_gates and not self.force:
        raise
      reason = "--force" if self.force else "quality_gates=False"
      logging.warning("%s (going on: %s)", error, reason)
    return quality

  def _fit(
    self,
    stage: str,
    title: str,
    model: keras.Model,
    iteration: int,
    dataset_fn: Callable[..., tf.data.Dataset],
    folders: Sequence[Path],
  ) -> None:
    """Fits `model` to the data of `folders`, in the folder of its stage."""
    folder, settings = self.path(stage, iteration), getattr(self.config, f"{stage}_fit")
    common = dict(batch_size=settings.batch_size, held_out_fraction=self.config.collect.held_out)
    checksums = [s.sha256 for f in folders for s in rollouts.load_manifest(f).shards]
    repeats = lambda folder: 1 if folder.name.startswith("000") else settings.on_policy_repeats
    train_folders = [folder for folder in folders for _ in range(repeats(folder))]
    logger = make_loggers(folder, desc=f"fit {title} {iteration:03d}")
    try:
      fit(
        model,
        lambda epoch: dataset_fn(
          train_folders,
          seed=self.seed,
          epoch=epoch,
          shuffle_buffer=settings.shuffle_buffer,
          **common,
        ),
        settings.first if iteration == 0 else settings.refit,
        folder,
        seed=self.seed + 1000 * iteration,
        eval_fn=lambda: dataset_fn(
          folders, seed=None, split="held_out", drop_remainder=False, **common
        ),
        logger=logger,
        fingerprint={"data": hashlib.sha256("".join(checksums).encode()).hexdigest()},
      )
    finally:
      logger.close()

  # --- Controllers --------------------------------------------------------------------------

  def train_controller(self, iteration: int) -> None:
    """Trains a controller in the dream of an iteration."""
    folder = self.path("controller", iteration)
    saved = checkpoints.Checkpoints(folder / "checkpoints")
    learner = self._learner
    label = f"{learner.title} {iteration:03d}"
    if (folder / "controller.npz").exists():
      say(f"{label}: done before.")
      _seal_controller(folder)
      saved.clear()
      return
    check_method(self.config.controller)
    self._encode_missing(iteration)
    model = self.load_world_model(self._learner_model, iteration)
    seed = self._dream_seed(iteration)
    features, starts = self.dream_data(model, iteration)
    previous = None
    if iteration and self.vae_iteration(iteration) == self.vae_iteration(iteration - 1):
      previous = self.load_policy(learner, iteration - 1)
    num_steps = learner.begin(features, previous)
    history = folder / "metrics.jsonl"
    checkpoint = lambda: {"learner": learner.state(), "history": read_history(history) or ""}
    restored = saved.restore(checkpoint())
    first = 0
    if restored is not None:
      first, state = restored
      learner.restore(state["learner"])
      restore_history(history, state["history"])
    logger = make_loggers(folder, desc=label, keys=learner.shown)
    logger.rewind(first or -1)
    bad_steps = 0
    try:
      for step in range(first, num_steps):
        metrics = learner.step(starts, rng.fold_in(rng.make_seed(seed), step))
        bad = [name for name in learner.shown if not math.isfinite(metrics[name])]
        bad_steps = bad_steps + 1 if bad else 0
        if bad_steps == _MAX_BAD_STEPS:
          raise NonFiniteLossError(
            f"{label}: {', '.join(bad)} was not finite for {bad_steps} steps in a row. Check the "
            f"world model in {self.path('dynamics', iteration)}, or lower the learning rates."
          )
        logger.write(step + 1, metrics)
        logger.tick(step + 1, num_steps)
        if (step + 1) % _STEPS_PER_CHECKPOINT == 0:
          saved.save(step + 1, checkpoint())
    finally:
      logger.close()
    learner.finish()
    distribution = learner.distribution()
    if distribution is not None:
      checkpoints.save_nest(folder / _DISTRIBUTION, distribution)
    checkpoints.save_nest(folder / "controller.npz", learner.policy_state())
    _seal_controller(folder)
    saved.clear()

  def dream_data(self, model: LatentDynamics, iteration: int) -> tuple[np.ndarray, Nest]:
    """What a `Learner` is given of all rollouts so far: `(features float32[M, F], starts)`."""
    seed = self._dream_seed(iteration)
    episodes = datasets.episodes_dataset(self.latent_folders(iteration), batch_size=16)
    draws = [Draw(2 * self.config.controller.num_starts, seed), *self._start_draws(seed + 1)]
    states, *starts = draw_states(model, episodes, draws)
    starts = tf.nest.map_structure(lambda *x: tf.concat(x, axis=0), *starts)
    return model.features(states).numpy(), starts

  def _dream_seed(self, iteration: int) -> int:
    return episode_seeds("dream", self.seed, 1, iteration)[0]

  # One model and one learner for all iterations, so that they are compiled once.

  @functools.cached_property
  def _learner_model(self) -> LatentDynamics:
    return self.new_world_model()

  @functools.cached_property
  def _learner(self) -> Learner:
    return make_learner(self._learner_model, self.config.controller, self.seed)

  def _start_draws(self, seed: int) -> list[Draw]:
    """Real states for dreams to start from; see `ControllerConfig.start_window`."""
    settings = self.config.controller
    if not settings.start_window:
      return [Draw(settings.num_starts, seed)]
    num_anywhere = round(settings.num_starts * settings.start_anywhere)
    select = recently_rewarded(settings.start_window)
    draws = [Draw(settings.num_starts - num_anywhere, seed, select), Draw(num_anywhere, seed + 1)]
    return [draw for draw in draws if draw.num_states > 0]

  def validate(self, iteration: int) -> dict[str, Any]:
    """Plays the controller of an iteration on validation seeds, in the model and for real."""
    path = self.path("controller", iteration) / "validation.json"
    if not path.exists():
      num = self.config.evaluate.validation_episodes
      seeds = episode_seeds("validation", self.seed, num)
      agent = self.agent("controller", iteration)
      write_json(
        path,
        {
          "iteration": iteration,
          "controller_in_model": self.evaluate_in_model(agent, num, iteration),
          "controller_in_environment": self.evaluate(
            AgentActor(agent), seeds, f"validate {iteration:03d}"
          ),
        },
      )
    return read_json(path)


def _seal_controller(folder: Path) -> None:
  searched = [path.name for path in folder.glob(_DISTRIBUTION)]  # Not every method has one.
  _seal(folder, "controller.npz", "metrics.jsonl", *searched)


def _seal(folder: Path, *names: str) -> None:
  """Writes down the checksums of a finished stage, unless that is done or a file is gone since."""
  if not (folder / files.SUMS).exists() and all((folder / name).exists() for name in names):
    files.write_sums(folder, names)
