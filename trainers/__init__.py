"""Trainer binaries: flags, configuration, build, run."""

import wm_tf  # noqa: F401  Before TensorFlow: it says which Keras `tf.keras` is to be.
from trainers import quiet

quiet.import_tensorflow()
