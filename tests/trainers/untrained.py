"""Runs that have all that later stages need, of random weights: no time is spent on learning."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tests.worlds import randomize
from wm_tf import config as config_lib
from wm_tf.learners.learner import make_learner
from wm_tf.runs.run import Run
from wm_tf.runs.workdir import write_json
from wm_tf.training import checkpoints

OVERRIDES = (
  "environment=tests.fakes:TargetEnv",
  "collect.heuristic=0.0",
  "finish.num_generations=4",
)


def make_config(method: str = "es") -> config_lib.ExperimentConfig:
  return config_lib.make_config("debug", [*OVERRIDES, f"controller.method={method}"])


def make_run(workdir: Path, method: str = "es") -> Path:
  """A workdir with one iteration, in an environment that takes no time."""
  with Run(workdir, config=make_config(method), seed=3) as run:
    model = run.family.new_model()
    randomize(model, 0)
    checkpoints.save_weights(model, run.path("dynamics", 0) / "weights.npz")
    learner = make_learner(model, run.config.controller, 0)
    folder = run.path("controller", 0)
    checkpoints.save_nest(folder / "controller.npz", learner.policy_state())
    if method == "es":
      covariance = np.diag(np.arange(1.0, 27.0)).astype(np.float32)
      checkpoints.save_nest(folder / "distribution.npz", {"covariance": covariance})
    write_json(
      folder / "validation.json", {"iteration": 0, "controller_in_environment": {"mean": 1.0}}
    )
  return workdir
