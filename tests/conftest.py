"""What holds for every test."""

import sys

import pytest

# isort puts `import tensorflow` ahead of `import wm_tf` in the tests; this comes before both.
import wm_tf  # noqa: F401  (It sets TF_USE_LEGACY_KERAS, which TensorFlow reads once.)


@pytest.fixture(autouse=True)
def no_global_seed_is_left_behind():
  """`tf.data` mixes TensorFlow's global seed into every shuffle of the tests that follow."""
  yield
  if "tensorflow" in sys.modules:
    sys.modules["tensorflow"].random.set_seed(None)
