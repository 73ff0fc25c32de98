"""What the race of Dreamer's world model is given, and that ours trains on it."""

import numpy as np
import pytest
import tensorflow as tf

from benchmarks import _dreamer_problem as dreamer_problem
from benchmarks import _tensorflow_dreamer as ours
from wm_tf.config import make_config


def test_the_sizes_are_those_of_the_preset():
  config = make_config("dreamer")
  assert config.rssm == ours.RSSM_CONFIG
  assert config.controller.derived(500).actor_critic == ours.ACTOR_CRITIC_CONFIG
  assert config.online.learning_rate == dreamer_problem.LEARNING_RATE
  assert config.online.clip_norm == dreamer_problem.CLIP_NORM
  for pixels in (False, True):
    size, settings = dreamer_problem.make_size(pixels), config.online.derived(pixels)
    assert (size.batch, size.length) == (settings.batch_size, settings.sequence_length)


@pytest.mark.parametrize("pixels", [False, True])
def test_every_weight_of_ours_is_a_common_one(pixels):
  size = dreamer_problem.make_size(pixels)
  model, arrays = ours.make_model(size), dreamer_problem.weights(size)
  for variable in model.trainable_variables:
    variable.assign(np.full(variable.shape, np.nan))
  ours.load(model, arrays)
  values = [np.asarray(variable) for variable in model.trainable_variables]
  assert np.isfinite(np.concatenate([value.ravel() for value in values])).all()
  assert sum(value.size for value in values) == sum(array.size for array in arrays.values())


def test_our_losses_fall():
  tf.config.run_functions_eagerly(True)  # XLA takes longer to compile than all updates together.
  try:
    task = ours.world_model(steps=1, pixels=False, batch=2, length=3)
    task.run()
  finally:
    tf.config.run_functions_eagerly(False)
  losses = task.check["losses"]
  assert np.isfinite(losses).all() and losses[2] < losses[1] < losses[0]
  assert np.isfinite(task.check["gradient_norm"])
