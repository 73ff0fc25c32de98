"""What holds for every test."""

import gc
import sys
from pathlib import Path

import pytest

# isort puts `import tensorflow` ahead of `import wm_tf` in the tests; this comes before both.
import wm_tf  # noqa: F401  (It sets TF_USE_LEGACY_KERAS, which TensorFlow reads once.)

_TESTS = Path(__file__).parent
# The files that take longest, which begin first: so no worker is left alone with one of them.
_LONG = ("trainers/", "golden/", "learners/", "runs/", "faults/", "training/", "export/")


def pytest_collection_modifyitems(config, items):
  if not config.option.markexpr:
    _leave_out_slow_ones(config, items)

  def place(item):
    path = item.path.relative_to(_TESTS).as_posix()
    return next((i for i, name in enumerate(_LONG) if path.startswith(name)), len(_LONG))

  items.sort(key=place)  # Stable: otherwise in the order in which they were collected.


def _leave_out_slow_ones(config, items):
  """Except those of files that the command line names."""
  named = {Path(arg.partition("::")[0]).resolve() for arg in config.args}
  kept, left_out = [], []
  for item in items:
    slow = item.get_closest_marker("slow") and item.path not in named
    (left_out if slow else kept).append(item)
  config.hook.pytest_deselected(items=left_out)
  items[:] = kept


@pytest.fixture(autouse=True)
def no_global_seed_is_left_behind():
  """`tf.data` mixes TensorFlow's global seed into every shuffle of the tests that follow."""
  yield
  if "tensorflow" in sys.modules:
    sys.modules["tensorflow"].random.set_seed(None)


@pytest.fixture(scope="module", autouse=True)
def only_new_objects_are_searched_for_garbage():
  """Python searches all that earlier files have left for garbage otherwise: seconds each time."""
  yield
  gc.collect()
  gc.freeze()
