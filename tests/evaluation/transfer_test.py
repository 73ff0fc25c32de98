import itertools

import numpy as np
import pytest
import tensorflow as tf

from tests.worlds import AdditiveState, AdditiveWorld, Always, small_mdn_rnn
from wm_tf.evaluation import transfer
from wm_tf.models.mdn_rnn import MDNRNNState
from wm_tf.policies.actor import Actor
from wm_tf.policies.linear import LinearController

# --- Controllers ----------------------------------------------------------------------------------


def _original(seed, features=3, sizes=(2, 2)):
  generator = np.random.default_rng(seed)

  def draw(*shape):
    return generator.normal(size=shape).astype(np.float32)

  layers = [draw(inputs + 1, outputs) for inputs, outputs in itertools.pairwise(sizes)]
  return transfer.Network(draw(features), draw(features, sizes[0]), tuple(layers))


def _linear(model):
  controller, original = LinearController(model, 4), _original(0, model.feature_size, (4, 2))
  controller.loc.assign(original.loc)
  controller.matrix.assign(original.matrix)
  controller.parameters.assign(0.1 * original.layers[0].reshape(-1))
  return controller


def _actor(model):
  actor = Actor(model, (5, 4), seed=1)
  actor.network.standardise(np.random.default_rng(0).normal(3.0, 2.0, (50, 10)), 4)
  for weight in actor.network.weights:
    weight.assign(np.random.default_rng(weight.shape[0]).normal(size=weight.shape))
  return actor


@pytest.mark.parametrize("make_policy", [_linear, _actor])
def test_a_folded_controller_acts_as_the_policy_it_was(make_policy):
  model = small_mdn_rnn()
  policy = make_policy(model)

  def draw(size):
    return tf.random.stateless_normal([5, size], [0, size])

  state = MDNRNNState(draw(4), draw(6), draw(6))
  expected, _ = policy.act(state, ())
  assert 0.05 < np.abs(expected).mean() < 0.9
  layers = transfer.Network.of(policy).fold()
  stacked = [tf.constant(layer[np.newaxis]) for layer in layers]
  found = transfer.controller_actions(stacked, model.features(state)[np.newaxis])[0]
  np.testing.assert_allclose(found, expected, atol=1e-5)
  played = transfer.LayersPolicy(model, tuple(np.zeros_like(layer) for layer in layers))
  assert not played.act(state, ())[0].numpy().any()
  played.become(layers)
  np.testing.assert_allclose(played.act(state, ())[0], expected, atol=1e-5)


def test_other_policies_are_refused():
  with pytest.raises(ValueError, match="A Always cannot be varied"):
    transfer.Network.of(Always([0.0]))


def _same(one, two):
  return all(np.array_equal(a, b) for a, b in zip(one, two, strict=True))


@pytest.mark.parametrize("sizes", [(2, 2), (3, 5, 2)])
def test_more_controllers_begin_with_the_same_ones(sizes):
  originals = {f"iteration {i}": _original(i, sizes=sizes) for i in (5, 4, 3)}
  few = transfer.mixed_controllers(originals, 8, seed=1)
  many = transfer.mixed_controllers(originals, 40, seed=1)
  assert len(few) == 8 and len(many) == 40
  assert list(few) == list(many)[:8]
  assert all(_same(layers, many[name]) for name, layers in few.items())
  assert list(many)[:4] == [*originals, "nothing"]
  assert _same(many["iteration 4"], originals["iteration 4"].fold())
  assert not any(layer.any() for layer in many["nothing"])
  assert len({b"".join(x.tobytes() for x in layers) for layers in many.values()}) == 40
  shapes = [(4, sizes[1]), *((n + 1, m) for n, m in itertools.pairwise(sizes[1:]))]
  assert {tuple(layer.shape for layer in layers) for layers in many.values()} == {tuple(shapes)}
  assert {layer.dtype for layers in many.values() for layer in layers} == {np.dtype(np.float32)}
  other = transfer.mixed_controllers(originals, 8, seed=2)
  assert list(other)[:4] == list(few)[:4] and not set(list(other)[4:]) & set(list(few)[4:])


def test_variations_are_what_their_names_say():
  originals = {"a": _original(0), "b": _original(1)}
  found = transfer.mixed_controllers(originals, 40, seed=0)
  seen = set()
  for name, (weights,) in list(found.items())[3:]:
    words = name.split(" ")

    def fold(name):
      return originals[name].fold()[0]

    if "noise" in name:
      kind = "noise"
      # Undone: the noise is in the coordinates of the basis.
      base = originals[words[0]]
      top = np.linalg.lstsq(base.matrix, weights[:-1], rcond=None)[0]
      change = np.vstack([top, weights[-1] + base.loc @ weights[:-1]]) - base.layers[0]
      size = np.sqrt(np.square(base.layers[0]).mean())
      assert 0.1 < np.sqrt(np.square(change).mean()) / (float(words[-1]) * size) < 2.5
    elif len(words) == 2:
      kind = "shrunk"
      np.testing.assert_allclose(weights, float(words[0]) * fold(words[1]), atol=0.02)
    else:
      kind = "blend"
      parts = [float(words[i]) * fold(words[i + 1]) for i in (0, 3)]
      np.testing.assert_allclose(weights, sum(parts), atol=0.03)
    seen.add(kind)
  assert seen == {"noise", "shrunk", "blend"}


def test_a_shrunk_network_does_the_same_with_less_force():
  originals = {"a": _original(0, sizes=(3, 5, 2))}
  found = transfer.mixed_controllers(originals, 9, seed=0)
  name = next(name for name in found if name.endswith(" a"))
  features = np.random.default_rng(0).normal(size=(1, 20, 3)).astype(np.float32)
  whole, shrunk = (
    np.arctanh(transfer.controller_actions([layer[np.newaxis] for layer in found[n]], features))
    for n in ("a", name)
  )
  np.testing.assert_allclose(shrunk, float(name.split(" ")[0]) * whole, rtol=0.1, atol=1e-3)


def test_many_originals_leave_room_for_variations():
  originals = {f"iteration {i}": _original(i) for i in range(20)}
  names = list(transfer.mixed_controllers(originals, 10, seed=0))
  assert names[:5] == [f"iteration {i}" for i in (0, 5, 10, 14, 19)] and names[5] == "nothing"
  assert len(transfer.mixed_controllers({"only": _original(0)}, 9, seed=0)) == 9


# --- Dreams ---------------------------------------------------------------------------------------


def _starts():
  return AdditiveState(tf.constant([[0.0, 1.0], [2.0, 0.5], [-1.0, 0.0]]), tf.zeros([3, 1]))


def _by_hand(weights, z, steps, discount, goal=2.5):
  z, distance, total, alive = np.array(z, np.float64), 0.0, 0.0, 1.0
  for _ in range(steps):
    action = np.tanh(np.append(z, distance) @ weights[:-1] + weights[-1])
    z, distance = z + action, distance + np.abs(action).sum()
    total, alive = total - alive * np.square(z - goal).sum(), alive * discount
  return total


def test_dreamed_returns_by_hand():
  world = AdditiveWorld(discount=0.9)
  weights = np.random.default_rng(0).normal(0.0, 0.5, (4, 4, 2)).astype(np.float32)
  found = transfer.dream_returns(world, [(w,) for w in weights], _starts(), [2, 5, 9], seed=0)
  assert found.shape == (3, 4, 3)
  for (i, length), n, r in itertools.product(enumerate((2, 5, 9)), range(4), range(3)):
    expected = _by_hand(weights[n], _starts().z.numpy()[r], length, 0.9)
    assert found[i, n, r] == pytest.approx(expected, rel=1e-4)


def test_all_controllers_meet_the_same_luck():
  world = AdditiveWorld(noise_scale=0.5)
  weights = [(np.random.default_rng(0).normal(size=(4, 2)).astype(np.float32),)] * 2
  found = transfer.dream_returns(world, weights, _starts(), [6], seed=0)[0]
  np.testing.assert_allclose(found[0], found[1], rtol=1e-5)
  again = transfer.dream_returns(world, weights, _starts(), [6], seed=1)[0]
  assert np.all(again != found)
  cold = transfer.dream_returns(world, weights, _starts(), [6], seed=1, temperature=0.0)[0]
  still = transfer.dream_returns(AdditiveWorld(), weights, _starts(), [6], seed=1)[0]
  np.testing.assert_allclose(cold, still, rtol=1e-5)


def test_the_best_dream_is_the_one_that_brings_most():
  world = AdditiveWorld(discount=0.9)
  weights = np.random.default_rng(0).normal(0.0, 0.3, (4, 2)).astype(np.float32)
  frames, total = transfer.best_dream(world, (weights,), _starts(), 5, seed=0)
  by_hand = [_by_hand(weights, z, 5, 0.9) for z in _starts().z.numpy()]
  assert total == pytest.approx(max(by_hand), rel=1e-4)
  z = _starts().z.numpy()[int(np.argmax(by_hand))].astype(np.float64)
  distance, greys = 0.0, []
  for _ in range(5):
    action = np.tanh(np.append(z, distance) @ weights[:-1] + weights[-1])
    z, distance = z + action, distance + np.abs(action).sum()
    greys.append(np.clip(z.mean() * 100, 0, 255))
  np.testing.assert_allclose(255 * frames[:, 0, 0, 0], greys, atol=1)


# --- Dream against reality ------------------------------------------------------------------------


def test_ranks_share_what_ties_take():
  np.testing.assert_array_equal(transfer.ranks(np.array([3, 1, 3, 2])), [3.5, 1, 3.5, 2])


def test_rank_correlation_in_closed_form():
  generator = np.random.default_rng(0)
  a, b = generator.normal(size=(2, 30))

  def place(x):
    return np.argsort(np.argsort(x))

  squares = np.square(place(a) - place(b)).sum()
  assert transfer.rank_correlation(a, b) == pytest.approx(1 - 6 * squares / (30 * (30**2 - 1)))
  assert transfer.rank_correlation(a, np.exp(3 * a)) == pytest.approx(1.0)
  assert transfer.rank_correlation(a, -(a**3)) == pytest.approx(-1.0)
  # With ties, Pearson's on the ranks (1, 2.5, 2.5, 4) and (1, 2, 3, 4).
  assert transfer.rank_correlation([0, 5, 5, 9], [0, 1, 2, 3]) == pytest.approx(
    4.5 / np.sqrt(4.5 * 5.0)
  )
  assert transfer.rank_correlation(a, np.ones(30)) is None
  assert transfer.rank_correlation([1.0], [2.0]) is None


def test_reliability_is_the_share_of_true_differences():
  generator = np.random.default_rng(0)
  skill = generator.normal(0, 3.0, (400, 1))
  track = generator.normal(0, 50.0, (1, 5))  # What all have in common does not matter.
  scores = skill + track + generator.normal(0, 4.0, (400, 5))
  assert transfer.reliability(scores) == pytest.approx(9 / (9 + 16 / 5), abs=0.04)
  assert transfer.reliability(skill + track) == pytest.approx(1.0)
  assert transfer.reliability(generator.normal(size=(400, 5))) < 0.2
  assert transfer.reliability(scores[:, :1]) is None
  assert transfer.reliability(np.ones((4, 3))) is None


def test_the_ceiling_is_what_a_perfect_dream_would_show():
  generator = np.random.default_rng(0)
  skill = generator.normal(0, 100.0, (3000, 1))
  real = skill + generator.normal(0, 200.0, (3000, 4))
  found = transfer.transfer(skill, real, 0, seed=0)
  # Spearman's is a little below Pearson's for normal variables: 6 / pi asin(r / 2).
  expected = 6 / np.pi * np.arcsin(found["ceiling"] / 2)
  assert found["rank_correlation"] == pytest.approx(expected, abs=0.02)


@pytest.mark.slow
def test_the_interval_covers_the_truth_as_often_as_it_says():
  generator = np.random.default_rng(0)
  # Spearman's of normal variables of correlation r is 6 / pi asin(r / 2).
  truth, hits, widths = 6 / np.pi * np.arcsin(0.6 / 2), 0, []
  for trial in range(200):
    a, b = generator.normal(size=(2, 40))
    low, high = transfer.rank_correlation_interval(a, 0.6 * a + 0.8 * b, trial, num_draws=200)
    hits += low < truth < high
    widths.append(high - low)
  assert 0.8 < hits / 200 < 0.97
  a, b = generator.normal(size=(2, 640))
  low, high = transfer.rank_correlation_interval(a, 0.6 * a + 0.8 * b, 0, num_draws=200)
  assert high - low == pytest.approx(np.mean(widths) / 4, rel=0.3)
  assert transfer.rank_correlation_interval(np.ones(5), a[:5], seed=0) is None


def test_gaps_and_regret_by_hand():
  real = np.array([[10.0, 30.0], [50.0, 70.0], [0.0, 0.0], [5.0, 15.0]])
  dream = np.array([[20.0], [40.0], [100.0], [10.0]])
  found = transfer.transfer(dream, real, 1, seed=0)
  assert found["gap"] == {"mean": 20.0, "chosen": -20.0, "favourites": 100.0}
  assert found["regret"] == 60.0  # The favourite earns nothing, the best one 60.
  assert found["real_spread"] == pytest.approx(np.std([20, 60, 0, 10]))
  assert (found["num_controllers"], found["num_episodes"], found["num_dreams"]) == (4, 2, 1)
