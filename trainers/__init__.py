"""Command-line programs that train, evaluate and examine runs."""

import wm_tf  # noqa: F401  Before TensorFlow, because it selects the Keras behind `tf.keras`.
from trainers import quiet

quiet.import_tensorflow()
