"""Writes agents and world models as SavedModels, and loads them.

from wm_tf import export

export.export_agent(agent, "runs/pendulum/export/planner")
actor = export.load_agent("runs/pendulum/export/planner")
"""

from wm_tf.export.conversions import (
  canonical_action,
  input_names,
  input_specs,
  observation_of,
  to_env_action,
)
from wm_tf.export.loading import SavedModelActor, load_agent, version_folder
from wm_tf.export.saved_world_model import SavedWorldModel, first_states
from wm_tf.export.signatures import export_agent, export_world_model
from wm_tf.export.state import Tensors, flatten_state, unflatten_state
from wm_tf.export.writing import saved_versions

__all__ = [
  "SavedModelActor",
  "SavedWorldModel",
  "Tensors",
  "canonical_action",
  "export_agent",
  "export_world_model",
  "first_states",
  "flatten_state",
  "input_names",
  "input_specs",
  "load_agent",
  "observation_of",
  "saved_versions",
  "to_env_action",
  "unflatten_state",
  "version_folder",
]
