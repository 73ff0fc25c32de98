"""Environments: adapts any gymnasium environment to agents, without TensorFlow."""

from wm_tf.envs.gymnasium_ids import reward_threshold
from wm_tf.envs.registry import (
  env_factory,
  env_names,
  env_spec,
  has_heuristic,
  make_env,
  make_heuristic,
  recipe,
  register_env,
  resolve,
  training_options,
  try_env,
)

__all__ = [
  "env_factory",
  "env_names",
  "env_spec",
  "has_heuristic",
  "make_env",
  "make_heuristic",
  "recipe",
  "register_env",
  "resolve",
  "reward_threshold",
  "training_options",
  "try_env",
]
