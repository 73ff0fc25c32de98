"""What a run has learned, to be used: its models, its agents, and how well they do."""

from __future__ import annotations

import functools
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from wm_tf.learners.learner import Learner, make_learner
from wm_tf.runs.playing import episode_seeds, evaluate, play, scripted_actor, summarize
from wm_tf.runs.folder import RunFolder
from wm_tf.runs.workdir import WorkdirError
from wm_tf import config as config_lib
from wm_tf import evaluation
from wm_tf.agent import Agent, AgentActor
from wm_tf.policies.planner import Planner
from wm_tf.core import EnvSpec, Episode, Nest
from wm_tf.data import datasets, rollouts
from wm_tf.data.collect import Actor
from wm_tf.envs import env_spec
from wm_tf.imagination import sample_states
from wm_tf.models.ensemble import dynamics_class
from wm_tf.models.mdn_rnn import LatentDynamics
from wm_tf.models.vae import VAE
from wm_tf.training import checkpoints


class LearnedRun(RunFolder):
  """A run's folder with what is made of the weights in it."""

  @functools.cached_property
  def spec(self) -> EnvSpec:
    """Of its environment.

    Raises:
      ConfigError: if there is no such environment.
    """
    try:
      return env_spec(self.config.environment)
    except (ValueError, ImportError, AttributeError) as error:
      raise config_lib.ConfigError(f"environment={self.config.environment}: {error}") from error

  # --- Models -------------------------------------------------------------------------------

  def vae(self, iteration: int) -> VAE:
    """The VAE in use at an iteration."""
    vae = VAE(self.config.vae)
    weights = self.path("vae", self.vae_iteration(iteration)) / "weights.npz"
    if not weights.exists():
      raise WorkdirError(f"{weights} does not exist; run trainers.train_vae first.")
    checkpoints.load_weights(vae, weights)
    return vae

  def dynamics_class(self) -> type[LatentDynamics]:
    """The class of its world models."""
    return dynamics_class(self.config.dynamics)

  def new_world_model(self, vae: VAE | None = None) -> LatentDynamics:
    """A world model that has learned nothing yet; on a new VAE if none is given."""
    vae = VAE(self.config.vae) if vae is None else vae
    return self.dynamics_class()(vae, self.spec.action_size, self.config.dynamics)

  def load_world_model(self, model: LatentDynamics, iteration: int) -> LatentDynamics:
    """Gives a world model the weights of an iteration, its VAE's too; returns it."""
    weights = self.path("dynamics", iteration) / "weights.npz"
    if not weights.exists():
      raise WorkdirError(f"{weights} does not exist; run trainers.train_dynamics first.")
    checkpoints.load_weights(model, weights)
    return model

  def world_model(self, iteration: int) -> LatentDynamics:
    """The world model of an iteration."""
    return self.load_world_model(self.new_world_model(), iteration)

  # --- Agents -------------------------------------------------------------------------------

  def load_policy(self, learner: Learner, iteration: int, finished: bool = False) -> Nest:
    """The `policy_state` that a learner left at an iteration; or what was finished of it."""
    stage, trainer = ("finish", "finish") if finished else ("controller", "train_controller")
    path = self.path(stage, iteration) / "controller.npz"
    if not path.exists():
      raise WorkdirError(f"{path} does not exist; run trainers.{trainer} first.")
    return checkpoints.load_nest(path, learner.policy_state())

  def learner(self, iteration: int, finished: bool = False) -> tuple[LatentDynamics, Learner]:
    """The world model of an iteration, and what it has trained."""
    model = self.world_model(iteration)
    learner = make_learner(model, self.config.controller, self.seed)
    learner.restore_policy(self.load_policy(learner, iteration, finished))
    return model, learner

  def agent(self, policy: str, iteration: int, finished: bool = False) -> Agent:
    """The `controller` of an iteration, or the `planner` that takes its proposals.

    Args:
      policy: which of them.
      iteration: whose models and controller.
      finished: whether to take the controller as it was finished in the real environment.
    """
    model, learner = self.learner(iteration, finished)
    if policy == "controller":
      return Agent(self.spec, model, learner.policy)
    if policy == "planner":
      planner = Planner(model, self.config.planner, learner.policy, learner.critic, fixed=True)
      return Agent(self.spec, model, planner)
    raise ValueError(f"Unknown agent {policy!r}: it must be controller or planner.")

  def actor(self, name: str) -> Actor:
    """What `--agent` names: random, heuristic, controller, planner."""
    if name in ("random", "heuristic"):
      return scripted_actor(name, self.config.environment)
    return AgentActor(self.agent(name, self.best_iteration()))

  # --- Evaluation ---------------------------------------------------------------------------

  def evaluate(self, actor: Actor, seeds: Sequence[int], label: str) -> dict[str, Any]:
    """As the function `evaluate`, with the run's configuration."""
    return evaluate(self.config, actor, seeds, label)

  def play(self, actor: Actor, seed: int) -> Episode:
    """As the function `play`, with the run's configuration."""
    return play(self.config, actor, seed)

  def first_states(self, model: LatentDynamics, num: int, iteration: int) -> Nest:
    """At most `num` states of real episodes' first frames, which full dreams start from."""
    folders = [f for f in self.latent_folders(iteration) if not f.name.endswith("_random")]
    episodes = datasets.episodes_dataset(folders, batch_size=64, num_steps=1)
    return sample_states(model, episodes, num, self.seed)

  def evaluate_in_model(self, agent: Agent, num_episodes: int, iteration: int) -> dict[str, Any]:
    """Dreams full episodes from real first frames."""
    started = time.monotonic()
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
    return summarize(result, time.monotonic() - started)

  def initial_return(self) -> float:
    """Mean return of the frames skipped at the start of official episodes."""
    gains = [
      info.episode_return - float(episode.reward.sum())
      for episode, info in rollouts.read_episodes(self.path("data", 0))
    ]
    return float(np.mean(gains))
