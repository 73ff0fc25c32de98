"""An experiment's whole configuration: its parts, overrides, JSON round trip."""

from __future__ import annotations

import ast
import dataclasses
import difflib
import types
import typing
from collections.abc import Iterable
from typing import Any

from wm_tf.checks import check_at_least
from wm_tf.controllers.actor_critic import ActorCriticConfig
from wm_tf.controllers.dream_es import DreamESConfig
from wm_tf.controllers.planner import PlannerConfig
from wm_tf.controllers.policy_gradient import METHODS as POLICY_GRADIENTS
from wm_tf.controllers.policy_gradient import PolicyGradientConfig, PPOConfig
from wm_tf.models.mdn_rnn import MDNRNNConfig
from wm_tf.models.vae import VAEConfig
from wm_tf.presets import PRESETS
from wm_tf.real_es import FinishConfig
from wm_tf.training.loop import FitConfig

METHODS = ("es", "actor_critic", *POLICY_GRADIENTS)
STRATEGIES = ("cma_es", "sep_cma_es", "open_es", "cem")


class ConfigError(ValueError):
  """A preset, a field or a value that does not exist."""


@dataclasses.dataclass(frozen=True)
class CollectConfig:
  """Where the data comes from.

  Attributes:
    num_episodes: episodes of the first, off-policy collection.
    uniform, held, brownian, heuristic: relative shares of the policies that play them.
    heuristics: variants of the environment's scripted policy, equally often played: for each one
      the scale of the noise on its actions, and its options as `(name, value)` pairs. Too little
      noise, and the model takes good driving to be the course of nature, whatever the action; and
      it must see what comes of too much speed, or dreams are won by full throttle.
    episodes_per_iteration: episodes of every later collection, played by the current controller.
    controller_noise: scale of the noise on the controller's actions.
    random_start: share of training episodes that start at a random place (environments that can).
    stop_after_idle_decisions: ends a training episode that has brought nothing for so long; 0 for
      never (environments that can).
    held_out: share of the episodes kept for validation, by seed.
    episodes_per_shard: episodes that are written together; a killed collection goes on after them.
    num_workers: environment processes; 0 for twice the number of processors.
  """

  num_episodes: int = 180
  uniform: float = 0.0
  held: float = 0.15
  brownian: float = 0.25
  heuristic: float = 0.6
  heuristics: tuple[tuple[float, tuple[tuple[str, float], ...]], ...] = (
    (0.3, (("target_speed", 45.0),)),
    (0.15, (("target_speed", 45.0),)),
    (0.25, (("target_speed", 60.0),)),
    (0.12, (("target_speed", 60.0),)),
    (0.1, (("target_speed", 80.0),)),
    (0.2, (("target_speed", 100.0),)),
    (0.2, (("target_speed", 140.0),)),
  )
  interruption_rate: float = 0.015
  episodes_per_iteration: int = 40
  controller_noise: float = 0.2
  random_start: float = 0.5
  stop_after_idle_decisions: int = 40
  held_out: float = 0.1
  episodes_per_shard: int = 16
  num_workers: int = 0

  def __post_init__(self):
    check_at_least(1, self, "num_episodes", "episodes_per_iteration", "episodes_per_shard")
    check_at_least(1, self, "stop_after_idle_decisions")
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
class ControllerConfig:
  """How the controller is trained in the dream.

  Attributes:
    method: `es` evolves a linear controller; `actor_critic` trains a multilayer perceptron by the
      gradient of dreamed returns, and `ppo` (with a KL penalty), `ppo_clip` and `reinforce` train
      it by policy gradients, with TF-Agents. The next five fields are evolution's.
    strategy: `cma_es`, `sep_cma_es`, `open_es` or `cem`.
    population_size: N.
    num_generations: per evolution.
    initial_scale: standard deviation of the first generation.
    hidden_components: whitened principal components of `h` that the controller sees; -1 for all
      of `h`.
    start_window: dreams start where one of the last `start_window` decisions was rewarded, or at
      the start of an episode; 0 for anywhere.
    start_anywhere: share of the dreams that start anywhere all the same, so that getting back from
      where nothing is to be had is learned too.
    num_starts: real states that dreams start from.
    dream: how evolution scores candidates.
    actor_critic: how gradients are taken.
    ppo: how policy gradients are, by `ppo` and by `ppo_clip`.
    reinforce: and by `reinforce`.
  """

  method: str = "es"
  strategy: str = "cma_es"
  population_size: int = 48
  num_generations: int = 60
  initial_scale: float = 0.1
  hidden_components: int = 16
  start_window: int = 8
  start_anywhere: float = 0.7
  num_starts: int = 4096
  dream: DreamESConfig = DreamESConfig()
  actor_critic: ActorCriticConfig = ActorCriticConfig()
  ppo: PPOConfig = PPOConfig()
  reinforce: PolicyGradientConfig = PolicyGradientConfig()

  def __post_init__(self):
    if self.method not in METHODS:
      raise ConfigError(
        f"controller.method must be one of {', '.join(METHODS)}, not {self.method!r}."
      )
    if self.strategy not in STRATEGIES:
      raise ConfigError(
        f"controller.strategy must be one of {', '.join(STRATEGIES)}, not {self.strategy!r}."
      )
    check_at_least(2, self, "population_size")
    check_at_least(1, self, "num_generations", "num_starts")
    check_at_least(0, self, "initial_scale", "start_window", "start_anywhere")
    check_at_least(-1, self, "hidden_components")


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
    num_iterations: rounds of collecting with the controller, refitting and dreaming anew.
    num_vae_refits: the VAE is refitted in the first of these rounds only, since every refit means
      encoding all frames again.
    quality_gates: whether a fit that has learned nothing ends the run.
    collect, vae, vae_fit, dynamics, dynamics_fit, controller, planner, evaluate, finish: see their
      types.
  """

  preset: str = "default"
  environment: str = "car_racing"
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


def _presets() -> dict[str, ExperimentConfig]:
  presets = {"default": ExperimentConfig()}
  for name, base, overrides in PRESETS:
    presets[name] = override(dataclasses.replace(presets[base], preset=name), overrides)
  return presets


def preset_names() -> tuple[str, ...]:
  return tuple(_presets())


def make_config(preset: str = "default", overrides: Iterable[str] = ()) -> ExperimentConfig:
  """Returns a preset with overrides such as `"dynamics.num_mixtures=8"`.

  Raises:
    ConfigError: for an unknown preset or field (the nearest known one is named), or a value of the
      wrong type.
  """
  presets = _presets()
  if preset not in presets:
    raise ConfigError(f"Unknown preset {preset!r}; {_nearest(preset, presets)}")
  return override(presets[preset], overrides)


def override(config: Any, overrides: Iterable[str]) -> Any:
  """Returns a copy of a nested dataclass with `"path.to.field=value"` applied in order."""
  for text in overrides:
    path, equals, value = (part.strip() for part in text.partition("="))
    if not equals:
      raise ConfigError(f"An override must look like dynamics.num_mixtures=8, got {text!r}.")
    known = [name for name, _ in flatten(config)]
    if not any(f"{name}.".startswith(f"{path}.") for name in known):
      raise ConfigError(f"Unknown field {path!r}; {_nearest(path, known)}")
    config = _replace(config, path.split("."), value, path)
  return config


def _replace(config: Any, parts: list[str], value: str, path: str) -> Any:
  if len(parts) > 1:
    new = _replace(getattr(config, parts[0]), parts[1:], value, path)
  else:
    new = _parse(value, typing.get_type_hints(type(config))[parts[0]], path)
  return _checked(f"{path}={value}", dataclasses.replace, config, **{parts[0]: new})


def _checked(path: str, make, *args, **fields) -> Any:
  """Calls `make`; what a dataclass refuses becomes a `ConfigError` that names its origin."""
  try:
    return make(*args, **fields)
  except ConfigError:
    raise
  except ValueError as error:
    raise ConfigError(f"{path}: {error}") from error


def _nearest(name: str, known: Iterable[str]) -> str:
  known = list(known)
  # The last part counts most: people remember a field better than where it lives.
  tails = {k.rpartition(".")[2]: k for k in known}
  close = difflib.get_close_matches(name, known, n=3, cutoff=0.5) or [
    tails[t] for t in difflib.get_close_matches(name.rpartition(".")[2], tails, n=3, cutoff=0.6)
  ]
  return f"did you mean {' or '.join(close)}?" if close else f"known are: {', '.join(known)}."


def _parse(text: str, annotation: Any, path: str) -> Any:
  if dataclasses.is_dataclass(annotation):
    names = ", ".join(field.name for field in dataclasses.fields(annotation))
    raise ConfigError(f"{path} is a group; override one of its fields: {names}.")
  try:
    value = text if annotation is str else ast.literal_eval(text)
  except (ValueError, SyntaxError):
    raise ConfigError(f"{path}={text}: {text!r} is not {_describe(annotation)}.") from None
  return _coerce(value, annotation, f"{path}={text}")


def _coerce(value: Any, annotation: Any, path: str) -> Any:
  """Checks a plain value against a field's type; lists become tuples, ints become floats."""
  origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
  if dataclasses.is_dataclass(annotation) and isinstance(value, dict):
    return _from_dict(annotation, value, path)
  if origin in (typing.Union, types.UnionType):
    if value is None and type(None) in arguments:
      return None
    return _coerce(value, next(a for a in arguments if a is not type(None)), path)
  if origin is tuple and isinstance(value, (list, tuple)):
    if arguments[-1] is Ellipsis:
      return tuple(_coerce(v, arguments[0], path) for v in value)
    if len(value) == len(arguments):
      return tuple(_coerce(v, a, path) for v, a in zip(value, arguments, strict=True))
  if annotation is float and type(value) in (int, float):
    return float(value)
  if annotation in (int, str, bool) and type(value) is annotation:
    return value
  raise ConfigError(f"{path}: {value!r} is not {_describe(annotation)}.")


def _describe(annotation: Any) -> str:
  return f"a value of type {getattr(annotation, '__name__', None) or annotation}".replace(
    "typing.", ""
  )


def flatten(config: Any, prefix: str = "") -> list[tuple[str, Any]]:
  """Returns `("dynamics.num_mixtures", 5)` for every field, in order."""
  rows = []
  for field in dataclasses.fields(config):
    value = getattr(config, field.name)
    if dataclasses.is_dataclass(value):
      rows += flatten(value, f"{prefix}{field.name}.")
    else:
      rows.append((prefix + field.name, value))
  return rows


def to_dict(config: ExperimentConfig) -> dict[str, Any]:
  """Returns plain JSON-able values."""
  return dataclasses.asdict(config)


def from_dict(values: dict[str, Any]) -> ExperimentConfig:
  """The inverse of `to_dict`, also after a round trip through JSON.

  Raises:
    ConfigError: for unknown or missing fields and values of the wrong type.
  """
  return _from_dict(ExperimentConfig, values, "config")


def completed(values: dict[str, Any]) -> dict[str, Any]:
  """Adds what a run of an older version does not mention, at its default: it was not there then.

  Args:
    values: what `to_dict` of that version gave.
  """
  return _completed(values, to_dict(ExperimentConfig()))


def _completed(values: dict[str, Any], defaults: dict[str, Any]) -> dict[str, Any]:
  both = {
    key: _completed(value, defaults[key])
    if isinstance(value, dict) and isinstance(defaults.get(key), dict)
    else value
    for key, value in values.items()
  }
  return {**defaults, **both}


def _from_dict(cls: type, values: dict[str, Any], path: str) -> Any:
  hints = typing.get_type_hints(cls)
  for name in values:
    if name not in hints:
      raise ConfigError(f"{path}: unknown field {name!r}; {_nearest(name, hints)}")
  for name in hints:
    if name not in values:
      raise ConfigError(f"{path}: field {name!r} is missing; it was written by another version.")
  fields = {n: _coerce(v, hints[n], f"{path}.{n}") for n, v in values.items()}
  return _checked(path, cls, **fields)
