import numpy as np
import pytest
import tensorflow as tf

from tests.worlds import AdditiveState, AdditiveWorld, make_batch, random_frames, small_mdn_rnn
from wm_tf import rng
from wm_tf.core import Batch, image_observation
from wm_tf.evaluation import diagnosis, dynamics_quality, open_loop
from wm_tf.imagination import observe_sequence

_IMAGE = image_observation((64, 64, 3), (64, 64, 3))

# --- Calibration --------------------------------------------------------------------------------


def test_calibration_by_hand():
  predicted = np.array([4.0, 1.0, 2.0, 3.0])
  real = np.array([7.0, 0.0, 2.0, 5.0])
  found = diagnosis.calibration(predicted, real, num_bins=2)
  assert found["bins"] == [
    {"count": 2, "predicted": 1.5, "real": 1.0},
    {"count": 2, "predicted": 3.5, "real": 6.0},
  ]
  assert found["error"] == pytest.approx((0.5 + 2.5) / 2)
  assert found["bias"] == pytest.approx(2.5 - 3.5)
  assert found["count"] == 4


def test_bins_of_rare_events_hold_equally_many_expected_ones():
  probability = np.concatenate([np.full(1000, 0.001), np.full(10, 0.1)])
  end = np.zeros(1010, bool)
  end[1000:1005] = True
  found = diagnosis.calibration(probability, end, num_bins=2, equal_mass=True)
  assert [b["count"] for b in found["bins"]] == [1000, 10]
  assert [b["real"] for b in found["bins"]] == [0.0, 0.5]
  by_count = diagnosis.calibration(probability, end, num_bins=2)
  assert [b["count"] for b in by_count["bins"]] == [505, 505]


def test_a_calibrated_probability_has_little_error():
  generator = np.random.default_rng(0)
  probability = generator.uniform(size=20000)
  end = generator.uniform(size=20000) < probability
  assert diagnosis.calibration(probability, end)["error"] < 0.02
  assert diagnosis.calibration(probability / 2, end)["error"] == pytest.approx(0.25, abs=0.02)
  assert diagnosis.calibration(probability / 2, end)["bias"] == pytest.approx(-0.25, abs=0.02)


def test_probabilities_of_zero_can_be_binned():
  found = diagnosis.calibration(np.zeros(5), np.zeros(5, bool), equal_mass=True)
  assert found["error"] == found["bias"] == 0.0


# --- On held-out episodes -------------------------------------------------------------------------


def _walks(lengths, seed=0) -> Batch:
  """Walks of the true `AdditiveWorld(action_size=1)`, as frames of one grey that show them."""
  generator = np.random.default_rng(seed)
  batch = make_batch(np.zeros((len(lengths), max(lengths), 1)), 1, lengths, seed)
  action = generator.integers(-2, 3, batch.prev_action.shape) * ~batch.is_first.numpy()[..., None]
  value = 128 + action.cumsum(1)
  assert value.min() >= 0 and value.max() <= 255
  z = value / 100.0
  reward = -np.square(z[..., 0] - 2.5) * ~batch.is_first.numpy()
  frames = np.broadcast_to(value[..., None, None], (*value.shape[:2], 64, 64, 3)).astype(np.uint8)
  return batch._replace(
    observation=tf.constant(frames),
    prev_action=tf.constant(action / 100.0, tf.float32),
    reward=tf.constant(reward, tf.float32),
    discount=tf.ones_like(batch.discount),
  )


def test_a_perfect_model_dreams_what_comes():
  world = AdditiveWorld(action_size=1)
  found = open_loop.open_loop(world, [_walks([75, 40]), _walks([23, 11], seed=1)], _IMAGE)
  assert list(found["num_dreams"]) == ["1", "5", "10", "20", "50"]
  # Dreams begin at 10, 20, ... as long as there is a next step.
  assert found["num_dreams"]["1"] == 7 + 3 + 2
  assert found["num_dreams"]["50"] == 2
  for k in found["num_dreams"]:
    assert found["latent"]["dream"][k] == pytest.approx(0.0, abs=1e-9)
    assert found["latent"]["other_actions"][k] > 1e-6
    assert found["psnr"]["dream"][k] > 80.0 and found["psnr"]["reconstruction"][k] > 80.0
    assert found["psnr"]["dream"][k] > found["psnr"]["still"][k] + 20.0
    assert found["reward_r2"][k] == pytest.approx(1.0, abs=1e-3)


def test_simple_answers_by_hand():
  world, walks = AdditiveWorld(action_size=1, gain=0.0), _walks([75, 40])
  found = open_loop.open_loop(world, [walks], _IMAGE, spacing=20)
  z = walks.observation.numpy()[..., 0, 0, 0] / 100.0
  for k in (1, 5, 10, 20, 50):
    places = [(r, s) for r, n in ((0, 75), (1, 40)) for s in range(10, n - k, 20)]
    later = np.array([z[r, s + k] for r, s in places])
    change = later - [z[r, s] for r, s in places]
    # In units of the scale, 2; a pixel is a grey of z * 100 / 255.
    assert found["latent"]["still"][str(k)] == pytest.approx((change**2).mean() / 4, rel=1e-4)
    assert found["latent"]["dream"][str(k)] == pytest.approx((change**2).mean() / 4, rel=1e-4)
    assert found["latent"]["mean"][str(k)] == pytest.approx(later.var() / 4, rel=1e-3, abs=1e-9)
    error = np.mean((change * 100 / 255) ** 2)
    assert found["psnr"]["still"][str(k)] == pytest.approx(-10 * np.log10(error), abs=1e-3)
    variance = (later * 100 / 255).var()
    if variance:
      assert found["psnr"]["mean"][str(k)] == pytest.approx(-10 * np.log10(variance), abs=1e-3)


def test_dreams_end_by_their_own_discount():
  world = AdditiveWorld(action_size=1, discount=0.5)
  whole = open_loop.open_loop(AdditiveWorld(action_size=1), [_walks([75])], _IMAGE)["reward_r2"]
  halved = open_loop.open_loop(world, [_walks([75])], _IMAGE)["reward_r2"]
  assert halved["1"] == pytest.approx(whole["1"])
  assert halved["10"] < 0.0  # After ten steps next to nothing is left of the return.


def test_what_is_too_short_is_left_out_or_refused():
  world = AdditiveWorld(action_size=1)
  assert list(open_loop.open_loop(world, [_walks([17])], _IMAGE)["num_dreams"]) == ["1", "5"]
  short = open_loop.open_loop(world, [_walks([11])], _IMAGE)  # From the middle.
  assert list(short["num_dreams"]) == ["1", "5"]
  with pytest.raises(ValueError, match=r"long enough .* collect more"):
    open_loop.open_loop(world, [_walks([1])], _IMAGE)


def test_figures_agree_with_those_of_the_fit():
  """On the same dreams, of a real model, from frames as from posteriors."""
  model = small_mdn_rnn()
  batch = make_batch(random_frames(3, 16), lengths=(16, 13, 16))
  observed = open_loop.as_observed(model, batch)
  assert observed.observation.value.shape == (3, 16, 8)
  loc = model.vae.encode(batch.observation[1])[0]
  np.testing.assert_allclose(observed.observation.value[1, :, :4], loc, atol=1e-5)
  assert open_loop.as_observed(model, observed) is observed

  quality = dynamics_quality(model, [observed])
  found = open_loop.open_loop(model, [batch], _IMAGE, spacing=50)
  for k in ("1", "5"):
    assert found["latent"]["still"][k] == pytest.approx(quality["open_loop_persistence"][k], 1e-4)
    # The little noise of temperature 0 is not the same: other steps are drawn ahead.
    assert found["latent"]["dream"][k] == pytest.approx(quality["open_loop"][k], rel=0.1)

  outcomes = diagnosis.outcomes(model, [observed])
  unexplained = np.square(outcomes.reward - outcomes.predicted_reward).mean()
  assert 1 - unexplained / outcomes.reward.var() == pytest.approx(quality["reward_r2"], abs=1e-4)
  assert outcomes.end.sum() == 2 and len(outcomes.end) == 15 + 12 + 15
  states = observe_sequence(model, observed, rng.make_seed(0))
  first = model.imagine(
    tf.nest.map_structure(lambda x: x[:1, 0], states),
    batch.prev_action[:1, 1],
    rng.make_seed(0),
  )
  assert outcomes.predicted_reward[0] == pytest.approx(float(first.reward[0]), rel=1e-4)
  assert outcomes.predicted_end[0] == pytest.approx(1 - float(first.discount[0]), rel=1e-4)


def test_no_step_is_an_error():
  world = AdditiveWorld(action_size=1)
  for episodes in ([], [_walks([1, 1])]):
    with pytest.raises(ValueError, match="no held-out episode"):
      diagnosis.outcomes(world, episodes)


def test_psnr():
  assert open_loop.psnr(0.01) == pytest.approx(20.0)
  assert open_loop.psnr(0.0) == pytest.approx(100.0)


# --- Actions --------------------------------------------------------------------------------------


def test_variance_is_shared_out_as_it_was_put_in():
  generator = np.random.default_rng(1)

  def part(scale, *shape):
    return scale * generator.normal(size=shape)

  returns = part(3.0, 300, 1, 1) + part(2.0, 300, 40, 1) + part(1.0, 300, 40, 10)
  found = diagnosis.variance_shares(returns)
  assert found["start"] == pytest.approx(9 / 14, abs=0.05)
  assert found["action"] == pytest.approx(4 / 14, abs=0.04)
  assert found["chance"] == pytest.approx(1 / 14, abs=0.02)
  assert found["heard"] == pytest.approx(0.8, abs=0.02)
  assert found["start"] + found["action"] + found["chance"] == pytest.approx(1.0)


def test_range_by_hand_and_nothing_but_zeros():
  returns = np.array([[[1.0, 3.0], [6.0, 6.0]], [[0.0, 0.0], [-2.0, -4.0]]])
  assert diagnosis.variance_shares(returns)["range"] == pytest.approx((4 + 3) / 2)
  assert diagnosis.variance_shares(np.zeros([3, 4, 2]))["heard"] == 0.0


def _starts(num):
  z = np.random.default_rng(0).normal(size=(num, 2))
  return AdditiveState(tf.constant(z, tf.float32), tf.zeros([num, 1]))


def test_a_model_that_listens_and_one_that_does_not():
  options = dict(horizon=8, seed=3, num_sequences=6, num_dreams=4)
  listens = diagnosis.action_sensitivity(AdditiveWorld(), _starts(5), **options)
  assert listens["heard"] == pytest.approx(1.0) and listens["chance"] == pytest.approx(0.0)
  assert listens["range"] > 1.0 and listens["horizon"] == 8
  deaf = diagnosis.action_sensitivity(
    AdditiveWorld(gain=0.0, noise_scale=0.3), _starts(5), **options
  )
  assert deaf["heard"] < 0.1 < deaf["chance"]
  cold = diagnosis.action_sensitivity(
    AdditiveWorld(noise_scale=0.3), _starts(5), temperature=0.0, **options
  )
  assert cold["heard"] == pytest.approx(1.0)


def test_one_moment_under_several_actions():
  world = AdditiveWorld(noise_scale=0.5)
  state = AdditiveState(tf.constant([[1.0, 1.0]]), tf.zeros([1, 1]))
  actions = {"stay": np.zeros(2), "up": np.full(2, 0.1), "down": np.full(2, -0.1)}
  found = diagnosis.dream_actions(world, state, actions, 3, seed=0)
  assert list(found) == list(actions)
  grey = {name: np.round(255 * frames[:, 0, 0, 0]) for name, frames in found.items()}
  assert {frames.shape for frames in found.values()} == {(4, 64, 64, 3)}
  assert {g[0] for g in grey.values()} == {100}
  # The noise is the same for all, so that what differs is what the action did.
  for t in range(4):
    assert grey["up"][t] - grey["stay"][t] == pytest.approx(10 * t, abs=1)
    assert grey["down"][t] - grey["stay"][t] == pytest.approx(-10 * t, abs=1)
