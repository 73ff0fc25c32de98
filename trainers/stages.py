"""The stages of a run in a workdir: each is resumable, and returns at once when it is done.

workdir/
  run.json               configuration and seed; another configuration is refused
  data/000, 000_random   rollouts of iteration 0, from official and from random starts
  vae/000                fits; `weights.npz` in each
  latents/000            all rollouts so far, as posteriors of the VAE of iteration 0
  dynamics/000
  controller/000         trained in the dream of iteration 0, and its validation returns
  export/                SavedModels of the chosen controller, its planner, its world model
  results.json, report.html
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import logging
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from trainers.learners import Learner, make_learner, make_strategy
from trainers.playing import episode_seeds, evaluate, num_workers, play, scripted_actor, summarize
from trainers.workdir import WorkdirError, locked, read_json, say, write_json
from wm_tf import config as config_lib
from wm_tf import evaluation, rng
from wm_tf.agent import Agent, AgentActor
from wm_tf.controllers import exploration
from wm_tf.controllers.planner import Planner
from wm_tf.core import Episode, Nest
from wm_tf.data import datasets, rollouts
from wm_tf.data.collect import Actor, collect
from wm_tf.envs import env_spec, make_env, make_heuristic
from wm_tf.imagination import recently_rewarded, sample_states
from wm_tf.models.ensemble import dynamics_class
from wm_tf.models.mdn_rnn import LatentDynamics
from wm_tf.models.vae import VAE
from wm_tf.training import checkpoints
from wm_tf.training.loggers import make_loggers, progress
from wm_tf.training.loop import fit

_STEPS_PER_CHECKPOINT = 10  # Of a controller's training.


class Run:
  """A run: configuration, seed and workdir, and its stages in order.

  Use as a context manager: two processes on one workdir would overwrite each other, so the second
  one is refused with the pid of the first.
  """

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
      workdir: the folder.
      config: must equal the one the workdir was made with.
      seed: of everything that is random; likewise.
      force: whether to go on past a failed quality gate.
      create: whether the workdir may be a new one.

    Raises:
      ConfigError: if there is no such environment.
    """
    self.workdir, self.config, self.seed, self.force = Path(workdir), config, seed, force
    self._create = create
    try:
      self.spec = env_spec(config.environment)
    except (ValueError, ImportError, AttributeError) as error:
      raise config_lib.ConfigError(f"environment={config.environment}: {error}") from error
    for group, check in (  # What would otherwise fail after hours fails now.
      ("collect", self._explorers),
      ("controller", lambda: make_strategy(config.controller)),
      ("planner", lambda: config.planner.strategy(self.spec.action_size)),
    ):
      try:
        check()
      except ValueError as error:
        raise config_lib.ConfigError(f"{group}: {error}") from error
    self._lock = contextlib.ExitStack()

  def __enter__(self) -> Run:
    """Opens or creates the workdir.

    Raises:
      WorkdirError: if the workdir belongs to another run, or another process is at it.
    """
    if not self._create and not (self.workdir / "run.json").exists():
      raise WorkdirError(
        f"{self.workdir} holds no run; name its folder by --workdir, or run trainers.collect first."
      )
    self.workdir.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as lock:
      lock.enter_context(locked(self.workdir))
      self._claim()
      self._lock = lock.pop_all()
    return self

  def __exit__(self, *_) -> None:
    self._lock.close()

  def _claim(self) -> None:
    path = self.workdir / "run.json"
    mine = {"config": config_lib.to_dict(self.config), "seed": self.seed}
    if not path.exists():
      write_json(path, mine)
      return
    there = read_json(path)
    there["config"] = config_lib.completed(there["config"])
    if there == json.loads(json.dumps(mine)):
      return
    old = dict(checkpoints.flatten_with_path(there))
    new = dict(checkpoints.flatten_with_path(json.loads(json.dumps(mine))))
    changed = [k for k in {**old, **new} if old.get(k) != new.get(k)]
    name = changed[0].removeprefix("config/").replace("/", ".")
    raise WorkdirError(
      f"{self.workdir} holds a run with {name} = {old.get(changed[0])!r}, and now it is "
      f"{new.get(changed[0])!r}"
      + (f" ({len(changed) - 1} more differ)" if len(changed) > 1 else "")
      + ". Use another --workdir, the old settings, or remove the folder."
    )

  # --- Places -------------------------------------------------------------------------------

  def path(self, stage: str, iteration: int) -> Path:
    return self.workdir / stage / f"{iteration:03d}"

  def data_folders(self, iteration: int) -> list[Path]:
    """All rollout folders up to an iteration; the newest last."""
    folders = []
    for i in range(iteration + 1):
      for folder in (self.path("data", i), self.workdir / "data" / f"{i:03d}_random"):
        if (folder / rollouts.MANIFEST).exists():
          folders.append(folder)
    if not folders:
      raise WorkdirError(f"{self.workdir}/data holds no rollouts; run trainers.collect first.")
    return folders

  def vae_iteration(self, iteration: int) -> int:
    """The iteration whose VAE is in use at `iteration`."""
    return min(iteration, self.config.num_vae_refits)

  def latent_folders(self, iteration: int) -> list[Path]:
    base = self.path("latents", self.vae_iteration(iteration))
    return [base / folder.name for folder in self.data_folders(iteration)]

  # --- Stages -------------------------------------------------------------------------------

  def collect(self, iteration: int) -> None:
    """Collects the rollouts of an iteration: exploration at 0, then the last controller."""
    settings = self.config.collect
    num = settings.episodes_per_iteration if iteration else settings.num_episodes
    num_random = round(num * settings.random_start)
    for suffix, num_episodes in (("", num - num_random), ("_random", num_random)):
      folder = self.workdir / "data" / f"{iteration:03d}{suffix}"
      there = 0
      if (folder / rollouts.MANIFEST).exists():
        manifest = rollouts.load_manifest(folder)
        for shard in manifest.shards:
          rollouts.check_size(folder, shard)
        there = len(manifest.episodes)
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

  def train_vae(self, iteration: int) -> dict[str, float]:
    """Fits the VAE of an iteration to all frames so far; returns its held-out figures."""
    iteration = self.vae_iteration(iteration)
    quality = self._fitted("vae", iteration, self._fit_vae)
    self._gate(evaluation.check_vae, quality)
    return quality

  def _fit_vae(self, iteration: int) -> dict[str, float]:
    folder, settings = self.path("vae", iteration), self.config.vae_fit
    keras.utils.set_random_seed(self.seed)  # Initial weights: a killed run begins with the same.
    vae = VAE(self.config.vae)
    if iteration:
      checkpoints.load_weights(vae, self.path("vae", iteration - 1) / "weights.npz")
    self._fit(
      "VAE",
      vae,
      folder,
      iteration,
      settings,
      datasets.frames_dataset,
      self.data_folders(iteration),
      {},
    )
    held_out = datasets.frames_dataset(
      self.data_folders(iteration),
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
    sources, targets = self.data_folders(iteration), self.latent_folders(iteration)
    total = sum(len(rollouts.load_manifest(folder).episodes) for folder in sources)
    before = 0
    with progress(total, f"encode {iteration:03d}", unit="episode") as bar:
      for source, target in zip(sources, targets, strict=True):
        manifest = datasets.write_latents(
          source,
          target,
          encode,
          fingerprint=fingerprint,
          on_progress=lambda done, _, before=before: bar.update(before + done - bar.count),
        )
        before += len(manifest.episodes)

  def train_dynamics(self, iteration: int) -> dict[str, Any]:
    """Fits the dynamics of an iteration to all latents so far; returns their held-out figures."""
    quality = self._fitted("dynamics", iteration, self._fit_dynamics)
    self._gate(evaluation.check_dynamics, quality)
    return quality

  def _fit_dynamics(self, iteration: int) -> dict[str, Any]:
    self.encode(iteration)
    folder, settings = self.path("dynamics", iteration), self.config.dynamics_fit
    keras.utils.set_random_seed(self.seed)
    model = self._new_world_model(self.vae(iteration))
    if iteration:
      previous = self.path("dynamics", iteration - 1) / "weights.npz"
      vae_weights = [v.numpy() for v in model.vae.weights]
      checkpoints.load_weights(model, previous)
      for variable, value in zip(model.vae.weights, vae_weights, strict=True):
        variable.assign(value)
    folders = self.latent_folders(iteration)
    if not (folder / "fit.json").exists():
      model.adapt(datasets.episodes_dataset(folders, batch_size=16))
    self._fit(
      "dynamics",
      model,
      folder,
      iteration,
      settings,
      datasets.sequences_dataset,
      folders,
      {"sequence_length": settings.sequence_length},
    )
    held_out = datasets.episodes_dataset(
      folders, batch_size=8, split="held_out", held_out_fraction=self.config.collect.held_out
    )
    return evaluation.dynamics_quality(model, held_out)

  def train_controller(self, iteration: int) -> None:
    """Trains a controller in the dream of an iteration."""
    folder, settings = self.path("controller", iteration), self.config.controller
    saved = checkpoints.Checkpoints(folder / "checkpoints")
    learner = self._learner
    label = f"{learner.title} {iteration:03d}"
    if (folder / "controller.npz").exists():
      say(f"{label}: done before.")
      saved.clear()
      return
    model = self._load_world_model(self._learner_model, iteration)
    folders = self.latent_folders(iteration)
    seed = episode_seeds("dream", self.seed, 1, iteration)[0]
    episodes = datasets.episodes_dataset(folders, batch_size=16)
    states = sample_states(model, episodes, 2 * settings.num_starts, seed)
    previous = None
    if iteration and self.vae_iteration(iteration) == self.vae_iteration(iteration - 1):
      previous = self._load_policy(learner, iteration - 1)
    num_steps = learner.begin(model.features(states).numpy(), previous)
    starts = self._dream_starts(model, episodes, seed + 1)
    restored = saved.restore(learner.state())
    first = 0
    if restored is not None:
      first, state = restored
      learner.restore(state)
    logger = make_loggers(folder, desc=label, keys=learner.shown)
    logger.rewind(first)
    try:
      for step in range(first, num_steps):
        metrics = learner.step(starts, rng.fold_in(rng.make_seed(seed), step))
        logger.write(step + 1, metrics)
        logger.tick(step + 1, num_steps)
        if (step + 1) % _STEPS_PER_CHECKPOINT == 0:
          saved.save(step + 1, learner.state())
    finally:
      logger.close()
    learner.finish()
    checkpoints.save_nest(folder / "controller.npz", learner.policy_state())
    saved.clear()

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

  def iterate(self) -> list[dict[str, Any]]:
    """Collects, refits and dreams `num_iterations` times after the first; returns validations."""
    history = []
    for iteration in range(self.config.num_iterations + 1):
      for stage in (self.collect, self.train_vae, self.train_dynamics, self.train_controller):
        self._timed(stage, iteration)
      history.append(self._timed(self.validate, iteration))
    return history

  def validations(self) -> list[dict[str, Any]]:
    """Every iteration's validation so far."""
    paths = sorted((self.workdir / "controller").glob("*/validation.json"))
    return [read_json(path) for path in paths]

  def best_iteration(self) -> int:
    """The iteration whose controller did best on the validation seeds."""
    validations = self.validations()
    if not validations:
      raise WorkdirError(f"{self.workdir} has no validated controller; run trainers.iterate first.")
    best = max(validations, key=lambda v: v["controller_in_environment"]["mean"])
    return best["iteration"]

  # --- Evaluation ---------------------------------------------------------------------------

  def evaluate(self, actor: Actor, seeds: Sequence[int], label: str) -> dict[str, Any]:
    """As the function `evaluate`, with the run's configuration."""
    return evaluate(self.config, actor, seeds, label)

  def play(self, actor: Actor, seed: int) -> Episode:
    """As the function `play`, with the run's configuration."""
    return play(self.config, actor, seed)

  def evaluate_in_model(self, agent: Agent, num_episodes: int, iteration: int) -> dict[str, Any]:
    """Dreams full episodes from real first frames."""
    started = time.monotonic()
    folders = [f for f in self.latent_folders(iteration) if not f.name.endswith("_random")]
    episodes = datasets.episodes_dataset(folders, batch_size=64, num_steps=1)
    starts = sample_states(agent.world_model, episodes, 1024, self.seed)
    spec = self.spec
    result = evaluation.evaluate_in_model(
      agent.world_model,
      agent.policy,
      starts,
      -(-(spec.max_steps - spec.frames_to_skip) // spec.action_repeat),
      episode_seeds("dream", self.seed, num_episodes, 1 + iteration),
      initial_return=self._initial_return(),
      action_repeat=spec.action_repeat,
    )
    return summarize(result, time.monotonic() - started)

  def actor(self, name: str) -> Actor:
    """What `--agent` names: random, heuristic, controller, planner."""
    if name in ("random", "heuristic"):
      return scripted_actor(name, self.config.environment)
    return AgentActor(self.agent(name, self.best_iteration()))

  # --- Models -------------------------------------------------------------------------------

  def vae(self, iteration: int) -> VAE:
    vae = VAE(self.config.vae)
    weights = self.path("vae", self.vae_iteration(iteration)) / "weights.npz"
    if not weights.exists():
      raise WorkdirError(f"{weights} does not exist; run trainers.train_vae first.")
    checkpoints.load_weights(vae, weights)
    return vae

  def world_model(self, iteration: int) -> LatentDynamics:
    return self._load_world_model(self._new_world_model(), iteration)

  def agent(self, policy: str, iteration: int) -> Agent:
    """The `controller` of an iteration, or the `planner` that takes its proposals."""
    model = self.world_model(iteration)
    learner = make_learner(model, self.config.controller, self.seed)
    learner.restore_policy(self._load_policy(learner, iteration))
    if policy == "controller":
      return Agent(self.spec, model, learner.policy)
    if policy == "planner":
      planner = Planner(model, self.config.planner, learner.policy, learner.critic)
      return Agent(self.spec, model, planner)
    raise ValueError(f"Unknown agent {policy!r}: it must be controller or planner.")

  def quality(self, stage: str, iteration: int) -> dict[str, Any]:
    """The held-out figures of a finished fit, of stage `vae` or `dynamics`."""
    return read_json(self.path(stage, iteration) / "quality.json")

  # --- Inside -------------------------------------------------------------------------------

  def _fitted(self, stage: str, iteration: int, fit_fn: Callable[[int], Any]) -> dict[str, Any]:
    """The held-out figures of a fit, which is done now unless it has been."""
    path = self.path(stage, iteration) / "quality.json"
    if path.exists():
      say(f"fit {stage} {iteration:03d}: done before.")
    else:
      write_json(path, fit_fn(iteration))
    return self.quality(stage, iteration)

  def _fit(self, label, model, folder, iteration, settings, dataset_fn, folders, options) -> None:
    common = dict(
      batch_size=settings.batch_size, held_out_fraction=self.config.collect.held_out, **options
    )
    checksums = [s.sha256 for f in folders for s in rollouts.load_manifest(f).shards]
    repeats = lambda folder: 1 if folder.name.startswith("000") else settings.on_policy_repeats
    train_folders = [folder for folder in folders for _ in range(repeats(folder))]
    logger = make_loggers(folder, desc=f"fit {label} {iteration:03d}")
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

  def _dream_starts(self, model: LatentDynamics, episodes, seed: int):
    """Real states for dreams to start from; see `ControllerConfig.start_window`."""
    settings = self.config.controller
    if not settings.start_window:
      return sample_states(model, episodes, settings.num_starts, seed)
    num_anywhere = round(settings.num_starts * settings.start_anywhere)
    select = recently_rewarded(settings.start_window)
    starts = sample_states(model, episodes, settings.num_starts - num_anywhere, seed, select)
    if num_anywhere:
      anywhere = sample_states(model, episodes, num_anywhere, seed + 1)
      starts = tf.nest.map_structure(lambda *x: tf.concat(x, axis=0), starts, anywhere)
    return starts

  def _timed(self, stage, iteration: int):
    """Runs a stage and adds its seconds to `seconds.json`."""
    started = time.monotonic()
    result = stage(iteration)
    self.add_seconds(stage.__name__, time.monotonic() - started)
    return result

  def add_seconds(self, name: str, seconds: float) -> None:
    """Adds to the time that the run has spent on something, over all its restarts."""
    spent = self.seconds()
    spent[name] = round(spent.get(name, 0.0) + seconds, 2)
    write_json(self.workdir / "seconds.json", spent)

  def seconds(self) -> dict[str, float]:
    """The time spent so far, by stage."""
    path = self.workdir / "seconds.json"
    return read_json(path) if path.exists() else {}

  def _gate(self, check, quality) -> None:
    try:
      check(quality)
    except evaluation.QualityGateError as error:
      if not self.force:
        raise
      logging.warning("%s (going on: --force)", error)

  def _explorers(self) -> exploration.Mixture:
    settings, size = self.config.collect, self.spec.action_size
    actors = {
      "uniform": exploration.Uniform(size),
      "held": exploration.Held(size),
      "brownian": exploration.Brownian(size),
    }
    weights = {name: getattr(settings, name) for name in actors}
    for noise, options in settings.heuristics if settings.heuristic else ():
      details = [f"{key}={value:g}" for key, value in (*options, ("noise", noise))]
      name = " ".join(["heuristic", *details])
      heuristic = make_heuristic(self.config.environment, **dict(options))
      actor = exploration.Noisy(exploration.Scripted(heuristic), noise)
      actors[name] = exploration.Interrupted(actor, settings.interruption_rate)
      weights[name] = settings.heuristic / len(settings.heuristics)
    chosen = {name: weight for name, weight in weights.items() if weight}
    return exploration.Mixture({name: actors[name] for name in chosen}, chosen)

  def _dynamics_class(self) -> type[LatentDynamics]:
    return dynamics_class(self.config.dynamics)

  def _new_world_model(self, vae: VAE | None = None) -> LatentDynamics:
    vae = VAE(self.config.vae) if vae is None else vae
    return self._dynamics_class()(vae, self.spec.action_size, self.config.dynamics)

  def _load_world_model(self, model: LatentDynamics, iteration: int) -> LatentDynamics:
    weights = self.path("dynamics", iteration) / "weights.npz"
    if not weights.exists():
      raise WorkdirError(f"{weights} does not exist; run trainers.train_dynamics first.")
    checkpoints.load_weights(model, weights)
    return model

  def _load_policy(self, learner: Learner, iteration: int) -> Nest:
    path = self.path("controller", iteration) / "controller.npz"
    if not path.exists():
      raise WorkdirError(f"{path} does not exist; run trainers.train_controller first.")
    return checkpoints.load_nest(path, learner.policy_state())

  # One model and one learner for all iterations, so that they are compiled once.

  @functools.cached_property
  def _learner_model(self) -> LatentDynamics:
    return self._new_world_model()

  @functools.cached_property
  def _learner(self) -> Learner:
    return make_learner(self._learner_model, self.config.controller, self.seed)

  def _initial_return(self) -> float:
    """Mean return of the frames skipped at the start of official episodes."""
    gains = [
      info.episode_return - float(episode.reward.sum())
      for episode, info in rollouts.read_episodes(self.path("data", 0))
    ]
    return float(np.mean(gains))
