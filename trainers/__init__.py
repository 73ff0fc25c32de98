"""Command-line programs. They import TensorFlow without the log lines of its C++ libraries."""

import os
import sys
import tempfile

import wm_tf  # noqa: F401  Before TensorFlow, because it selects the Keras behind `tf.keras`.


def import_tensorflow() -> None:
  """Imports TensorFlow; its output is shown only if the import fails.

  Its libraries log before their logging is set up, so `TF_CPP_MIN_LOG_LEVEL` does not affect these
  lines. If it is 0, everything is shown. Otherwise it is set to 3 by default, because TensorFlow
  later logs a missing GPU as an error.
  """
  if "tensorflow" in sys.modules or os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3") == "0":
    return
  sys.stderr.flush()
  stderr = os.dup(2)
  with tempfile.TemporaryFile() as held_back:
    os.dup2(held_back.fileno(), 2)
    try:
      import tensorflow  # noqa: F401
    except BaseException:
      held_back.seek(0)
      os.write(stderr, held_back.read())
      raise
    finally:
      sys.stderr.flush()
      os.dup2(stderr, 2)
      os.close(stderr)


import_tensorflow()
