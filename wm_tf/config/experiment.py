"""The configuration of an experiment, and its conversion to and from JSON."""

from __future__ import annotations

import dataclasses
from typing import Any

from wm_tf.checks import check_at_least, check_shares
from wm_tf.config.online import OnlineConfig
from wm_tf.config.overrides import from_plain
from wm_tf.learners.config import ControllerConfig
from wm_tf.learners.real_search import FinishConfig
from wm_tf.models.mdn_rnn import MDNRNNConfig
from wm_tf.models.rssm_config import RSSMConfig
from wm_tf.models.vae import VAEConfig
from wm_tf.policies.planner import PlannerConfig
from wm_tf.training.loop import FitConfig


class Options(dict[str, Any]):
  """A mapping that must not be changed, so that a configuration that contains it is hashable."""

  def __hash__(self) -> int:
    return hash(tuple(sorted((key, repr(value)) for key, value in self.items())))


@dataclasses.dataclass(frozen=True)
class CollectConfig:
  """How rollouts are collected.

  Attributes:
    num_episodes: number of episodes in the first collection, by exploration policies.
    uniform, held, brownian, heuristic: relative shares of the exploration policies.
    heuristics: variants of the environment's scripted policy, which play equal numbers of episodes:
      for each the scale of the noise on its actions, and its options as `(name, value)` pairs. With
      too little noise the model does not learn that bad actions have consequences.
    interruption_rate: probability, at each decision, that a uniform action interrupts the scripted
      policy.
    episodes_per_iteration: number of episodes in each later collection, by controllers.
    controller_noise: scale of the noise on a controller's actions.
    controller_interruption_rate: as `interruption_rate`, for controllers. The data then show how a
      controller recovers, or fails to, from states that it does not reach by itself.
    best_controller: share of those episodes that the best controller by validation plays; the
      newest one plays the others.
    random_start: share of episodes that start at a random place, in environments with that option.
    stop_after_idle_decisions: number of decisions without progress after which a training episode
      ends, in environments with that option; 0 for never.
    held_out: share of the episodes that is held out, by seed.
    episodes_per_shard: number of episodes in a file; a killed collection continues after the last
      complete file.
    num_workers: number of environment processes; 0 for twice the number of processors.
  """

  num_episodes: int = 180
  uniform: float = 0.0
  held: float = 0.5
  brownian: float = 0.5
  heuristic: float = 0.0
  heuristics: tuple[tuple[float, tuple[tuple[str, float], ...]], ...] = ((0.1, ()),)
  interruption_rate: float = 0.015
  episodes_per_iteration: int = 40
  controller_noise: float = 0.2
  controller_interruption_rate: float = 0.0
  best_controller: float = 0.0
  random_start: float = 0.0
  stop_after_idle_decisions: int = 0
  held_out: float = 0.1
  episodes_per_shard: int = 16
  num_workers: int = 0

  def __post_init__(self):
    check_at_least(1, self, "num_episodes", "episodes_per_iteration", "episodes_per_shard")
    check_at_least(0, self, "stop_after_idle_decisions")
    check_at_least(0, self, "uniform", "held", "brownian", "heuristic", "controller_noise")
    check_at_least(0, self, "random_start", "num_workers", "interruption_rate")
    check_shares(self, "controller_interruption_rate", "best_controller")
    if self.interruption_rate > 1:
      raise ValueError(f"interruption_rate is a probability: {self.interruption_rate}.")
    if self.random_start > 1:
      raise ValueError(f"random_start is a share: at most 1, not {self.random_start}.")
    if not 0 < self.held_out < 1:
      raise ValueError(f"held_out is a share: between 0 and 1, not {self.held_out}.")


@dataclasses.dataclass(frozen=True)
class StageFitConfig:
  """How a model is fitted in iteration 0, and refitted after later collections.

  Attributes:
    first: settings of the first fit.
    refit: settings of each later fit, which starts from the previous weights.
    batch_size: number of frames or sequences in a batch.
    sequence_length: T, the length of the dynamics' training sequences.
    on_policy_repeats: number of times that an epoch uses the data of later collections, which are
      few and matter most.
    shuffle_buffer: number of decoded frames that are shuffled in memory. None decodes all frames
      once to temporary files (12 KB each) and shuffles all of them.
  """

  first: FitConfig = FitConfig()
  refit: FitConfig = FitConfig()
  batch_size: int = 100
  sequence_length: int = 32
  on_policy_repeats: int = 1
  shuffle_buffer: int | None = None

  def __post_init__(self):
    check_at_least(1, self, "batch_size", "on_policy_repeats", "shuffle_buffer")
    check_at_least(2, self, "sequence_length")


@dataclasses.dataclass(frozen=True)
class EvaluateConfig:
  """How agents are evaluated.

  Attributes:
    num_episodes: number of full episodes of each agent in the environment, and of dreams.
    num_planner_episodes: number of episodes of the served planner, which is slower.
    validation_episodes: number of episodes per iteration, on separate seeds, that choose the
      controller.
  """

  num_episodes: int = 32
  num_planner_episodes: int = 16
  validation_episodes: int = 16

  def __post_init__(self):
    check_at_least(1, self, "num_episodes", "num_planner_episodes", "validation_episodes")


@dataclasses.dataclass(frozen=True)
class ExperimentConfig:
  """All settings of a run except its seed and its folder.

  Attributes:
    preset: name of the preset that the configuration started from.
    environment: a name that `make_env` takes.
    environment_options: options of `make_env`, by name.
    family: the kind of world model; see `wm_tf.runs.families`.
    num_iterations: number of iterations after the first; each collects with the controller, refits
      the world model, and trains a controller again.
    num_vae_refits: the VAE is refitted in the first of these iterations only, because all frames
      are encoded again after a refit.
    quality_gates: whether the run stops if a fit fails its quality gate.
    collect, vae, vae_fit, dynamics, dynamics_fit, rssm, rssm_fit, online, controller, planner,
      evaluate, finish: see their types. Only the fits of the chosen family are made.
  """

  preset: str = "default"
  environment: str = "car_racing"
  environment_options: Options = Options()
  family: str = "two_stage"
  num_iterations: int = 5
  num_vae_refits: int = 2
  quality_gates: bool = True
  collect: CollectConfig = CollectConfig()
  vae: VAEConfig = VAEConfig()
  vae_fit: StageFitConfig = StageFitConfig(
    first=FitConfig(learning_rate=3e-4, num_epochs=10),
    refit=FitConfig(learning_rate=1e-4, num_epochs=1),
  )
  dynamics: MDNRNNConfig = MDNRNNConfig()
  dynamics_fit: StageFitConfig = StageFitConfig(
    first=FitConfig(num_epochs=20), refit=FitConfig(num_epochs=6)
  )
  rssm: RSSMConfig = RSSMConfig()
  rssm_fit: StageFitConfig = StageFitConfig(
    first=FitConfig(learning_rate=6e-4, num_epochs=40),
    refit=FitConfig(learning_rate=3e-4, num_epochs=10),
    batch_size=16,
  )
  online: OnlineConfig = OnlineConfig()
  controller: ControllerConfig = ControllerConfig()
  planner: PlannerConfig = PlannerConfig()
  evaluate: EvaluateConfig = EvaluateConfig()
  finish: FinishConfig = FinishConfig()

  def __post_init__(self):
    check_at_least(0, self, "num_iterations", "num_vae_refits")
    object.__setattr__(self, "environment_options", Options(self.environment_options))


def to_dict(config: ExperimentConfig) -> dict[str, Any]:
  """Converts a configuration to plain JSON-able values.

  Args:
    config: the configuration.

  Returns:
    A nested dict of fields by name.
  """
  return dataclasses.asdict(config)


def from_dict(values: dict[str, Any]) -> ExperimentConfig:
  """Converts the result of `to_dict` back, also after a round trip through JSON.

  Args:
    values: the nested dict.

  Returns:
    The configuration.

  Raises:
    ConfigError: if a field is unknown or missing, or a value has the wrong type.
  """
  return from_plain(ExperimentConfig, values, "config")
