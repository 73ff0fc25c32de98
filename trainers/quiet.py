"""Loads TensorFlow without the lines that its C++ libraries print whatever they are told."""

import os
import sys
import tempfile


def import_tensorflow() -> None:
  """Imports TensorFlow; what it says on the way is seen only if that fails.

  Its libraries log before their logging is set up, so `TF_CPP_MIN_LOG_LEVEL` does not reach them;
  where it is 0, all is shown. Later on they would call it an error that there is no GPU.
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
