"""Adam as one fused operation for each variable."""

from __future__ import annotations

import keras
import tensorflow as tf


class FusedAdam(keras.optimizers.Adam):
  """Keras' Adam computed by TensorFlow's kernel, which reads and writes each variable once.

  Keras' update is a dozen operations that each pass over all parameters, which is limited by memory
  bandwidth. State, hyperparameters and results are the same, except for rounding.

  References:
    Kingma & Ba 2015, arXiv:1412.6980, algorithm 1 with the step size of section 2's last lines.
  """

  def update_step(self, gradient, variable, learning_rate):
    """Updates one variable and its moments. See `keras.optimizers.Adam.update_step`."""
    index = self._get_variable_index(variable)
    step = tf.cast(self.iterations + 1, variable.dtype)
    tf.raw_ops.ResourceApplyAdam(
      var=variable.handle,
      m=self._momentums[index].value.handle,
      v=self._velocities[index].value.handle,
      beta1_power=tf.pow(self.beta_1, step),
      beta2_power=tf.pow(self.beta_2, step),
      lr=tf.cast(learning_rate, variable.dtype),
      beta1=self.beta_1,
      beta2=self.beta_2,
      epsilon=self.epsilon,
      grad=gradient,
    )
