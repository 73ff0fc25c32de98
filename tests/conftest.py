"""Before anything else: isort puts `import tensorflow` ahead of `import wm_tf` in the tests."""

import wm_tf  # noqa: F401  (It sets TF_USE_LEGACY_KERAS, which TensorFlow reads once.)
