"""`JointUpdate`: the parts that run side by side give the results of one after the other."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from tests.worlds import OBSERVATIONS, make_batch, random_observation, small_rssm
from wm_tf.config import make_config
from wm_tf.learners.actor_critic import ActorCritic
from wm_tf.learners.joint import JointUpdate
from wm_tf.learners.optimizers import numbered
from wm_tf.training import checkpoints

_NUM_UPDATES = 4


@pytest.fixture(
  scope="module", params=[("dreamer", "vector"), ("dreamer_v1", "image")], ids="-".join
)
def preset_and_kind(request):
  return request.param


def _make(preset, kind):
  config = make_config(preset).controller.actor_critic
  config = dataclasses.replace(config, batch_size=4, horizon=3, warmup_updates=2)
  model = small_rssm(observation=OBSERVATIONS[kind])
  learner = ActorCritic(model, config)
  update = JointUpdate(model, learner, learning_rate=0.01, clip_norm=100.0, seed=3)
  return update, model, learner


def _batch(kind, seed):
  return make_batch(random_observation(OBSERVATIONS[kind], 4, 5, seed=seed), seed=seed)


def _values(update, model, learner):
  groups = {
    "model": checkpoints.name_variables(model.weights),
    "optimizer": numbered(update.optimizer),
    **learner.variables(),
  }
  return checkpoints.values(groups)


def test_updates_side_by_side_are_those_in_turn(preset_and_kind):
  preset, kind = preset_and_kind
  batches = [_batch(kind, i) for i in range(_NUM_UPDATES)]
  ours, other = _make(preset, kind), _make(preset, kind)
  before = _values(*ours)
  found = [*ours[0].run(batches, 5)]
  expected = [other[0](batch, 5 + i) for i, batch in enumerate(batches)]
  tf.nest.map_structure(np.testing.assert_array_equal, found, expected)
  after = _values(*ours)
  tf.nest.map_structure(np.testing.assert_array_equal, after, _values(*other))
  for group in ("model", "actor", "critic"):
    assert any(np.any(after[group][name] != before[group][name]) for name in after[group])


def test_no_updates():
  update, *_ = _make("dreamer", "vector")
  assert [*update.run([], 0)] == []


def test_dreams_use_the_world_model_of_their_own_update():
  """The next update of the world model runs at the same time, and must not be seen."""
  batches = [_batch("vector", i) for i in range(2)]
  other = _batch("vector", 9)
  returns = []
  for last in (batches[1], other):
    update, *_ = _make("dreamer", "vector")
    found = [*update.run([batches[0], last], 0)]
    returns.append([float(metrics.learner.return_mean) for metrics in found])
  assert returns[0][0] == returns[1][0]
  assert returns[0][1] != returns[1][1]
