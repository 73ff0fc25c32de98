"""What a run has learned, ready for use: its models and agents, and how well they do."""

from __future__ import annotations

import functools
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from wm_tf import evaluation
from wm_tf.agent import Agent, AgentActor
from wm_tf.core import EnvSpec, Episode, Nest
from wm_tf.data import datasets, rollouts
from wm_tf.data.collect import Actor
from wm_tf.imagination import sample_states
from wm_tf.learners.learner import Learner, make_learner
from wm_tf.models.world_model import WorldModel
from wm_tf.policies.planner import Planner
from wm_tf.registry import unknown
from wm_tf.runs import families, playing
from wm_tf.runs.folder import RunFolder
from wm_tf.runs.playing import episode_seeds
from wm_tf.runs.workdir import WorkdirError
from wm_tf.training import checkpoints

AGENTS = ("controller", "planner")
BASELINES = ("random", "heuristic")


class LearnedRun(RunFolder):
  """A run's folder, with the models and agents that its weights make."""

  force = False

  @functools.cached_property
  def spec(self) -> EnvSpec:
    """The specification of its environment.

    Raises:
      ConfigError: if there is no such environment.
    """
    return playing.environment_spec(self.config)

  @functools.cached_property
  def family(self) -> families.Family:
    """How it learns its world models."""
    return self.make_family()

  def make_family(self) -> families.Family:
    """Makes the family that the configuration names."""
    return families.make_family(self)

  def sequence_folders(self, iteration: int, or_rollouts: bool = False) -> list[Path]:
    """Returns the dataset folders that sequences up to an iteration are read from.

    Args:
      iteration: the last one.
      or_rollouts: whether to return the rollouts themselves if some of what was made of them is
        not there.
    """
    data = self.data_folders(iteration)
    folders = [self.family.sequences(folder, iteration) for folder in data]
    if or_rollouts and not all((folder / rollouts.MANIFEST).exists() for folder in folders):
      return data
    return folders

  # --- Models and agents --------------------------------------------------------------------

  def world_model(self, iteration: int) -> WorldModel:
    """Returns the world model of an iteration.

    Raises:
      WorkdirError: if it has not been trained.
    """
    return self.family.load_model(self.family.new_model(), iteration)

  def load_policy(self, learner: Learner, iteration: int, finished: bool = False) -> Nest:
    """Returns the `policy_state` that a learner left at an iteration.

    Args:
      learner: one like it.
      iteration: which one.
      finished: whether to take what was finished of it in the real environment.

    Raises:
      WorkdirError: if there is none.
    """
    stage, trainer = ("finish", "finish") if finished else ("controller", "train_controller")
    path = self.path(stage, iteration) / "controller.npz"
    if not path.exists():
      raise WorkdirError(f"{path} does not exist; run trainers.{trainer} first.")
    return checkpoints.load_nest(path, learner.policy_state())

  def learner(self, iteration: int, finished: bool = False) -> tuple[WorldModel, Learner]:
    """Returns the world model of an iteration, and the learner with the policy it has trained."""
    model = self.world_model(iteration)
    learner = make_learner(model, self.config.controller, self.seed)
    learner.restore_policy(self.load_policy(learner, iteration, finished))
    return model, learner

  def agent(
    self, policy: str = "controller", iteration: int | None = None, finished: bool = False
  ) -> Agent:
    """Returns a trained agent.

    Args:
      policy: `controller`, or the `planner` that takes its proposals.
      iteration: whose models and controller; by default the best one by validation.
      finished: whether to take the controller as it was finished in the real environment.

    Raises:
      WorkdirError: if it has not been trained.
      UnknownNameError: for another policy.
    """
    if policy not in AGENTS:
      raise unknown("agent", policy, AGENTS)
    iteration = self.best_iteration() if iteration is None else iteration
    model, learner = self.learner(iteration, finished)
    acting = learner.policy
    if policy == "planner":
      acting = Planner(model, self.config.planner, learner.policy, learner.critic, fixed=True)
    return Agent(self.spec, model, acting)

  def actor(self, agent: str | Agent | Actor) -> Actor:
    """Returns what plays for an agent.

    Args:
      agent: one, or the name of one: `random`, `heuristic`, `controller`, `planner`.
    """
    if isinstance(agent, str):
      if agent in BASELINES:
        return playing.scripted_actor(agent, self.config)
      if agent not in AGENTS:
        raise unknown("agent", agent, (*BASELINES, *AGENTS))
      agent = self.agent(agent)
    return AgentActor(agent) if isinstance(agent, Agent) else agent

  # --- Evaluation ---------------------------------------------------------------------------

  def evaluate(
    self,
    agent: str | Agent | Actor = "controller",
    episodes: int = 16,
    *,
    seeds: Sequence[int] | None = None,
    label: str | None = None,
  ) -> dict[str, Any]:
    """Plays full official episodes in the environment.

    Args:
      agent: what plays, as for `actor`.
      episodes: how many, on seeds that nothing was trained or chosen on.
      seeds: one per episode, instead of those.
      label: of the progress bar.

    Returns:
      `mean`, `std`, `n`, and the `returns` and `seeds` of the episodes.
    """
    if seeds is None:
      seeds = episode_seeds("evaluation", self.seed, episodes)
    label = label or (agent if isinstance(agent, str) else "evaluate")
    return playing.evaluate(self.config, self.actor(agent), seeds, label)

  def play(self, agent: str | Agent | Actor, seed: int) -> Episode:
    """Plays one official episode and returns it with its observations."""
    return playing.play(self.config, self.actor(agent), seed)

  def first_states(
    self, model: WorldModel, num: int, iteration: int, seed: int | None = None
  ) -> Nest:
    """Returns at most `num` states of real first observations, from which full dreams start.

    Args:
      model: the world model of an iteration.
      num: how many.
      iteration: which one.
      seed: of their choice; the run's if None.
    """
    folders = self.sequence_folders(iteration, or_rollouts=True)
    folders = [folder for folder in folders if not folder.name.endswith("_random")]
    episodes = datasets.episodes_dataset(folders, batch_size=64, num_steps=1)
    return sample_states(model, episodes, num, self.seed if seed is None else seed)

  def evaluate_in_model(
    self, agent: Agent, num_episodes: int, iteration: int | None = None
  ) -> dict[str, Any]:
    """Dreams full episodes from real first observations.

    Args:
      agent: what plays, in its own world model.
      num_episodes: how many.
      iteration: whose world model that is; by default the best one by validation.

    Returns:
      As `evaluate`.
    """
    started = time.monotonic()
    iteration = self.best_iteration() if iteration is None else iteration
    starts = self.first_states(agent.world_model, 1024, iteration)
    result = evaluation.evaluate_in_model(
      agent.world_model,
      agent.policy,
      starts,
      self.spec.max_decisions,
      episode_seeds("dream", self.seed, num_episodes, 1 + iteration),
      initial_return=self.initial_return(),
      action_repeat=self.spec.action_repeat,
    )
    return playing.summarize(result, time.monotonic() - started)

  def initial_return(self) -> float:
    """Returns the mean return of the frames skipped at the start of official episodes."""
    if not self.spec.frames_to_skip:
      return 0.0
    gains = [
      info.episode_return - float(episode.reward.sum())
      for episode, info in rollouts.read_episodes(self.path("data", 0))
    ]
    return float(np.mean(gains))
