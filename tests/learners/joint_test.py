"""`JointUpdate`: the parts that run side by side give the results of one after the other."""

import contextlib
import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from tests.no_xla import no_xla
from tests.worlds import OBSERVATIONS, make_batch, random_observation, small_rssm
from wm_tf.config import make_config
from wm_tf.learners.actor_critic import ActorCritic
from wm_tf.learners.joint import JointUpdate
from wm_tf.learners.optimizers import numbered
from wm_tf.training import checkpoints

pytestmark = pytest.mark.slow

_NUM_UPDATES = 4


class _Trained:
  """An update with its model and learner, all of whose variables can be set back."""

  def __init__(self, preset, kind):
    config = make_config(preset).controller.derived(500).actor_critic
    config = dataclasses.replace(config, batch_size=4, horizon=3, warmup_updates=2)
    model = small_rssm(observation=OBSERVATIONS[kind])
    learner = ActorCritic(model, config)
    self.update = JointUpdate(model, learner, learning_rate=0.01, clip_norm=100.0, seed=3)
    self._variables = {
      "model": checkpoints.name_variables(model.weights),
      "optimizer": numbered(self.update.optimizer),
      **learner.variables(),
    }
    self._kind, self.first = kind, self.values()

  def values(self):
    return checkpoints.values(self._variables)

  def run(self, seeds):
    """Runs updates from the first values on; returns their metrics."""
    checkpoints.assign(self._variables, self.first)
    return [*self.update.run(map(self.batch, seeds), 5)]

  def run_in_turn(self, seeds):
    checkpoints.assign(self._variables, self.first)
    return [self.update(self.batch(seed), 5 + i) for i, seed in enumerate(seeds)]

  def batch(self, seed):
    observation = random_observation(OBSERVATIONS[self._kind], 4, 5, seed=seed)
    return make_batch(observation, seed=seed)


@pytest.fixture(
  scope="module", params=[("dreamer", "vector", True), ("dreamer_v1", "image", False)], ids=str
)
def trained(request):
  """One with XLA, as in use, and one without, which is made in half the time."""
  preset, kind, xla = request.param
  with contextlib.nullcontext() if xla else no_xla():
    yield _Trained(preset, kind)


def test_updates_side_by_side_are_those_in_turn(trained):
  seeds = range(_NUM_UPDATES)
  expected, values = trained.run_in_turn(seeds), trained.values()
  found = trained.run(seeds)
  tf.nest.map_structure(np.testing.assert_array_equal, found, expected)
  tf.nest.map_structure(np.testing.assert_array_equal, trained.values(), values)
  for group in ("model", "actor", "critic"):
    first = trained.first[group]
    assert any(np.any(values[group][name] != first[name]) for name in first)


def test_no_updates(trained):
  assert trained.run([]) == []


def test_dreams_do_not_see_the_next_update_of_the_world_model(trained):
  returns = [
    [float(metrics.learner.return_mean) for metrics in trained.run(seeds)]
    for seeds in ((0, 1), (0, 9))
  ]
  assert returns[0][0] == returns[1][0]
  assert returns[0][1] != returns[1][1]
