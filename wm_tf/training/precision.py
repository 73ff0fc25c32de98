"""Computes matrix products and convolutions of training steps in bfloat16."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from pathlib import Path

import tensorflow as tf

PRECISIONS = ("float32", "bfloat16")
_OPTION = "auto_mixed_precision_onednn_bfloat16"


@functools.cache
def has_bfloat16() -> bool:
  """Returns whether this processor computes bfloat16 products faster than float32."""
  try:
    return multiplies_bfloat16(Path("/proc/cpuinfo").read_text())
  except OSError:  # Not Linux.
    return False


def multiplies_bfloat16(cpuinfo: str) -> bool:
  """Returns whether a processor computes bfloat16 products faster than float32.

  That is the case with AMX, and for AMD processors with AVX-512 bfloat16. Intel processors with
  AVX-512 bfloat16 alone compute it at half the speed of float32, and emulation is slower still.

  Args:
    cpuinfo: description of the processor, in the format of `/proc/cpuinfo`.
  """
  words = set(cpuinfo.split())
  return "amx_bf16" in words or {"avx512_bf16", "AuthenticAMD"} <= words


@contextlib.contextmanager
def computing_in(precision: str) -> Iterator[None]:
  """Makes the `tf.function`s called in the block compute in a precision.

  In `bfloat16`, matrix products, convolutions and the operations between them take bfloat16 and
  accumulate in float32. Variables and sensitive operations (sums, exponentials) stay float32. A
  function keeps one program for each precision that it was called in. If `has_bfloat16` is false,
  everything is float32.

  Args:
    precision: one of `PRECISIONS`.

  Raises:
    ValueError: if `precision` is not one of them.

  References:
    Micikevicius et al. 2018, arXiv:1710.03740, section 3.1 (variables in float32).
    Kalamkar et al. 2019, arXiv:1905.12322 (bfloat16 needs no scaling of the loss).
  """
  if precision not in PRECISIONS:
    raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}, not {precision!r}.")
  if precision == "float32" or not has_bfloat16():
    yield
    return
  before = tf.config.optimizer.get_experimental_options().get(_OPTION, False)
  tf.config.optimizer.set_experimental_options({_OPTION: True})
  try:
    yield
  finally:
    tf.config.optimizer.set_experimental_options({_OPTION: before})
