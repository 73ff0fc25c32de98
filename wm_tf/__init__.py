"""World Models in TensorFlow: learn a model of the world from rollouts, dream in it, plan in it."""

import os

# tensorflow-probability 0.23 and tf-agents need Keras 2 behind `tf.keras`, and read this when
# TensorFlow is first imported. The library itself uses `import keras` (Keras 3) only.
os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")

from gymnasium.envs.registration import register

# Names only: what they stand for is imported when a dream is made.
register(
  id="wm_tf/Dream-v0",
  entry_point="wm_tf.runs.dreams:make_dream_env",
  vector_entry_point="wm_tf.runs.dreams:make_dream_vector_env",
)
