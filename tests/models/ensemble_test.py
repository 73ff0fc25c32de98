"""An ensemble is its members: every figure of it from models of one member each."""

import numpy as np
import pytest
import tensorflow as tf

from tests.contracts import ManyWorldsContract
from tests.worlds import (
  OBSERVATIONS,
  assert_same,
  embedded_batch,
  latents_of,
  rows_of,
  small_mdn_rnn,
)
from wm_tf import rng
from wm_tf.imagination import observe_sequence
from wm_tf.models.ensemble import Ensemble, dynamics_class
from wm_tf.models.mdn_rnn import MDNRNN, MDNRNNConfig
from wm_tf.training.loop import FitConfig, fit

_SEED = rng.make_seed(3)
_KINDS = [("per_dimension", True, True), ("joint", False, False)]


def _model(kind, change, skip, **options):
  options = {"ensemble_size": 3, "seed": 0} | options
  return small_mdn_rnn(mixture_kind=kind, predict_change=change, skip_connection=skip, **options)


_WORLDS = [
  ("image", (), {"mixture_kind": "per_dimension"}),
  ("gray", (), {"mixture_kind": "joint", "predict_change": False, "skip_connection": False}),
  ("vector", (2, 3), {"mixture_kind": "joint", "reward_bins": None}),
  ("mixed", (4,), {"reward_bins": None}),
]


class TestEnsemble(ManyWorldsContract):
  @pytest.fixture(scope="class", params=_WORLDS, ids=lambda world: world[0])
  @classmethod
  def world(cls, request):
    return request.param

  @pytest.fixture(scope="class")
  @classmethod
  def make_model(cls, world):
    observation, num_choices, options = world
    options = {
      "ensemble_size": 3,
      "num_choices": num_choices,
      "observation": OBSERVATIONS[observation],
    } | options
    return lambda seed: small_mdn_rnn(seed, **options)


def _members(ensemble):
  """The members as MDN-RNNs of their own."""
  config = ensemble.config
  members = []
  for k in range(config.ensemble_size):
    member = small_mdn_rnn(
      mixture_kind=config.mixture_kind,
      predict_change=config.predict_change,
      skip_connection=config.skip_connection,
      sample_latents=config.sample_latents,
    )
    pairs = [(getattr(member, part), getattr(ensemble, part)) for part in ("mixture", "reward")]
    for one, all_of_them in [*pairs, (member.termination, ensemble.termination)]:
      one.set_weights(
        [
          weight.numpy()[k].squeeze(-2) if weight.shape[1] == 1 else weight.numpy()[k]
          for weight in all_of_them.weights
        ]
      )
    member.lstm.set_weights(
      [
        ensemble.lstm.kernel.numpy()[k],
        ensemble.lstm.recurrent_kernel.numpy()[k],
        ensemble.lstm.bias.numpy()[k, 0],
      ]
    )
    for name in ("latent_loc", "latent_scale", "change_scale"):
      getattr(member, name).assign(getattr(ensemble, name))
    members.append(member)
  return members


every_kind = pytest.mark.parametrize(("kind", "change", "skip"), _KINDS)


@every_kind
def test_the_loss_is_the_sum_of_the_members(kind, change, skip):
  ensemble = _model(kind, change, skip, sample_latents=False)
  batch = embedded_batch(latents_of(ensemble, 3, 6), lengths=(6, 3, 4))
  loss, metrics = ensemble.loss(batch, _SEED)
  alone = [member.loss(batch, _SEED) for member in _members(ensemble)]
  np.testing.assert_allclose(loss, sum(one for one, _ in alone), rtol=1e-4)
  for name, value in metrics.items():
    expected = np.mean([found[name] for _, found in alone])
    np.testing.assert_allclose(value, expected, rtol=1e-4, err_msg=name)


@every_kind
def test_every_step_follows_one_member(kind, change, skip):
  ensemble = _model(kind, change, skip)
  members = _members(ensemble)
  batch = embedded_batch(latents_of(ensemble, 64, 4))
  states = tf.nest.map_structure(lambda x: x[:, -1], observe_sequence(ensemble, batch, _SEED))
  action = batch.prev_action[:, 1]
  noise = tf.nest.map_structure(lambda x: x[:, 0], ensemble.draw_noise(64, 1, _SEED))
  found = ensemble.imagine_with_noise(states, action, noise, 1.2)
  cold = ensemble.imagine_with_noise(states, action, noise, 0.0)
  alone, colds = [], []
  for k, member in enumerate(members):
    one = tf.nest.map_structure(lambda x: x[:, -1], observe_sequence(member, batch, _SEED))
    np.testing.assert_allclose(one.h, states.h[:, k], atol=1e-5)
    alone.append(member.imagine_with_noise(one, action, noise[:2], 1.2))
    colds.append(member.imagine_with_noise(one, action, noise[:2], 0.0))
    np.testing.assert_allclose(found.state.h[:, k], alone[k].state.h, atol=1e-5)
    np.testing.assert_allclose(found.state.c[:, k], alone[k].state.c, atol=1e-5)
  which = np.floor(noise[2].numpy()[:, 0] * 3).astype(int)
  assert set(which) == {0, 1, 2}
  expected = np.stack([one.state.z for one in alone])[which, range(64)]
  np.testing.assert_allclose(found.state.z, expected, rtol=1e-4, atol=1e-4)
  np.testing.assert_allclose(found.reward, np.mean([one.reward for one in alone], 0), atol=1e-5)
  np.testing.assert_allclose(found.discount, np.mean([one.discount for one in alone], 0), atol=1e-5)
  # As for temperatures that are known only later, each row's own.
  later = tf.function(lambda t: ensemble.imagine_with_noise(states, action, noise, t))
  both = later(tf.constant([1.2] * 32 + [0.0] * 32))
  assert_same(rows_of(both, range(32)), rows_of(found, range(32)), rtol=1e-4, atol=1e-4)
  assert_same(rows_of(both, range(32, 64)), rows_of(cold, range(32, 64)), rtol=1e-3, atol=1e-3)
  # At temperature 0 none is preferred (what holds dreams near the data is not reached here).
  mean = np.mean([one.state.z for one in colds], 0)
  inside = np.all(np.abs((mean - ensemble.latent_loc) / ensemble.latent_scale) < 4.9, axis=-1)
  assert inside.sum() > 20
  np.testing.assert_allclose(cold.state.z[inside], mean[inside], rtol=1e-3, atol=1e-3)


@every_kind
def test_disagreement_is_the_spread_of_what_members_expect(kind, change, skip):
  ensemble = _model(kind, change, skip)
  ensemble.reward_scale.assign(0.5)
  batch = embedded_batch(latents_of(ensemble, 5, 4))
  states = tf.nest.map_structure(lambda x: x[:, -1], observe_sequence(ensemble, batch, _SEED))
  action = batch.prev_action[:, 1]
  expected, rewards = [], []
  for k, member in enumerate(_members(ensemble)):
    inputs = tf.concat([(states.z - member.latent_loc) / member.latent_scale, action], axis=-1)
    _, (h, _) = member.lstm.cell(inputs, [states.h[:, k], states.c[:, k]])
    mean = member.mixture.mean(tf.concat([h, inputs], axis=-1) if skip else h)
    expected.append(mean * (member.change_scale / member.latent_scale if change else 1.0))
    rewards.append(member.reward.mean(member.reward.network(h)) / 0.5)
  spread = np.sqrt(np.square(np.std(expected, axis=0)).mean(-1)) + np.std(rewards, axis=0)
  for temperature in (0.0, 1.5):  # It does not depend on what is drawn.
    found = ensemble.imagine(states, action, _SEED, temperature).disagreement
    np.testing.assert_allclose(found, spread, rtol=1e-3)
  assert spread.min() > 0.05


def test_members_that_are_the_same_agree():
  ensemble = _model(*_KINDS[0])
  for part in (ensemble.lstm, ensemble.mixture, ensemble.reward, ensemble.termination):
    for weight in part.weights:
      weight.assign(np.repeat(weight.numpy()[:1], 3, axis=0))
  state, action = ensemble.initial_state(4), tf.zeros([4, 2])
  with tf.GradientTape() as tape:
    tape.watch(action)
    disagreement = ensemble.imagine(state, action, _SEED).disagreement
  np.testing.assert_allclose(disagreement, np.zeros(4), atol=1e-5)
  assert np.isfinite(tape.gradient(disagreement, action)).all()


def test_adapt_knows_the_rewards():
  ensemble, single = _model(*_KINDS[0]), small_mdn_rnn()
  batches = [
    embedded_batch(latents_of(single, 3, 6, seed=s), lengths=(6, 2, 5), seed=s) for s in (0, 1)
  ]
  ensemble.adapt(iter(batches))
  single.adapt(batches)
  for name in ("latent_loc", "latent_scale", "change_scale"):
    assert_same(getattr(ensemble, name).value, getattr(single, name).value)
  rewards = np.concatenate([b.reward.numpy()[b.mask & ~b.is_first] for b in batches])
  np.testing.assert_allclose(ensemble.reward_scale, rewards.std(), rtol=1e-5)
  assert len(rewards) == 20


@pytest.mark.slow
def test_members_agree_where_they_have_learned(tmp_path):
  """Fitted by the loop that fits everything, to latents that move by 0.3 times the action."""
  model = small_mdn_rnn(ensemble_size=4, hidden_size=12, sample_latents=False)
  generator = np.random.default_rng(0)
  action = generator.uniform(-0.5, 0.5, (64, 9, 2)).astype(np.float32)
  action[:, 0] = 0.0
  loc = generator.normal(size=(64, 1, 4)) + 0.3 * action[..., [0, 1, 0, 1]].cumsum(1)
  latents = np.concatenate([loc, -3.0 * np.ones_like(loc)], axis=-1).astype(np.float32)
  batch = embedded_batch(latents)._replace(prev_action=tf.constant(action))
  model.adapt([batch])
  data = tf.data.Dataset.from_tensors(batch).repeat(150)
  config = FitConfig(learning_rate=3e-3, num_epochs=1, clip_norm=10.0)
  first = float(model.loss(batch, _SEED)[0])
  fit(model, lambda epoch: data, config, tmp_path, seed=0)
  assert model.loss(batch, _SEED)[0] < first - 4.0  # A nat for each member.

  states = tf.nest.map_structure(lambda x: x[:, 4], observe_sequence(model, batch, _SEED))
  known = model.imagine(states, batch.prev_action[:, 5], _SEED).disagreement
  bold = model.imagine(states, 6.0 * batch.prev_action[:, 5], _SEED).disagreement
  far = model.imagine(states._replace(z=states.z + 6.0), batch.prev_action[:, 5], _SEED)
  assert np.mean(bold) > 1.3 * np.mean(known)
  assert np.mean(far.disagreement) > 1.3 * np.mean(known)


def test_what_is_usual_costs_nothing():
  ensemble = _model(*_KINDS[0])
  ensemble.usual_disagreement.assign(0.2)
  np.testing.assert_allclose(ensemble.unfamiliarity(tf.constant([0.1, 0.2, 0.5])), [0, 0, 0.3])
  np.testing.assert_allclose(small_mdn_rnn().unfamiliarity(tf.zeros([2])), [0, 0])


def test_the_size_decides_the_class():
  assert dynamics_class(MDNRNNConfig()) is MDNRNN
  assert dynamics_class(MDNRNNConfig(ensemble_size=2)) is Ensemble
  with pytest.raises(ValueError, match=r"dynamics\.ensemble_size must be positive, got 0"):
    MDNRNNConfig(ensemble_size=0)
