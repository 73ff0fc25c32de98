"""Configuration of experiments: dataclasses, presets, and overrides of single fields."""

from wm_tf.checks import ConfigError
from wm_tf.config.experiment import (
  CollectConfig,
  EvaluateConfig,
  ExperimentConfig,
  StageFitConfig,
  from_dict,
  to_dict,
)
from wm_tf.config.online import OnlineConfig
from wm_tf.config.overrides import flatten, override
from wm_tf.config.presets import PRESETS, completed, make_config, preset_names
from wm_tf.learners.config import METHODS, STRATEGIES, ControllerConfig

__all__ = [
  "METHODS",
  "PRESETS",
  "STRATEGIES",
  "CollectConfig",
  "ConfigError",
  "ControllerConfig",
  "EvaluateConfig",
  "ExperimentConfig",
  "OnlineConfig",
  "StageFitConfig",
  "completed",
  "flatten",
  "from_dict",
  "make_config",
  "override",
  "preset_names",
  "to_dict",
]
