"""An experiment's whole configuration: its parts, overrides, JSON round trip."""

from __future__ import annotations

import dataclasses
from typing import Any

from wm_tf.checks import check_at_least
from wm_tf.config.overrides import from_plain
from wm_tf.learners.config import ControllerConfig
from wm_tf.learners.real_search import FinishConfig
from wm_tf.models.mdn_rnn import MDNRNNConfig
from wm_tf.models.vae import VAEConfig
from wm_tf.policies.planner import PlannerConfig
from wm_tf.training.loop import FitConfig


class Options(dict[str, Any]):
  """A mapping that is not changed, so that a configuration with one can be hashed."""

  def __hash__(self) -> int:
    return hash(tuple(sorted((key, repr(value)) for key, value in self.items())))


@dataclasses.dataclass(frozen=True)
class CollectConfig:
  """Where the data comes from.

  Attributes:
    num_episodes: episodes of the first, off-policy collection.
    uniform, held, brownian, heuristic: relative shares of the policies that play them.
    heuristics: variants of the environment's scripted policy, played equally often: for each one
      the scale of the noise on its actions, and its options as `(name, value)` pairs. With too
      little noise the model learns that all goes well whatever the action is.
    interruption_rate: probability, at each decision, that a uniform action interrupts the scripted
      policy.
    episodes_per_iteration: episodes of every later collection, played by the current controller.
    controller_noise: scale of the noise on the controller's actions.
    random_start: share of training episodes that start at a random place, in environments with
      that option.
    stop_after_idle_decisions: decisions without progress after which a training episode ends, in
      environments with that option; 0 for never.
    held_out: share of the episodes kept for validation, by seed.
    episodes_per_shard: episodes that are written together; a killed collection goes on after them.
    num_workers: environment processes; 0 for twice the number of processors.
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
    if self.interruption_rate > 1:
      raise ValueError(f"interruption_rate is a probability: {self.interruption_rate}.")
    if self.random_start > 1:
      raise ValueError(f"random_start is a share: at most 1, not {self.random_start}.")
    if not 0 < self.held_out < 1:
      raise ValueError(f"held_out is a share: between 0 and 1, not {self.held_out}.")


@dataclasses.dataclass(frozen=True)
class StageFitConfig:
  """How a model is fitted at first, and again after every on-policy collection.

  Attributes:
    first: the first fit.
    refit: each later fit, from the weights before it.
    batch_size: frames or sequences.
    sequence_length: T of the dynamics' sequences.
    on_policy_repeats: how often an epoch goes through the data of the later collections, which is
      little and matters most.
    shuffle_buffer: frames that are decoded at a time, to be mixed. By default all are: decoded
      once, into 12 KB each on disk, which are removed when the fit is done.
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
    num_episodes: full episodes of every agent in the environment, and dreams in the model.
    num_planner_episodes: of the served planner, which takes longer.
    validation_episodes: per iteration, on seeds of their own, to choose the controller by.
  """

  num_episodes: int = 32
  num_planner_episodes: int = 16
  validation_episodes: int = 16

  def __post_init__(self):
    check_at_least(1, self, "num_episodes", "num_planner_episodes", "validation_episodes")


@dataclasses.dataclass(frozen=True)
class ExperimentConfig:
  """Everything but the seed and the folder.

  Attributes:
    preset: the name it started from.
    environment: a name that `make_env` takes.
    environment_options: options of `make_env`, by name.
    family: the kind of world model; see `wm_tf.runs.families`.
    num_iterations: rounds of collecting with the controller, refitting and dreaming anew.
    num_vae_refits: the VAE is refitted in the first of these rounds only, since every refit means
      encoding all frames again.
    quality_gates: whether a fit that has learned nothing ends the run.
    collect, vae, vae_fit, dynamics, dynamics_fit, controller, planner, evaluate, finish: see their
      types.
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
  controller: ControllerConfig = ControllerConfig()
  planner: PlannerConfig = PlannerConfig()
  evaluate: EvaluateConfig = EvaluateConfig()
  finish: FinishConfig = FinishConfig()

  def __post_init__(self):
    check_at_least(0, self, "num_iterations", "num_vae_refits")
    object.__setattr__(self, "environment_options", Options(self.environment_options))


def to_dict(config: ExperimentConfig) -> dict[str, Any]:
  """Returns plain JSON-able values."""
  return dataclasses.asdict(config)


def from_dict(values: dict[str, Any]) -> ExperimentConfig:
  """The inverse of `to_dict`, also after a round trip through JSON.

  Raises:
    ConfigError: for unknown or missing fields and values of the wrong type.
  """
  return from_plain(ExperimentConfig, values, "config")
