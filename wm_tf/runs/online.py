"""Online training: a controller collects data while it and its world model learn from them.

Training proceeds in rounds. In a round the controller makes some decisions in each environment, and
meanwhile the world model and the controller are updated on the steps of the rounds before. The
weights that play are those from before these updates, so that results do not depend on timing: a
killed call continues and ends with the same numbers.

Files in the workdir:
  data/000         the episodes that ended, in the order in which they ended; or, with
                   online.collect=False, the recorded episodes to learn from
  online           metrics; until training ends, also checkpoints and the best agent so far
  rssm/000, controller/000    the best agent, as an iteration of a run has it

References:
  Hafner et al. 2020, arXiv:1912.01603, algorithm 1.
  Hafner et al. 2023, arXiv:2301.04104 (replay of the newest steps, train ratio).
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import time
from concurrent import futures
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
import tensorflow as tf

from wm_tf import rng
from wm_tf.agent import Agent, AgentActor
from wm_tf.checks import ConfigError
from wm_tf.data import datasets, rollouts
from wm_tf.data.env_pool import EnvPool
from wm_tf.data.recording import new_manifest
from wm_tf.data.stream import Played
from wm_tf.files import write_json
from wm_tf.imagination import sample_states
from wm_tf.learners.joint import JointUpdate
from wm_tf.learners.learner import make_learner
from wm_tf.learners.optimizers import Schedule, numbered
from wm_tf.models.heads import RewardRangeError
from wm_tf.runs.collection import environment_options
from wm_tf.runs.controller import write_quality
from wm_tf.runs.fitting import seal
from wm_tf.runs.online_data import OnlineData
from wm_tf.runs.online_films import dream_film
from wm_tf.runs.online_progress import Progress
from wm_tf.runs.playing import environment_factory, episode_seeds
from wm_tf.runs.recorded_data import RecordedData
from wm_tf.runs.workdir import WorkdirError, say
from wm_tf.training import checkpoints
from wm_tf.training.loggers import make_loggers, read_history, read_jsonl, restore_history
from wm_tf.training.loop import NonFiniteLossError
from wm_tf.training.means import Means

if TYPE_CHECKING:
  from wm_tf.runs.run import Run

_MAX_BAD_UPDATES = 20  # In a row.
_ROWS_PER_EVALUATION = 10  # Rows of metrics between two evaluations.


def train_online(run: Run) -> None:
  """Trains a world model and a controller online; continues where a killed call stopped.

  Args:
    run: the run, entered.

  Raises:
    NonFiniteLossError: if the loss is NaN or infinite for many updates in a row.
    ConfigError: if a reward lies outside the range of the reward head.
    WorkerError: if environments keep dying.
    WorkdirError: if recorded episodes are missing.
  """
  if (run.path("controller", 0) / "controller.npz").exists():
    say("train online: done before.")
    _clear(run)
    return
  with contextlib.ExitStack() as stack:
    thread = stack.enter_context(futures.ThreadPoolExecutor(1))
    collects = run.config.online.collect
    make_data = _collector(run, stack) if collects else lambda _: RecordedData(run)
    _Training(run, make_data, thread).train()


def _collector(run: Run, stack: contextlib.ExitStack):
  """Returns a function that makes the data that an `AgentActor` collects."""
  factory = environment_factory(run.config, **environment_options(run.config.collect))
  pool = stack.enter_context(EnvPool(factory, run.online_settings.num_environments))
  writer = rollouts.ShardWriter(
    run.path("data", 0),
    new_manifest(pool.spec, getattr(factory, "keywords", {})),
    episodes_per_shard=2**31,  # A shard ends at a checkpoint.
  )
  return functools.partial(OnlineData, run, pool, stack.enter_context(writer))


class _Training:
  """One call of `train_online`: the models, the replay buffer and the progress."""

  def __init__(self, run: Run, make_data, thread: futures.Executor):
    self.run, self.thread = run, thread
    self.settings = settings = run.online_settings
    keras.utils.set_random_seed(run.seed)  # A repeated call starts from the same weights.
    self.model = run.family.new_model()
    self.learner = make_learner(self.model, run.controller_settings, run.seed)
    num_updates = settings.num_updates()
    self.learner.anneal_over(num_updates)
    cooldown = run.config.controller.actor_critic.cooldown
    rate = Schedule(settings.learning_rate, settings.warmup_updates or 1, num_updates, cooldown)
    self.update = JointUpdate(
      self.model,
      self.learner,
      learning_rate=rate,
      clip_norm=settings.clip_norm,
      seed=episode_seeds("dream", run.seed, 1)[0],
    )
    # A copy of the agent acts while this one is updated.
    self.acting_model = run.family.new_model()
    self.acting = make_learner(self.acting_model, run.controller_settings, run.seed)
    acting = Agent(run.spec, self.acting_model, self.acting.policy)
    self.data = make_data(AgentActor(acting, explore=True))
    self.evaluated = AgentActor(Agent(run.spec, self.model, self.learner.policy))
    self.progress, self.sums = Progress(), Means()
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
    try:
      pending = self._restore()
      if pending is None:
        pending = self._begin()
      over = ""
      while not over:
        self._learn_from(pending)
        over = self.progress.end(self.settings, self._seconds())
        following = None
        if not over:
          self._copy_weights()
          following = self.thread.submit(self.data.play)
        try:
          self._run_updates()
        finally:
          if following is not None:
            pending = following.result()
        over = self._after_round(over)
      say(f"train online: {over}.")
    finally:
      self.logger.close()
    self._finish()

  def _begin(self) -> Played:
    """Plays the first steps, makes the first updates on them, and plays the first round."""
    self._learn_from(self.data.prefill())
    self.progress.budget = float(max(1, self.settings.pretrain_updates))
    try:
      self.model.adapt([self.data.replay.all()])
    except RewardRangeError as error:
      raise ConfigError(str(error)) from error
    self._run_updates()
    self._copy_weights()
    return self.data.play()

  def _after_round(self, over: str) -> str:
    """Writes metrics, evaluates and saves if it is time to; returns why training ends."""
    settings, progress = self.settings, self.progress
    self.logger.tick(progress.steps, settings.num_steps)
    number = progress.steps * _ROWS_PER_EVALUATION // settings.evaluate_every
    if not over and number == progress.rows:
      return over
    progress.rows = number
    self.logger.write(progress.steps, self.sums.take() | self._counts())
    if over or progress.steps // settings.evaluate_every > progress.evaluations:
      self._evaluate()
      over = over or progress.out_of_patience(settings)
    if progress.updates - self.saved_at >= settings.checkpoint_every and not over:
      self._save()
    return over

  def _seconds(self) -> float:
    return self.seconds_before + time.monotonic() - self.started

  # --- Learning -----------------------------------------------------------------------------

  def _learn_from(self, played: Played) -> None:
    """Adds steps to the replay buffer and grants updates for them."""
    progress = self.progress
    num = self.data.learn_from(played)
    if progress.updates:
      progress.budget += self.settings.train_ratio * num
    progress.steps += num
    progress.episodes += len(played.episodes)
    for _, info in played.episodes:
      self.sums.add({"episode/return": info.episode_return, "episode/length": info.steps - 1})
    try:
      for piece in played.pieces:
        self.model.reward.extend(piece.steps.reward)
    except RewardRangeError as error:
      raise ConfigError(str(error)) from error

  def _run_updates(self) -> None:
    """Makes the updates that are due."""
    settings, progress = self.settings, self.progress
    num, first = int(progress.budget), progress.updates
    generators = (np.random.default_rng([self.run.seed, first + i]) for i in range(num))
    sizes = settings.batch_size, settings.sequence_length
    batches = (self.data.replay.draw(generator, *sizes) for generator in generators)
    for found in self.update.run(batches, first):
      self._check_finite(found)
      for group, metrics in (("train", found.model), ("dream", found.learner._asdict())):
        self.sums.add({f"{group}/{k}": v for k, v in metrics.items() if v is not None})
      progress.updates += 1
      self.logger.tick(progress.steps, settings.num_steps)
    progress.budget -= num

  def _counts(self) -> dict[str, float]:
    return {
      "episode/count": float(self.progress.episodes),
      "train/updates": float(self.progress.updates),
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

  @tf.function(autograph=False)
  def _copy_weights(self) -> None:
    """Copies the agent to the one that acts."""
    pairs = [*zip(self.acting_model.weights, self.model.weights, strict=True)]
    theirs, ours = self.acting.policy.network.state(), self.learner.policy.network.state()
    pairs += [(theirs[name], ours[name]) for name in ours]
    for target, source in pairs:
      target.assign(source)

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
    window = self.data.replay.draw(np.random.default_rng(0), 1, self.settings.sequence_length)
    film = dream_film(self.model, window, rng.make_seed(progress.steps))
    if film is not None:
      self.logger.film(progress.steps, "real (left), dreamed from step 5 (right)", film)

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
    """Writes a checkpoint, after the episodes that ended so far."""
    progress = self.progress
    self.data.flush()
    progress.seconds = self._seconds()
    progress.history = read_history(self.folder / "metrics.jsonl") or ""
    state = {"progress": dataclasses.asdict(progress), "data": self.data.state()}
    values = checkpoints.values(self._variables())
    self.checkpoints.save(progress.updates, values | {"state": json.dumps(state)})
    self.saved_at = progress.updates

  def _restore(self) -> Played | None:
    """Loads the last checkpoint.

    Returns:
      What was played and not learned from; None without a checkpoint.
    """
    variables, progress = self._variables(), self.progress
    found, rest = self.checkpoints.restore(checkpoints.values(variables) | {"state": ""}), None
    if found is not None:
      _, values = found
      checkpoints.assign(variables, {name: values[name] for name in variables})
      state = json.loads(values["state"])
      vars(progress).update(state["progress"])
      self._copy_weights()
      rest = self.data.restore(state["data"])
    restore_history(self.folder / "metrics.jsonl", progress.history)
    self.saved_at, self.seconds_before = progress.updates, progress.seconds
    self.best.rewind(max(0, progress.best_step))
    if progress.best is not None:
      self._best_agent()  # Training could not end without it.
    self.logger.rewind(progress.steps or -1)
    return rest

  def _best_agent(self) -> dict[str, Any]:
    """Loads the best agent so far."""
    path = self.best.path(self.progress.best_step)
    try:
      return checkpoints.load_nest(path, self._agent_state())
    except (FileNotFoundError, checkpoints.CorruptCheckpointError) as error:
      raise WorkdirError(
        f"{path}, the best agent so far, is missing or damaged. Restore it, or remove "
        f"{self.folder} to start over."
      ) from error

  def _finish(self) -> None:
    """Writes the best agent in the folders of iteration 0."""
    run = self.run
    self.data.flush()
    best = self._best_agent()
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
    episodes = datasets.episodes_dataset(run.sequence_folders(0), batch_size=16, seed=run.seed)
    starts = sample_states(self.model, episodes.take(8), 1024, run.seed)
    write_quality(controller, self.learner, starts, rng.make_seed(run.seed))
    checkpoints.save_nest(controller / "controller.npz", self.learner.policy_state())
    seal(controller, "controller.npz", "metrics.jsonl", "quality.json")
    _clear(run)


def _clear(run: Run) -> None:
  """Removes what only an unfinished training needs."""
  for name in ("checkpoints", "best"):
    checkpoints.Checkpoints(run.workdir / "online" / name).clear()
