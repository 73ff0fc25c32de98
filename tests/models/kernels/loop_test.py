"""The recurrent loop: results and gradients are those of `tf.scan`."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from wm_tf.models.gru import GRU, BlockGRU, make_tapped
from wm_tf.models.kernels.loop import Tap, recurrent_loop

_T, _B, _D, _A, _X = 5, 3, 8, 2, 4


class _Cell(keras.Model):
  """A recurrent cell of tapped layers and of variables of its own."""

  def __init__(self, kind):
    super().__init__()
    self.cell = GRU(_D, 6, _X, _A) if kind == "gru" else BlockGRU(_D, 6, _X, _A, 2)
    self.output_layer = make_tapped(7, _D)
    self.scale = self.add_weight(name="scale", shape=(_D,), initializer="ones")

  def step(self, state, x, constants):
    action, first = constants
    before = tf.where(first[:, tf.newaxis], 0.0, state["deter"])
    deter = self.cell(before, x, action)
    return {"deter": deter * self.scale}, tf.sin(self.output_layer(deter))


def _scan(step, initial, inputs, constants, jit_compile=False):
  del jit_compile
  outputs = tf.zeros([_B, 7])
  return tf.scan(
    lambda carry, now: step(carry[0], *now), (inputs, constants), initializer=(initial, outputs)
  )


def _gradients(loop, cell, jit_compile):
  rng = np.random.default_rng(0)
  x, action, weight = (
    tf.constant(rng.normal(size=(_T, _B, size)).astype(np.float32)) for size in (_X, _A, _D)
  )
  first = tf.constant(rng.uniform(size=(_T, _B)) < 0.3)

  @tf.function(autograph=False)
  def run():
    with tf.GradientTape() as tape:
      tape.watch(x)
      states, outputs = loop(
        cell.step, {"deter": tf.zeros([_B, _D])}, tf.square(x), (action, first), jit_compile
      )
      loss = tf.reduce_sum(weight * tf.square(states["deter"])) + tf.reduce_mean(outputs)
    variables = [weight.value for weight in cell.trainable_weights]
    return states, outputs, tape.gradient(loss, [x, *variables])

  return run()


@pytest.mark.parametrize("jit_compile", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", ["gru", "block_gru"])
def test_equals_a_scan(kind, jit_compile):
  keras.utils.set_random_seed(1)
  cell = _Cell(kind)
  cell.scale.assign(np.linspace(0.5, 1.5, _D))
  found = _gradients(recurrent_loop, cell, jit_compile)
  expected = _gradients(_scan, cell, False)
  tf.nest.map_structure(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), found, expected
  )
  assert all(np.abs(gradient).max() > 1e-4 for gradient in found[2])
  assert Tap.active is None


def test_a_layer_that_is_called_twice_is_refused():
  """Its two inputs would need two probes."""
  layer = make_tapped(_D, _D)

  def step(state, x, constants):
    return layer(layer(state)), x

  with pytest.raises(AssertionError, match="is called twice in a step"):
    with tf.GradientTape() as tape:
      inputs = tf.ones([_T, _B, _X])
      tape.watch(inputs)
      states, outputs = recurrent_loop(step, tf.zeros([_B, _D]), inputs, ())
      loss = tf.reduce_sum(states) + tf.reduce_sum(outputs)
    tape.gradient(loss, inputs)
  assert Tap.active is None
