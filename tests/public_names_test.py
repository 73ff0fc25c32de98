"""The names that `import wm_tf` gives: few, documented, and imported when asked for."""

from __future__ import annotations

import inspect
import subprocess
import sys

import pytest

import wm_tf


@pytest.mark.parametrize("name", wm_tf.__all__)
def test_every_public_name_exists_and_says_what_it_is(name):
  assert inspect.getdoc(getattr(wm_tf, name))


def test_an_unknown_name_is_an_attribute_error():
  with pytest.raises(AttributeError, match="no attribute 'Runn'"):
    _ = wm_tf.Runn


def test_importing_the_package_loads_no_tensorflow():
  script = "import sys, wm_tf; dir(wm_tf); sys.exit('tensorflow' in sys.modules)"
  subprocess.run([sys.executable, "-c", script], check=True)
