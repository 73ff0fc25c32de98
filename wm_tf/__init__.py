"""World Models in TensorFlow: learn a model of the world from rollouts, dream in it, plan in it."""

import os

# tensorflow-probability 0.23 and tf-agents need Keras 2 behind `tf.keras`, and read this when
# TensorFlow is first imported. The library itself uses `import keras` (Keras 3) only.
os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")
