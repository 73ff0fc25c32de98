"""PPO and REINFORCE by TF-Agents: schedules and values."""

from __future__ import annotations

import numpy as np
import pytest

from tests.worlds import AdditiveWorld, state_at
from wm_tf import rng
from wm_tf.learners.policy_gradients.methods import METHODS, PolicyGradientConfig, PPOConfig
from wm_tf.learners.policy_gradients.training import PolicyGradient

pytest.importorskip("tf_agents", reason='TF-Agents is not installed: pip install "wm_tf[agents]"')

_SEED = rng.make_seed(3)


def _config(method, **options):
  kind = PolicyGradientConfig if method == "reinforce" else PPOConfig
  options = {
    "reward_scale": 0.1,
    "actor_hidden_sizes": (8,),
    "critic_hidden_sizes": (8,),
    **options,
  }
  if method != "reinforce":
    options = {"num_minibatches": 2, "num_epochs": 2, **options}
  return kind(**{"batch_size": 4, "horizon": 4, **options})


def _trainer(method, world, config, jit_compile=False, seed=0):
  return PolicyGradient(method, world, config, seed, jit_compile=jit_compile)


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_the_critic_learns_the_value_beyond_the_horizon(method):
  """Of one who stands still: -|z - goal|^2 for ever, though dreams are of two steps."""
  world = AdditiveWorld(goal=0.0, action_size=1, gain=0.0)
  config = _config(
    method,
    batch_size=64,
    horizon=2,
    discount=0.8,
    reward_scale=0.5,
    actor_learning_rate=0.0,
    critic_learning_rate=5e-3,
    target_rate=0.1,
    critic_hidden_sizes=(32,),
    clip_norm=100.0,
  )
  trainer = _trainer(method, world, config)
  starts = state_at(np.linspace(-1.5, 1.5, 64)[:, None])
  for step in range(600 if method == "reinforce" else 200):
    trainer.update(starts, rng.fold_in(_SEED, step))
  found = trainer.critic.value(starts)
  np.testing.assert_allclose(found, -np.square(starts.z[:, 0]) / (1 - 0.8), atol=1.5)


@pytest.mark.parametrize("method", METHODS)
def test_dreams_are_learned_from_as_often_as_is_said(method):
  """Adam counts its steps."""
  trainer = _trainer(method, AdditiveWorld(), _config(method))
  trainer.update(state_at([[0.0, 0.0]]), _SEED)
  assert int(trainer.variables()["optimizers"]["0"]) == (1 if method == "reinforce" else 2 * 2)


@pytest.mark.parametrize("method", METHODS)
def test_noise_falls_over_as_many_updates_as_are_expected(method):
  config = _config(method, action_noise=0.6, final_action_noise=0.2)
  trainer = _trainer(method, AdditiveWorld(), config)
  trainer.anneal_over(2)
  reports = [trainer.update(state_at([[0.0, 0.0]]), rng.fold_in(_SEED, i)) for i in range(4)]
  np.testing.assert_allclose(
    [each.action_noise for each in reports], [0.6, 0.4, 0.2, 0.2], rtol=1e-5
  )
  assert trainer.variables()["progress"]["updates"] == 4.0


def test_the_penalty_follows_the_divergence():
  world = AdditiveWorld(goal=1.0)
  coefficients = []
  for rate in (1e-6, 0.3):
    config = _config("ppo", actor_learning_rate=rate, kl_target=0.01, clip_norm=100.0)
    trainer = _trainer("ppo", world, config)
    report = trainer.update(state_at([[0.0, 0.0]]), _SEED)
    assert (float(report.kl_divergence) > 0.015) == (rate > 0.1)
    coefficients.append(float(trainer.variables()["penalty"]["kl_coefficient"]))
  np.testing.assert_allclose(coefficients, [1 / 1.5, 1.5])


def test_refuses():
  world = AdditiveWorld()
  with pytest.raises(ValueError, match="must be one of ppo, ppo_clip, reinforce, not 'a2c'"):
    _trainer("a2c", world, _config("ppo"))
  with pytest.raises(ValueError, match="takes a PPOConfig"):
    _trainer("ppo", world, _config("reinforce"))
