"""World Models in TensorFlow: learn a model of an environment, dream in it, and plan in it.

    import wm_tf

    run = wm_tf.Run("runs/pendulum", environment="gym:Pendulum-v1", preset="quickstart", seed=0)
    run.train()
    scores = run.evaluate("planner", episodes=10)
    run.export()

Public names are imported on first use, so that `import wm_tf` is fast and does not load TensorFlow.
"""

import importlib
import os
import sys

# tensorflow-probability 0.23 and tf-agents need Keras 2 behind `tf.keras`, and read this when
# TensorFlow is first imported. The library itself uses `import keras` (Keras 3) only.
os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")

from gymnasium.envs.registration import register

# Each public name, and the module that defines it.
_PUBLIC = {
  # Runs.
  "Run": "wm_tf.runs.run",
  "load_run": "wm_tf.runs.run",
  "make_config": "wm_tf.config",
  "ExperimentConfig": "wm_tf.config",
  # Environments.
  "make_env": "wm_tf.envs",
  "env_spec": "wm_tf.envs",
  "register_env": "wm_tf.envs",
  "EnvSpec": "wm_tf.core",
  "ActionSpace": "wm_tf.core",
  "ObservationSpec": "wm_tf.core",
  # Data.
  "Episode": "wm_tf.core",
  "Batch": "wm_tf.core",
  "collect": "wm_tf.data.collect",
  "episodes_dataset": "wm_tf.data.datasets",
  "sequences_dataset": "wm_tf.data.datasets",
  # Models.
  "WorldModel": "wm_tf.models.world_model",
  "VAE": "wm_tf.models.vae",
  "MDNRNN": "wm_tf.models.mdn_rnn",
  "Ensemble": "wm_tf.models.ensemble",
  # Agents.
  "Agent": "wm_tf.agent",
  "Planner": "wm_tf.policies.planner",
  "PlannerConfig": "wm_tf.policies.planner",
  # Exports.
  "export_agent": "wm_tf.export",
  "export_world_model": "wm_tf.export",
  "load_agent": "wm_tf.export",
  "SavedWorldModel": "wm_tf.export",
}

__all__ = sorted(_PUBLIC)


def __getattr__(name: str):
  if name not in _PUBLIC:
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
  value = getattr(importlib.import_module(_PUBLIC[name]), name)
  globals()[name] = value
  return value


def __dir__() -> list[str]:
  return sorted({*globals(), *_PUBLIC})


# Entry points are imported when a dream is made.
register(
  id="wm_tf/Dream-v0",
  entry_point="wm_tf.runs.dreams:make_dream_env",
  vector_entry_point="wm_tf.runs.dreams:make_dream_vector_env",
)

_forked_from_tensorflow = False


def _note_fork() -> None:
  """Records in a new child process whether TensorFlow had run in its parent."""
  global _forked_from_tensorflow
  module = sys.modules.get("tensorflow.python.eager.context")
  context = getattr(module, "context_safe", lambda: None)()
  _forked_from_tensorflow |= context is not None and getattr(context, "_initialized", True)


os.register_at_fork(after_in_child=_note_fork)


def check_not_forked() -> None:
  """Checks that this process was not forked from one in which TensorFlow had run.

  The threads of TensorFlow do not survive a fork: its next operation in the child would never
  return.

  Raises:
    RuntimeError: if it was; the message has the remedy.
  """
  if _forked_from_tensorflow:
    raise RuntimeError(
      "A dream cannot run in a process that was forked after TensorFlow had run. Leave out "
      'vectorization_mode="async" of make_vec: by default it steps all dreams in one call. Or give '
      'it vector_kwargs={"context": "spawn"}.'
    )
