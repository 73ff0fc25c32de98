"""TensorFlow without XLA, whose compiling takes most of the time of a small training."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest
import tensorflow as tf


@contextlib.contextmanager
def no_xla() -> Iterator[None]:
  """Makes `tf.function` ignore `jit_compile` within the block."""
  original = tf.function
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(tf, "function", lambda *args, jit_compile=None, **kw: original(*args, **kw))
    yield
