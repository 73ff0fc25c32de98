"""The kinds of learners, by name."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from tests.no_xla import no_xla
from tests.nonlinear_world import NonlinearWorld
from tests.worlds import assert_same, small_mdn_rnn
from wm_tf import config as config_lib
from wm_tf import rng
from wm_tf.learners.learner import check_learner, make_learner
from wm_tf.learners.policy_gradients.methods import METHODS as POLICY_GRADIENTS
from wm_tf.training import checkpoints

_REWARDS = [np.array([0.0, 1.0, -0.5, 2.0]), np.array([0.0, 3.0])]


def _model_and_starts(categorical):
  if categorical:
    model = NonlinearWorld(categorical=True)
    return model, tf.constant(np.linspace(-1.0, 2.5, 20)[:, None], tf.float32)
  model = small_mdn_rnn()
  actions = tf.constant(np.random.default_rng(0).uniform(-1, 1, (20, 2)), tf.float32)
  return model, model.imagine(model.initial_state(20), actions, rng.make_seed(1)).state


@pytest.mark.parametrize(
  "categorical",
  [
    pytest.param(False, marks=pytest.mark.slow, id="continuous"),
    pytest.param(True, id="categorical"),
  ],
)
@pytest.mark.parametrize("method", config_lib.METHODS)
def test_every_method_resumes_exactly(method, categorical, tmp_path):
  """Two steps, a checkpoint on disk, two more in another learner; then the policy's file."""
  if method in POLICY_GRADIENTS:
    pytest.importorskip("tf_agents", reason='not installed: pip install "wm_tf[agents]"')
  settings = config_lib.make_config("debug", [f"controller.method={method}"]).controller
  settings = dataclasses.replace(settings, hidden_components=2)
  model, starts = _model_and_starts(categorical)
  features = model.features(starts).numpy()
  with no_xla():  # What is kept is the same, and the learners are made in half the time.
    learner, other = (make_learner(model, settings, seed) for seed in (1, 2))
  for each in (learner, other):
    assert each.begin(features, None, _REWARDS) > 2

  def step(each, number):
    return each.step(starts, rng.make_seed(number))

  for number in range(2):
    step(learner, number)
  halfway = tf.nest.map_structure(np.array, learner.state())
  checkpoints.save_nest(tmp_path / "state.npz", halfway)
  other.restore(checkpoints.load_nest(tmp_path / "state.npz", other.state()))
  for number in range(2, 4):
    metrics = step(learner, number)
    assert set(learner.shown) <= metrics.keys()
    assert step(other, number) == metrics
  assert_same(learner.state(), other.state(), rtol=0, atol=0)
  for name in ("actor", "critic") if method != "es" else ():
    assert np.any(learner.state()[name]["weights_0"] != halfway[name]["weights_0"])
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
from wm_tf.learners.learner import check_learner, make_learner
from wm_tf import config
settings = config.make_config("debug", ["controller.method=ppo"]).controller
learner = make_learner(AdditiveWorld(), settings, 0)
learner.restore_policy(learner.policy_state())
learner.policy.act(AdditiveWorld().initial_state(1), ())
linear = config.make_config("debug", ["controller.hidden_components=0"]).controller
check_learner(linear, AdditiveWorld())
for call in (lambda: check_learner(settings, AdditiveWorld()), lambda: learner.begin(None, None)):
  try:
    call()
  except (config.ConfigError, ImportError) as error:
    assert 'pip install "wm_tf[agents]"' in str(error), error
  else:
    raise AssertionError("no error")
"""
  root = Path(__file__).resolve().parents[2]
  subprocess.run([sys.executable, "-c", code], cwd=root, check=True)


@pytest.mark.parametrize(
  ("overrides", "message"),
  [
    (["controller.hidden_components=7"], "has only 6 hidden units. Use at most 6, or -1"),
    (
      ["controller.hidden_components=6", "controller.num_starts=2"],
      "raise controller.num_starts=2 to at least 3",
    ),
    (["controller.strategy=open_es", "controller.population_size=7"], "num_candidates"),
  ],
)
def test_settings_that_fit_no_model_are_refused_beforehand(overrides, message):
  settings = config_lib.make_config("debug", ["controller.method=es", *overrides]).controller
  with pytest.raises(config_lib.ConfigError, match=message):
    check_learner(settings, small_mdn_rnn())


def test_settings_that_fit_are_not_refused():
  for method in ("es", "actor_critic"):
    settings = config_lib.make_config("debug", [f"controller.method={method}"]).controller
    check_learner(settings, small_mdn_rnn())


def test_an_unknown_method_is_refused_by_name():
  with pytest.raises(config_lib.ConfigError, match="'actor_critik'; did you mean actor_critic"):
    config_lib.make_config("debug", ["controller.method=actor_critik"])
