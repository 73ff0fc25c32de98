import json

import numpy as np
import pytest
import tensorflow as tf

from tests import fakes
from tests.worlds import (
  AdditiveState,
  AdditiveWorld,
  Always,
  make_batch,
  random_frames,
  rows_of,
  small_mdn_rnn,
  small_vae,
)
from wm_tf import rng
from wm_tf.agent import Agent, AgentActor
from wm_tf.core import Embedded
from wm_tf.data.env_pool import EnvPool
from wm_tf.evaluation import (
  OPEN_LOOP_STEPS,
  QualityGateError,
  area_under_curve,
  check_dynamics,
  check_vae,
  dynamics_quality,
  evaluate_in_environment,
  evaluate_in_model,
  vae_quality,
)


@pytest.fixture(scope="module")
def pool():
  with EnvPool(fakes.CountingEnv, 3) as pool:
    yield pool


# --- In the environment -------------------------------------------------------------------------


def test_official_returns_by_hand(pool):
  seeds, ended = [4, 1, 9, 0, 12], []
  result = evaluate_in_environment(pool, fakes.CountingActor(), seeds, ended.append)
  num = np.array([fakes.num_decisions(seed) for seed in seeds])
  # 1000 for the skipped frames; then for decision t of n: 100 * seed + t + seed % 10 / 10.
  action = np.array(seeds) % 10 / 10
  expected = 1000 + num * (100 * np.array(seeds) + action) + num * (num + 1) / 2
  np.testing.assert_allclose(result.episode_return, expected, rtol=1e-6)
  np.testing.assert_array_equal(result.length, 3 + 2 * num)
  np.testing.assert_array_equal(result.seeds, seeds)
  assert [x.dtype for x in result] == [np.float32, np.int32, np.int64]
  assert sorted(info.seed for info in ended) == sorted(seeds)


class _Follower:
  """`action[0]` follows from the frame seen, from all that was done before, and from a memory."""

  def initial_memory(self, batch_size):
    return tf.zeros([batch_size])

  def act(self, state, memory, seed, explore=False):
    first = 0.5 * state.z[:, 0] + 0.1 * state.distance[:, 0] + 0.01 * memory
    return tf.stack([first, tf.zeros_like(first)], axis=1), memory + 1.0


def test_an_agents_returns_by_hand(pool):
  seeds = [3, 8, 2, 5]
  agent = Agent(fakes.make_spec(), AdditiveWorld(), _Follower())
  result = evaluate_in_environment(pool, AgentActor(agent), seeds)
  for seed, episode_return in zip(seeds, result.episode_return, strict=True):
    expected, distance = 1000.0, 0.0
    for t in range(fakes.num_decisions(seed)):
      action = 0.5 * t / 100 + 0.1 * distance + 0.01 * t  # Frame t shows t.
      expected += 100 * seed + t + 1 + action
      distance += action
    assert episode_return == pytest.approx(expected, rel=1e-6)


# --- In the model -------------------------------------------------------------------------------


def _starts(z):
  z = tf.constant(z, tf.float32)
  return AdditiveState(z, tf.zeros([len(z), 1]))


def test_returns_in_the_model_by_hand():
  starts = [[0.0, 0.0], [1.0, 0.0], [0.0, 5.0]]
  seeds = list(range(40))
  result = evaluate_in_model(
    AdditiveWorld(goal=2.0, discount=0.5),
    Always([1.0, 0.0]),
    _starts(starts),
    3,
    seeds,
    initial_return=10.0,
    action_repeat=4,
  )
  # Where each start is after 1, 2 and 3 steps, and how likely it is to get there.
  by_start = [
    10 - sum(0.5**t * ((x + t + 1 - 2) ** 2 + (y - 2) ** 2) for t in range(3)) for x, y in starts
  ]
  drawn = [np.abs(np.array(by_start) - value).argmin() for value in result.episode_return]
  np.testing.assert_allclose(result.episode_return, np.array(by_start)[drawn], rtol=1e-6)
  assert set(drawn) == {0, 1, 2}
  np.testing.assert_array_equal(result.length, [12] * 40)
  np.testing.assert_array_equal(result.seeds, seeds)


def test_an_imagined_episode_depends_on_its_own_seed_alone():
  class Random(Always):
    def act(self, state, memory, seed, explore=False):
      return rng.uniform([tf.shape(state.z)[0], 2], seed), memory

  def evaluate(seeds, temperature=1.0, spread=1.0):
    return evaluate_in_model(
      AdditiveWorld(noise_scale=0.5),
      Random([0.0, 0.0]),
      _starts(np.arange(14).reshape(7, 2) * spread),
      5,
      seeds,
      temperature=temperature,
    ).episode_return

  seeds = [3, 2**40, 3 + 2**31, 5]
  together = evaluate(seeds)
  assert len(set(together)) == 4
  for seed, value in zip(seeds, together, strict=True):
    np.testing.assert_allclose(evaluate([seed]), [value], rtol=1e-5)
  assert np.all(evaluate(seeds, 0.1) != together)
  assert len(set(evaluate(seeds, spread=0.0))) == 4  # The start is not all that a seed decides.


# --- Of the VAE ---------------------------------------------------------------------------------


def test_vae_quality_against_numpy():
  vae, frames = small_vae(), random_frames(9)
  quality = vae_quality(vae, [frames[:4], tf.constant(frames[4:8]), frames[8:]])
  x = frames / 255.0
  loc, log_scale = (np.asarray(part, np.float64) for part in vae.encode(frames))
  kl = 0.5 * (loc**2 + np.exp(2 * log_scale) - 1) - log_scale
  assert quality["sse"] == pytest.approx(((vae(frames) - x) ** 2).numpy().sum() / 9, rel=1e-4)
  assert quality["sse_mean_image"] == pytest.approx(((x - x.mean(0)) ** 2).sum() / 9, rel=1e-9)
  assert quality["kl"] == pytest.approx(kl.sum() / 9, rel=1e-4)
  assert quality["active_dimensions"] == (kl.mean(0) > 0.1).sum()
  part = {"kind": "image", "error": quality["sse"], "baseline": quality["sse_mean_image"]}
  assert quality["parts"] == {"observation": part} and quality["latent_size"] == vae.latent_size
  json.dumps(quality, allow_nan=False)


def test_vae_quality_reads_a_stream_once():
  frames = random_frames(6)
  stream = (frames[i : i + 2] for i in range(0, 6, 2))
  streamed, whole = vae_quality(small_vae(), stream), vae_quality(small_vae(), [frames])
  del streamed["parts"], whole["parts"]  # They have the same numbers as the rest.
  assert streamed == pytest.approx(whole)


def test_equal_frames_have_a_baseline_of_zero():
  frames = np.repeat(random_frames(1), 5, axis=0)
  assert vae_quality(small_vae(), [frames])["sse_mean_image"] == pytest.approx(0.0, abs=1e-9)


def test_no_frame_is_an_error():
  with pytest.raises(ValueError, match="no held-out observation"):
    vae_quality(small_vae(), [])


_GOOD_VAE = {"sse": 20.0, "sse_mean_image": 90.0, "kl": 30.0, "active_dimensions": 20}


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"sse": 45.0}, r"has not learned: .* 45\.0 .* half .* \(90\.0\).*Train it longer.*--force"),
    ({"sse": float("nan")}, "has not learned"),
    ({"active_dimensions": 1}, r"collapsed: 1 of.*Lower vae.beta or raise vae.free_nats"),
  ],
)
def test_the_gate_of_the_vae(change, message):
  check_vae(_GOOD_VAE)
  with pytest.raises(QualityGateError, match=message):
    check_vae(_GOOD_VAE | change)


# --- Of the dynamics ----------------------------------------------------------------------------


def _walks(world, lengths, seed=0):
  """Episodes of the true `AdditiveWorld`, as cached posteriors."""
  batch = make_batch(np.zeros((len(lengths), max(lengths), 4), np.float32), 2, lengths, seed)
  mask = batch.mask.numpy()
  action = batch.prev_action.numpy() * mask[..., None]
  z = np.random.default_rng(seed).normal(size=(len(lengths), 1, 2)) + action.cumsum(1)
  reward = -np.square(z - world.goal).sum(-1) * ~batch.is_first.numpy()
  garbage = np.where(mask[..., None], z, 1e3)
  return batch._replace(
    observation=Embedded(tf.constant(np.concatenate([garbage, garbage], -1), tf.float32)),
    prev_action=tf.constant(action, tf.float32),
    reward=tf.constant(reward, tf.float32),
  )


def _persistence(batches, k):
  """Mean of (z[t + k] - z[t])^2, each latent in units of its scale (2), by hand."""
  found = []
  for batch in batches:
    for z, length in zip(batch.observation.value.numpy(), batch.mask.numpy().sum(1), strict=True):
      for start in range(10, length - k, 50):
        found.append(np.square((z[start + k, :2] - z[start, :2]) / 2.0).mean())
  return np.mean(found)


def test_a_perfect_model():
  world = AdditiveWorld(discount=0.9)
  batches = [_walks(world, [70, 30, 13]), _walks(world, [125, 11, 2], seed=1)]
  quality = dynamics_quality(world, batches)
  assert set(quality["open_loop"]) == {"1", "5", "10", "20", "50"}
  for k in OPEN_LOOP_STEPS:
    assert quality["open_loop"][str(k)] == pytest.approx(0.0, abs=1e-9)
    expected = _persistence(batches, k)
    assert quality["open_loop_persistence"][str(k)] == pytest.approx(expected, rel=1e-4)
  assert quality["one_step_error"] == quality["open_loop"]["1"]
  assert quality["persistence_error"] == quality["open_loop_persistence"]["1"]
  assert quality["reward_r2"] == pytest.approx(1.0)
  assert quality["reward_auc"] == 1.0
  assert quality["termination_auc"] == 0.5  # All steps are thought equally dangerous.
  assert quality["nll_per_dimension"] is None
  check_dynamics(quality)


def test_a_model_that_does_not_move_is_persistence():
  """And one that moves half as far as the truth makes a quarter of its squared error."""
  truth = AdditiveWorld()
  batches = [_walks(truth, [70, 30])]
  still = dynamics_quality(AdditiveWorld(gain=0.0), batches)
  half = dynamics_quality(AdditiveWorld(gain=0.5), batches)
  for k in ("1", "5", "10", "20", "50"):
    assert still["open_loop"][k] == pytest.approx(still["open_loop_persistence"][k], rel=1e-4)
    assert half["open_loop"][k] == pytest.approx(half["open_loop_persistence"][k] / 4, rel=1e-3)
  assert still["reward_r2"] < half["reward_r2"] < 1.0
  check_dynamics(half)
  with pytest.raises(QualityGateError, match=r"no better than standing still.*--force"):
    check_dynamics(still)


def test_episodes_too_short_for_the_longer_dreams():
  world = AdditiveWorld()
  quality = dynamics_quality(world, [_walks(world, [26, 12])])
  known = [k for k, value in quality["open_loop"].items() if value is not None]
  assert known == ["1", "5", "10"]
  assert quality["open_loop_persistence"]["20"] is None
  check_dynamics(quality)


def test_short_episodes_are_dreamed_from_their_middle():
  world = AdditiveWorld()
  quality = dynamics_quality(world, [_walks(world, [11, 4, 2])])
  assert quality["open_loop"]["5"] == pytest.approx(0.0, abs=1e-9)
  assert quality["open_loop_persistence"]["5"] > 1e-6 and quality["open_loop"]["10"] is None
  unknown = quality | {"one_step_error": None}
  with pytest.raises(QualityGateError, match=r"could not be judged.*long enough.*--force"):
    check_dynamics(unknown)


def test_what_cannot_be_told_is_none():
  world = AdditiveWorld()
  batch = _walks(world, [14, 14])
  batch = batch._replace(reward=tf.zeros_like(batch.reward), discount=tf.ones_like(batch.discount))
  quality = dynamics_quality(world, [batch])
  for name in ("reward_r2", "reward_auc", "termination_auc"):
    assert quality[name] is None


def test_no_step_is_an_error():
  world = AdditiveWorld()
  for episodes in ([], [_walks(world, [1, 1])]):
    with pytest.raises(ValueError, match="no held-out episode to judge the dynamics by"):
      dynamics_quality(world, episodes)


def test_figures_of_an_mdn_rnn_do_not_depend_on_its_batches():
  model = small_mdn_rnn(sample_latents=False)
  generator = np.random.default_rng(0)
  latents = (0.1 * generator.normal(size=(4, 16, 8)).cumsum(1)).astype(np.float32)
  batch = make_batch(Embedded(latents), lengths=(16, 5, 13, 12))
  whole = dynamics_quality(model, [batch])

  def part(rows):
    return rows_of(batch, rows)

  parts = dynamics_quality(model, [part([0, 1]), part([2, 3])])
  loss = model.loss(batch, rng.make_seed(0))[1]
  assert whole["nll_per_dimension"] == pytest.approx(float(loss["nll_per_dimension"]), rel=1e-5)
  for name in ("nll_per_dimension", "reward_r2", "reward_auc", "termination_auc"):
    assert parts[name] == pytest.approx(whole[name], rel=1e-4)
  assert parts["persistence_error"] == pytest.approx(whole["persistence_error"], rel=1e-5)
  # Noise at temperature 0 is 1% of a scale, and it is not the same in other batches.
  assert parts["one_step_error"] == pytest.approx(whole["one_step_error"], rel=0.1)


@pytest.mark.parametrize("num_values", [3, 1000])
def test_area_under_curve_against_all_pairs(num_values):
  generator = np.random.default_rng(num_values)
  score = generator.integers(0, num_values, 200) / 7.0
  positive = generator.uniform(size=200) < 0.3
  difference = score[positive][:, None] - score[~positive]
  expected = (difference > 0).mean() + 0.5 * (difference == 0).mean()
  assert area_under_curve(score, positive) == pytest.approx(expected)
  assert area_under_curve(-score, positive) == pytest.approx(1 - expected)
  assert area_under_curve(score, np.ones(200, bool)) is None
  assert area_under_curve(score, np.zeros(200, bool)) is None
