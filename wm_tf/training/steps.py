"""The compiled training and evaluation steps of `fit`."""

from __future__ import annotations

import tensorflow as tf

from wm_tf import rng


def _scalars(loss, metrics) -> dict[str, tf.Tensor]:
  scalars = {"loss": loss} | dict(metrics) | {"loss": loss}  # First key; overrides a metric "loss".
  for name, value in scalars.items():
    if value.shape.rank != 0:
      raise ValueError(f"model.loss returned {name!r} of shape {value.shape}; it must be a scalar.")
  return {name: tf.cast(value, tf.float32) for name, value in scalars.items()}


def _assign(variables, values) -> None:
  for variable, value in zip(variables, values, strict=True):
    variable.assign(value)


def make_train_step(model, optimizer, clip_norm, base_seed, spec):
  """Compiles a training step.

  Args:
    model: see `fit`.
    optimizer: a Keras optimizer, built for the model's trainable variables.
    clip_norm: global norm to which larger gradients are scaled down.
    base_seed: `int32[2]`; step `index` gets `fold_in(base_seed, index)`.
    spec: nest of `tf.TensorSpec` of a batch.

  Returns:
    `step(batch, index) -> (metrics, finite, gradients_finite)`: a dict of scalars, `bool[]`, and
    `bool[num_variables]`. A step that is not finite changes no variable.
  """
  variables = model.trainable_variables

  # With the dataset's spec as signature there is one trace, even if a resumed run starts at a
  # smaller last batch.
  @tf.function(input_signature=[spec, tf.TensorSpec([], tf.int64)], autograph=False)
  def train_step(batch, index):
    # The forward pass changes the averages of batch normalisation before it is known whether the
    # step is finite. Reading them copies nothing.
    before = [tf.identity(variable) for variable in model.non_trainable_variables]
    with tf.GradientTape() as tape:
      loss, metrics = model.loss(batch, rng.fold_in(base_seed, index))
    gradients = tape.gradient(loss, [v.value for v in variables])
    if all(gradient is None for gradient in gradients):
      raise ValueError("model.loss does not depend on any of the model's trainable variables.")
    gradients = [
      tf.zeros_like(v.value) if g is None else tf.convert_to_tensor(g)
      for g, v in zip(gradients, variables, strict=True)
    ]
    norm = tf.linalg.global_norm(gradients)
    finite = tf.math.is_finite(loss) & tf.math.is_finite(norm)

    def update():
      scale = clip_norm / norm
      # Clipping is rare, and costs a pass over all gradients.
      clipped = tf.cond(
        norm > clip_norm,
        lambda: [gradient * tf.cast(scale, gradient.dtype) for gradient in gradients],
        lambda: gradients,
      )
      optimizer.apply(clipped)
      return tf.ones([len(gradients)], tf.bool)

    def skip():
      _assign(model.non_trainable_variables, before)
      return tf.stack([tf.reduce_all(tf.math.is_finite(gradient)) for gradient in gradients])

    gradients_finite = tf.cond(finite, update, skip)
    return _scalars(loss, metrics | {"gradient_norm": norm}), finite, gradients_finite

  return train_step


def make_eval_step(model, base_seed, spec):
  """Compiles an evaluation step, which changes no variable.

  Args:
    model: see `fit`.
    base_seed: `int32[2]`; step `index` gets `fold_in(base_seed, index)`.
    spec: nest of `tf.TensorSpec` of a batch.

  Returns:
    `step(batch, index) -> (metrics, rows)`: a dict of scalars, and the batch size `int32[]`.
  """

  @tf.function(input_signature=[spec, tf.TensorSpec([], tf.int64)], autograph=False)
  def eval_step(batch, index):
    before = [tf.identity(variable) for variable in model.non_trainable_variables]
    loss, metrics = model.loss(batch, rng.fold_in(base_seed, index))
    _assign(model.non_trainable_variables, before)
    return _scalars(loss, metrics), tf.shape(tf.nest.flatten(batch)[0])[0]

  return eval_step
