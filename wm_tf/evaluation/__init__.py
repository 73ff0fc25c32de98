"""Evaluation of agents in the environment and in the model, and of the model itself."""

from wm_tf.evaluation.quality import (
  BURN_IN,
  OPEN_LOOP_STEPS,
  QualityGateError,
  area_under_curve,
  check_dynamics,
  check_reconstruction,
  check_vae,
  dynamics_quality,
  reconstruction_quality,
  vae_quality,
)
from wm_tf.evaluation.returns import evaluate_in_environment, evaluate_in_model

__all__ = [
  "BURN_IN",
  "OPEN_LOOP_STEPS",
  "QualityGateError",
  "area_under_curve",
  "check_dynamics",
  "check_reconstruction",
  "check_vae",
  "dynamics_quality",
  "evaluate_in_environment",
  "evaluate_in_model",
  "reconstruction_quality",
  "vae_quality",
]
