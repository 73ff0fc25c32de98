import keras
import numpy as np
import tensorflow as tf

from wm_tf.training.adam import FusedAdam


def test_steps_are_those_of_keras():
  """Several steps, two variables, a learning rate that changes; state included."""
  generator = np.random.default_rng(0)
  start = [generator.normal(size=(7, 5)), generator.normal(size=300)]
  found = []
  for make in (FusedAdam, keras.optimizers.Adam):
    variables = [keras.Variable(x.astype(np.float32)) for x in start]
    optimizer = make(1e-2)
    optimizer.build(variables)
    apply = tf.function(lambda *gradients, o=optimizer: o.apply(gradients))
    gradients = np.random.default_rng(1)
    for i in range(20):
      optimizer.learning_rate.assign(1e-2 / (1 + i))
      apply(*(tf.constant(gradients.normal(size=v.shape), tf.float32) for v in variables))
    found.append([np.asarray(v) for v in (*variables, *optimizer.variables)])
  for ours, expected in zip(*found, strict=True):
    np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-6)
