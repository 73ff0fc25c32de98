"""Models and agents of a run, restored from its workdir, and their evaluation."""

from __future__ import annotations

import functools
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from wm_tf import config as config_lib
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
  """A run's folder, with the models and agents that its weights make.

  Attributes:
    force: whether to continue past a failed quality gate.
  """

  force = False

  @functools.cached_property
  def spec(self) -> EnvSpec:
    """The specification of the run's environment.

    Raises:
      ConfigError: if there is no such environment.
    """
    return playing.environment_spec(self.config)

  @functools.cached_property
  def family(self) -> families.Family:
    """The family of the run's world models."""
    return self.make_family()

  def make_family(self) -> families.Family:
    """Makes the family that the configuration names; subclasses may override it.

    Returns:
      The family.
    """
    return families.make_family(self)

  def sequence_folders(self, iteration: int, or_rollouts: bool = False) -> list[Path]:
    """Returns the dataset folders that training sequences are read from.

    Args:
      iteration: the last iteration whose rollouts are used.
      or_rollouts: whether to return the rollout folders instead if a dataset that was made of them
        is missing.

    Returns:
      The folders, the oldest first.
    """
    data = self.data_folders(iteration)
    folders = [self.family.sequences(folder, iteration) for folder in data]
    if or_rollouts and not all((folder / rollouts.MANIFEST).exists() for folder in folders):
      return data
    return folders

  @property
  def controller_settings(self) -> config_lib.ControllerConfig:
    """The settings of the controller, as derived for the environment's episodes."""
    return self.config.controller.derived(self.spec.max_decisions)

  # --- Models and agents --------------------------------------------------------------------

  def world_model(self, iteration: int) -> WorldModel:
    """Loads the world model of an iteration.

    Args:
      iteration: the iteration.

    Returns:
      The world model.

    Raises:
      WorkdirError: if it has not been trained.
    """
    return self.family.load_model(self.family.new_model(), iteration)

  def load_policy(self, learner: Learner, iteration: int, finished: bool = False) -> Nest:
    """Loads the `policy_state` of a trained controller.

    Args:
      learner: a learner with the same settings.
      iteration: iteration of the controller.
      finished: whether to load the controller as it was finished in the real environment.

    Returns:
      The state, in the structure of `learner.policy_state()`.

    Raises:
      WorkdirError: if there is none.
    """
    stage, trainer = ("finish", "finish") if finished else ("controller", "train_controller")
    path = self.path(stage, iteration) / "controller.npz"
    if not path.exists():
      raise WorkdirError(f"{path} does not exist; run trainers.{trainer} first.")
    return checkpoints.load_nest(path, learner.policy_state())

  def learner(self, iteration: int, finished: bool = False) -> tuple[WorldModel, Learner]:
    """Loads the world model and the controller of an iteration.

    Args:
      iteration: the iteration.
      finished: whether to load the controller as it was finished in the real environment.

    Returns:
      The world model, and a learner whose policy is the trained one.
    """
    model = self.world_model(iteration)
    learner = make_learner(model, self.controller_settings, self.seed)
    learner.restore_policy(self.load_policy(learner, iteration, finished))
    return model, learner

  def agent(
    self, policy: str = "controller", iteration: int | None = None, finished: bool = False
  ) -> Agent:
    """Loads a trained agent.

    Args:
      policy: `controller`, or `planner`, which refines the controller's proposals.
      iteration: iteration of the world model and the controller; by default the best one by
        validation.
      finished: whether to load the controller as it was finished in the real environment.

    Returns:
      The agent.

    Raises:
      WorkdirError: if it has not been trained.
      UnknownNameError: if `policy` is another name.
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
    """Returns the actor of an agent.

    Args:
      agent: an agent, an actor, or a name: `random`, `heuristic`, `controller` or `planner`.

    Returns:
      The actor; one that was given is returned as it is.
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
      agent: see `actor`.
      episodes: number of episodes, on seeds that are not used in training or validation.
      seeds: seed of each episode, in place of `episodes`.
      label: name of the progress bar; by default the name of the agent.

    Returns:
      `mean`, `std` and `n`, the `returns` and `seeds` of the episodes, and `seconds`.
    """
    if seeds is None:
      seeds = episode_seeds("evaluation", self.seed, episodes)
    label = label or (agent if isinstance(agent, str) else "evaluate")
    return playing.evaluate(self.config, self.actor(agent), seeds, label)

  def play(self, agent: str | Agent | Actor, seed: int) -> Episode:
    """Plays one official episode in the environment.

    Args:
      agent: see `actor`.
      seed: seed of the episode.

    Returns:
      The episode with its observations.
    """
    return playing.play(self.config, self.actor(agent), seed)

  def first_states(
    self, model: WorldModel, num: int, iteration: int, seed: int | None = None
  ) -> Nest:
    """Draws states of real first observations, from which full dreams start.

    Episodes from random starts are left out.

    Args:
      model: the world model of the iteration.
      num: largest number of states.
      iteration: the iteration; rollouts up to it are used.
      seed: seed of the draw; by default the run's.

    Returns:
      A nest of `[M, ...]`, M at most `num`.
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
      agent: the agent, which dreams in its own world model.
      num_episodes: number of episodes.
      iteration: iteration of that world model; by default the best one by validation.

    Returns:
      The same values as `evaluate`.
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
    """Returns the mean return of the frames that are skipped at the start of official episodes."""
    if not self.spec.frames_to_skip:
      return 0.0
    gains = [
      info.episode_return - float(episode.reward.sum())
      for episode, info in rollouts.read_episodes(self.path("data", 0))
    ]
    return float(np.mean(gains))
