"""Online training: a controller collects data while it and its world model learn from them.

Training proceeds in rounds. In a round the controller plays one episode in each environment, and
meanwhile the world model and the controller are updated on the episodes of the rounds before. The
weights that play are those from before these updates, so that results do not depend on timing: a
killed call continues and ends with the same numbers.

Files in the workdir:
  data/000         the episodes, in the order in which they were learned from
  online           metrics, checkpoints, and the best agent so far
  rssm/000, controller/000    the best agent, as an iteration of a run has it

References:
  Hafner et al. 2020, arXiv:1912.01603, algorithm 1.
  Hafner et al. 2023, arXiv:2301.04104 (replay of the newest steps, train ratio).
"""

from __future__ import annotations

import dataclasses
import json
import time
from concurrent import futures
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from wm_tf.agent import Agent, AgentActor
from wm_tf.checks import ConfigError
from wm_tf.core import Episode
from wm_tf.data import rollouts
from wm_tf.data.collect import run_episodes
from wm_tf.data.datasets import held_out_seeds
from wm_tf.data.env_pool import EnvPool
from wm_tf.data.recording import new_manifest
from wm_tf.data.replay import Replay
from wm_tf.data.rollouts import EpisodeInfo
from wm_tf.files import write_json
from wm_tf.learners.joint import JointUpdate
from wm_tf.learners.learner import make_learner
from wm_tf.learners.optimizers import numbered
from wm_tf.models.heads import RewardRangeError
from wm_tf.policies.exploration import Noisy
from wm_tf.runs.collection import environment_options
from wm_tf.runs.fitting import seal
from wm_tf.runs.playing import environment_factory, episode_seeds, explorers
from wm_tf.runs.workdir import WorkdirError, say
from wm_tf.training import checkpoints
from wm_tf.training.loggers import make_loggers, read_history, read_jsonl, restore_history
from wm_tf.training.loop import NonFiniteLossError

if TYPE_CHECKING:
  from wm_tf.runs.run import Run

_MAX_BAD_UPDATES = 20  # In a row.
_Played = list[tuple[Episode, EpisodeInfo]]


def train_online(run: Run) -> None:
  """Trains a world model and a controller online; continues where a killed call stopped.

  Args:
    run: the run, entered.

  Raises:
    NonFiniteLossError: if the loss is NaN or infinite for many updates in a row.
    ConfigError: if a reward lies outside the range of the reward head.
    WorkerError: if environments keep dying.
  """
  if (run.path("controller", 0) / "controller.npz").exists():
    say("train online: done before.")
    return
  factory = environment_factory(run.config, **environment_options(run.config.collect))
  with (
    EnvPool(factory, run.config.online.num_environments) as pool,
    rollouts.ShardWriter(
      run.path("data", 0),
      new_manifest(pool.spec, getattr(factory, "keywords", {})),
      episodes_per_shard=2**31,  # A shard ends at a checkpoint.
    ) as writer,
    futures.ThreadPoolExecutor(1) as thread,
  ):
    _Training(run, pool, writer, thread).train()


@dataclasses.dataclass
class _Progress:
  """What a checkpoint holds beside weights.

  Attributes:
    rounds, episodes, steps: number of rounds that were learned from, of their episodes, and of the
      decisions in them.
    updates: number of updates.
    budget: number of updates that are due; a fraction may remain.
    best, best_step: mean return of the best evaluation, and its step.
    evaluations: number of evaluations.
    since_best: number of evaluations since the best one.
    seconds: time spent.
    history: the metrics so far.
  """

  rounds: int = 0
  episodes: int = 0
  steps: int = 0
  updates: int = 0
  budget: float = 0.0
  best: float | None = None
  best_step: int = -1
  evaluations: int = 0
  since_best: int = 0
  seconds: float = 0.0
  history: str = ""


class _Training:
  """One call of `train_online`: the models, the replay buffer and the progress."""

  def __init__(self, run: Run, pool: EnvPool, writer: rollouts.ShardWriter, thread):
    self.run, self.pool, self.writer, self.thread = run, pool, writer, thread
    self.settings = settings = run.config.online
    keras.utils.set_random_seed(run.seed)  # A repeated call starts from the same weights.
    self.model = run.family.new_model()
    self.learner = make_learner(self.model, run.config.controller, run.seed)
    self.learner.anneal_over(round(settings.train_ratio * settings.num_steps))
    self.update = JointUpdate(
      self.model,
      self.learner,
      learning_rate=settings.learning_rate,
      clip_norm=settings.clip_norm,
      warmup_updates=settings.warmup_updates,
      seed=episode_seeds("dream", run.seed, 1)[0],
    )
    # A copy of the agent acts while this one is updated.
    self.acting_model = run.family.new_model()
    self.acting = make_learner(self.acting_model, run.config.controller, run.seed)
    actor = AgentActor(Agent(run.spec, self.acting_model, self.acting.policy), explore=True)
    if not self.acting.policy.distribution.learned:
      noise = run.config.collect.controller_noise
      actor = Noisy(actor, noise, num_choices=run.spec.action_space.num_choices)
    self.controller, self.explorers = actor, explorers(run.config)
    self.evaluated = AgentActor(Agent(run.spec, self.model, self.learner.policy))
    self.replay, self.progress = Replay(settings.capacity), _Progress()
    self.recorded: dict[int, tuple[Episode, EpisodeInfo]] = {}
    self.folder = run.workdir / "online"
    self.checkpoints = checkpoints.Checkpoints(self.folder / "checkpoints")
    # Two are kept: the last checkpoint refers to the older one until the next one is written.
    self.best = checkpoints.Checkpoints(self.folder / "best")
    self.logger = make_loggers(
      self.folder, desc="train online", keys=("episode/return", "train/loss", "eval/return")
    )
    self.saved_at, self.bad_updates = 0, 0
    self.started, self.seconds_before = time.monotonic(), 0.0

  def train(self) -> None:
    """Runs all rounds, and writes the best agent."""
    progress = self.progress
    self._restore()
    try:
      pending = self._play(progress.rounds, progress.updates > 0)
      over = ""
      while not over:
        metrics = self._learn_from(pending)
        if progress.steps >= self.settings.prefill and not progress.updates:
          self._adapt()
          metrics |= self._run_updates()  # The controller does not act before it was trained.
        over = self._reason_to_end()
        following = None
        if not over:
          self._copy_weights()
          following = self.thread.submit(self._play, progress.rounds, progress.updates > 0)
        try:
          metrics |= self._run_updates()
        finally:
          if following is not None:
            pending = following.result()
        self.logger.write(progress.steps, metrics)
        self.logger.tick(progress.steps, self.settings.num_steps)
        if over or progress.steps // self.settings.evaluate_every > progress.evaluations:
          self._evaluate()
          over = over or self._out_of_patience()
        if progress.updates - self.saved_at >= self.settings.checkpoint_every and not over:
          self._save()
      say(f"train online: {over}.")
    finally:
      self.logger.close()
    self._finish()

  def _reason_to_end(self) -> str:
    """Returns why training ends; empty if it goes on."""
    settings, progress = self.settings, self.progress
    if progress.steps >= settings.num_steps:
      return f"{progress.steps} steps are done"
    if settings.max_updates is not None and progress.updates >= settings.max_updates:
      return f"{progress.updates} updates are done"
    if settings.max_minutes is not None and self._seconds() >= 60 * settings.max_minutes:
      return f"{settings.max_minutes:g} minutes are over"
    return ""

  def _out_of_patience(self) -> str:
    patience = self.settings.patience
    if patience is None or self.progress.since_best < patience:
      return ""
    return f"{patience} evaluations in a row were not better"

  def _seconds(self) -> float:
    return self.seconds_before + time.monotonic() - self.started

  # --- Data ---------------------------------------------------------------------------------

  def _play(self, number: int, learned: bool) -> _Played:
    """Plays the episodes of a round that are not recorded, and records them.

    Args:
      number: number of the round.
      learned: whether the controller plays; otherwise the exploration policies do.

    Returns:
      The episodes in the order of their seeds.
    """
    size = self.settings.num_environments
    seeds = episode_seeds("collect", self.run.seed, size, number)
    missing = [seed for seed in seeds if seed not in self.recorded]
    actor = self.controller if learned else self.explorers
    name = "controller_000" if learned else self.explorers.choice
    played = {seed: self.recorded.pop(seed) for seed in seeds if seed not in missing}
    if missing:
      found = run_episodes(
        self.pool, actor, seeds, policy_name=name, done=set(seeds) - set(missing)
      )
      played |= {info.seed: (episode, info) for episode, info in found}
      for seed in missing:
        self.writer.add(*played[seed])
    return [played[seed] for seed in seeds]

  def _learn_from(self, episodes: _Played) -> dict[str, float]:
    """Adds the episodes of a round to the replay buffer; returns their metrics."""
    progress = self.progress
    for episode, info in episodes:
      self._add(episode, info)
      num = len(episode.reward) - 1
      progress.steps += num
      if progress.updates:
        progress.budget += self.settings.train_ratio * num
    progress.rounds += 1
    progress.episodes += len(episodes)
    return {
      "episode/return": float(np.mean([info.episode_return for _, info in episodes])),
      "episode/length": float(np.mean([len(episode.reward) - 1 for episode, _ in episodes])),
      "episode/count": float(progress.episodes),
    }

  def _add(self, episode: Episode, info: EpisodeInfo) -> None:
    if not held_out_seeds([info.seed], self.run.config.collect.held_out):
      self.replay.add(episode)

  def _adapt(self) -> None:
    """Sets the statistics of vectors from the first episodes, and grants the first updates."""
    self.progress.budget += max(1, self.settings.pretrain_updates)
    try:
      self.model.adapt([self.replay.all()])
    except RewardRangeError as error:
      raise ConfigError(str(error)) from error

  # --- Learning -----------------------------------------------------------------------------

  def _run_updates(self) -> dict[str, float]:
    """Makes the updates that are due; returns the means of their metrics."""
    settings, progress = self.settings, self.progress
    sums: dict[str, float] = {}
    num = int(progress.budget)
    for _ in range(num):
      generator = np.random.default_rng([self.run.seed, progress.updates])
      batch = self.replay.draw(generator, settings.batch_size, settings.sequence_length)
      found = self.update(batch, progress.updates)
      self._check_finite(found)
      for group, metrics in (("train", found.model), ("dream", found.learner._asdict())):
        for name, value in metrics.items():
          if value is not None:
            sums[f"{group}/{name}"] = sums.get(f"{group}/{name}", 0.0) + float(value)
      progress.updates += 1
      self.logger.tick(progress.steps, settings.num_steps)
    progress.budget -= num
    return {name: value / num for name, value in sums.items()} | {
      "train/updates": float(progress.updates)
    }

  def _check_finite(self, found) -> None:
    self.bad_updates = 0 if found.finite else self.bad_updates + 1
    if self.bad_updates == _MAX_BAD_UPDATES:
      raise NonFiniteLossError(
        f"train online: the world model's gradient was not finite for {_MAX_BAD_UPDATES} updates "
        f"in a row, up to update {self.progress.updates}. Lower online.learning_rate (now "
        f"{self.settings.learning_rate:g}), or check the rewards and observations in "
        f"{self.run.path('data', 0)}."
      )

  def _copy_weights(self) -> None:
    """Copies the agent to the one that acts."""
    pairs = zip(self.acting_model.weights, self.model.weights, strict=True)
    for theirs, ours in pairs:
      theirs.assign(ours)
    self.acting.restore_policy(self.learner.policy_state())

  def _evaluate(self) -> None:
    """Plays episodes on validation seeds, and keeps the agent if it is the best so far."""
    progress, num = self.progress, self.settings.evaluate_episodes
    seeds = episode_seeds("validation", self.run.seed, num)
    scores = self.run.evaluate(
      self.evaluated, seeds=seeds, label=f"evaluate at step {progress.steps}"
    )
    progress.evaluations = progress.steps // self.settings.evaluate_every
    progress.since_best += 1
    if progress.best is None or scores["mean"] > progress.best:
      progress.best, progress.best_step, progress.since_best = scores["mean"], progress.steps, 0
      self.best.save(progress.steps, self._agent_state())
    self.logger.write(
      progress.steps, {"eval/return": scores["mean"], "eval/return_std": scores["std"]}
    )

  # --- Files --------------------------------------------------------------------------------

  def _agent_state(self) -> dict[str, Any]:
    weights = checkpoints.values(checkpoints.name_variables(self.model.weights))
    return {"model": weights, "policy": self.learner.policy_state()}

  def _variables(self) -> dict[str, Any]:
    return {
      "model": checkpoints.name_variables(self.model.variables),
      "optimizer": numbered(self.update.optimizer),
      "learner": self.learner.variables(),
    }

  def _save(self) -> None:
    """Writes a checkpoint, after the episodes that were played so far."""
    progress = self.progress
    self.writer.flush()
    progress.seconds = self._seconds()
    progress.history = read_history(self.folder / "metrics.jsonl") or ""
    values = checkpoints.values(self._variables())
    state = values | {"progress": json.dumps(dataclasses.asdict(progress))}
    self.checkpoints.save(progress.updates, state)
    self.saved_at = progress.updates

  def _restore(self) -> None:
    """Loads the last checkpoint, and the episodes that are recorded."""
    variables = self._variables()
    found = self.checkpoints.restore(checkpoints.values(variables) | {"progress": ""})
    if found is not None:
      _, state = found
      checkpoints.assign(variables, {name: state[name] for name in variables})
      vars(self.progress).update(json.loads(state["progress"]))
      restore_history(self.folder / "metrics.jsonl", self.progress.history)
    progress = self.progress
    self.saved_at, self.seconds_before = progress.updates, progress.seconds
    self.best.rewind(max(0, progress.best_step))
    self.logger.rewind(progress.steps or -1)
    episodes = rollouts.read_episodes(self.run.path("data", 0))
    for index, (episode, info) in enumerate(episodes):
      if index < progress.episodes:
        self._add(episode, info)
      else:
        self.recorded[info.seed] = episode, info
    if len(self.writer.manifest.episodes) < progress.episodes:
      raise WorkdirError(
        f"{self.run.path('data', 0)} has fewer episodes than the checkpoint in {self.folder} was "
        "trained on. Restore the folder, or remove both to start over."
      )

  def _finish(self) -> None:
    """Writes the best agent in the folders of iteration 0."""
    run = self.run
    self.writer.flush()
    best = checkpoints.load_nest(self.best.path(self.progress.best_step), self._agent_state())
    checkpoints.assign(checkpoints.name_variables(self.model.weights), best["model"])
    self.learner.restore_policy(best["policy"])
    weights, controller = run.family.model_weights(0), run.path("controller", 0)
    checkpoints.save_weights(self.model, weights)
    rows = read_jsonl(self.folder / "metrics.jsonl")
    for folder, prefixes in (
      (weights.parent, ("train/",)),
      (controller, ("dream/", "episode/", "eval/")),
    ):
      folder.mkdir(parents=True, exist_ok=True)
      lines = []
      for row in rows:
        kept = {k: v for k, v in row.items() if k == "step" or k.startswith(prefixes)}
        lines += [json.dumps(kept) + "\n"] if len(kept) > 1 else []
      restore_history(folder / "metrics.jsonl", "".join(lines))
    write_json(weights.parent / "quality.json", run.family.figures(self.model, 0))
    seal(weights.parent, weights.name, "metrics.jsonl", "quality.json")
    checkpoints.save_nest(controller / "controller.npz", self.learner.policy_state())
    seal(controller, "controller.npz", "metrics.jsonl")
    self.checkpoints.clear()
