"""Parts of a graph that XLA compiles, each with its gradient.

TensorFlow's graph executor reads and writes memory for every operation between two convolutions,
and keeps the intermediate results for the gradient. XLA makes one loop of them. The gradient
computes the part again from its inputs. XLA would make the convolutions themselves slower, so only
what lies between them is compiled.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence

import tensorflow as tf

_active = False


@contextlib.contextmanager
def fusing(enabled: bool = True) -> Iterator[None]:
  """Makes `fused` compile its parts within the block.

  Args:
    enabled: whether it does. Exported programs must not: the model server refuses XLA.
  """
  global _active
  before, _active = _active, enabled
  try:
    yield
  finally:
    _active = before


def fused(
  function: Callable[..., tf.Tensor],
  *args: tf.Tensor,
  constants: Sequence[tf.Tensor] = (),
) -> tf.Tensor:
  """Computes `function(*args, *constants)`, as one program within `fusing`.

  Args:
    function: a function of tensors, which reads no variables.
    *args: tensors to which gradients flow.
    constants: tensors to which no gradient flows.

  Returns:
    The result.
  """
  constants = [tf.stop_gradient(x) for x in constants]
  if not _active:
    return function(*args, *constants)
  compiled = tf.function(autograph=False, jit_compile=True)

  @compiled
  def forward(args, constants):
    return function(*args, *constants)

  @compiled
  def backward(args, constants, upstream):
    with tf.GradientTape(watch_accessed_variables=False) as tape:
      tape.watch(args)
      result = function(*args, *constants)
    return tape.gradient(result, args, output_gradients=upstream)

  @tf.custom_gradient
  def run(*args):
    args = list(args)
    return forward(args, constants), lambda upstream: backward(args, constants, upstream)

  return run(*args)
