"""The kinds of learners, by name."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from tests.worlds import small_mdn_rnn
from wm_tf import config as config_lib
from wm_tf import rng
from wm_tf.learners.dream_rollouts import METHODS as POLICY_GRADIENTS
from wm_tf.learners.learner import make_learner
from wm_tf.training import checkpoints


@pytest.mark.parametrize("method", config_lib.METHODS)
def test_every_method_is_a_learner_that_goes_on_where_it_was(method, tmp_path):
  """Two steps, a checkpoint on disk, two more in another learner; then the policy as it is kept."""
  if method in POLICY_GRADIENTS:
    pytest.importorskip("tf_agents", reason='not installed: pip install "wm_tf[agents]"')
  settings = config_lib.make_config("debug", [f"controller.method={method}"]).controller
  settings = dataclasses.replace(settings, hidden_components=2)
  model = small_mdn_rnn()
  actions = tf.constant(np.random.default_rng(0).uniform(-1, 1, (20, 2)), tf.float32)
  starts = model.imagine(model.initial_state(20), actions, rng.make_seed(1)).state
  features = model.features(starts).numpy()
  learner, other = (make_learner(model, settings, seed) for seed in (1, 2))
  for each in (learner, other):
    assert each.begin(features, None) > 2
  step = lambda each, number: each.step(starts, rng.make_seed(number))
  for number in range(2):
    step(learner, number)
  checkpoints.save_nest(tmp_path / "state.npz", learner.state())
  other.restore(checkpoints.load_nest(tmp_path / "state.npz", other.state()))
  for number in range(2, 4):
    metrics = step(learner, number)
    assert set(learner.shown) <= metrics.keys()
    assert step(other, number) == metrics
  for each in (learner, other):
    each.finish()
  saved = learner.policy_state()
  checkpoints.save_nest(tmp_path / "policy.npz", saved)
  third = make_learner(model, settings, 3)
  third.restore_policy(checkpoints.load_nest(tmp_path / "policy.npz", third.policy_state()))
  expected, _ = learner.policy.act(starts, learner.policy.initial_memory(20), rng.make_seed(5))
  assert np.ptp(expected.numpy()) > 0
  for each in (other, third):
    action, _ = each.policy.act(starts, each.policy.initial_memory(20), rng.make_seed(5))
    np.testing.assert_allclose(action, expected, atol=1e-6)


def test_without_tf_agents_what_it_trained_plays_and_to_train_says_how_to_get_it():
  """In a process that cannot import it."""
  code = """
import sys
sys.modules["tf_agents"] = None
from tests.worlds import AdditiveWorld
from wm_tf.learners.policy_gradients import check_method
from wm_tf.learners.learner import make_learner
from wm_tf import config
settings = config.make_config("debug", ["controller.method=ppo"]).controller
learner = make_learner(AdditiveWorld(), settings, 0)
learner.restore_policy(learner.policy_state())
learner.policy.act(AdditiveWorld().initial_state(1), ())
check_method(config.make_config("debug").controller)
for call in (lambda: check_method(settings), lambda: learner.begin(None, None)):
  try:
    call()
  except (config.ConfigError, ImportError) as error:
    assert 'pip install "wm_tf[agents]"' in str(error), error
  else:
    raise AssertionError("no error")
"""
  root = Path(__file__).resolve().parents[2]
  subprocess.run([sys.executable, "-c", code], cwd=root, check=True)
