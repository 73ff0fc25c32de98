import copy
import itertools
import subprocess
import sys

import numpy as np
import pytest

from wm_tf.policies.exploration import (
  Brownian,
  Held,
  Interrupted,
  Mixture,
  Noisy,
  Scripted,
  Uniform,
)


class _Follower:
  """A scripted policy with a memory: its action says how often it was asked, and what it saw."""

  def __init__(self):
    self.count = 0

  def act(self, observation, infos, rng):
    assert len(observation) == len(infos) == 1
    self.count += 1
    seen = infos[0]["privileged"]["speed"]
    return np.array([[self.count / 100, seen / 1000 + 0.01 * rng.standard_normal()]], np.float32)


class Constant:
  """Takes the same number for every action."""

  def __init__(self, value):
    self.value = value

  def begin(self, rows):
    pass

  def act(self, observation, is_first, seeds, infos):
    return np.full((len(seeds), 2), self.value, np.float32)


def _actors():
  return {
    "uniform": Uniform(2),
    "held": Held(2),
    "brownian": Brownian(2, mean=(0.0, 0.3)),
    "scripted": Scripted(_Follower()),
    "noisy": Noisy(Scripted(_Follower()), scale=(0.2, 0.1), correlation=0.5),
    "interrupted": Interrupted(Noisy(Scripted(_Follower()), scale=0.05), rate=0.1),
    "noisy_brownian": Noisy(Brownian(2), scale=0.3),
    "mixture": Mixture({"held": Held(2), "driver": Noisy(Scripted(_Follower()), 0.1)}),
  }


def _play(actor, seeds, first, num_decisions):
  """Plays `num_decisions` of each seed, one to a row; row i begins at decision `first[i]`.

  Before that, a row plays other episodes, and afterwards it idles, as in `run_episodes`.

  Returns:
    `float32[len(seeds), num_decisions, 2]`.
  """
  actor = copy.copy(actor)
  actor.begin(len(seeds))
  played = []
  for t in range(max(first) + num_decisions):
    local = t - np.asarray(first)
    warm_up, over = local < 0, local >= num_decisions
    now = np.where(warm_up, 1000 + np.arange(len(seeds)), seeds)
    step = np.where(warm_up, t, local)
    is_first = (step == 0) | over
    infos = [{"privileged": {"speed": float(s)}} for s in step]
    frames = np.zeros((len(seeds), 64, 64, 3), np.uint8)
    action = actor.act(frames, is_first, now.astype(np.int64), infos)
    assert action.shape == (len(seeds), 2) and action.dtype == np.float32
    assert (np.abs(action) <= 1).all()
    played.append(action)
  played = np.array(played)
  return np.stack([played[f : f + num_decisions, i] for i, f in enumerate(first)])


@pytest.mark.parametrize("name", _actors())
def test_an_episode_depends_on_its_seed_alone(name):
  actor = _actors()[name]
  expected = _play(actor, [0, 1, 2, 3], [0, 0, 0, 0], 30)
  np.testing.assert_array_equal(
    _play(actor, [3, 1, 0, 2], [4, 0, 7, 1], 30)[[2, 1, 3, 0]], expected
  )
  np.testing.assert_array_equal(_play(actor, [2], [0], 30)[0], expected[2])
  flat = {row.tobytes() for row in expected}
  assert len(flat) == 4, "different seeds, different episodes"


@pytest.mark.parametrize("name", _actors())
def test_copies_that_have_begun_are_independent(name):
  actor = _actors()[name]
  expected = _play(actor, [5, 6], [0, 0], 20)
  copies = [copy.copy(actor) for _ in range(2)]
  for each in copies:
    each.begin(1)
  played = [[], []]
  for t in range(20):
    for actions, each, seed in zip(played, copies, (5, 6), strict=True):
      info = [{"privileged": {"speed": float(t)}}]
      frame = np.zeros((1, 64, 64, 3), np.uint8)
      actions.append(each.act(frame, np.array([t == 0]), np.array([seed]), info)[0])
  np.testing.assert_array_equal(played, expected)


def test_uniform_fills_the_range():
  actions = _play(Uniform(2), range(10), [0] * 10, 500).reshape(-1, 2)
  assert np.abs(actions.mean(0)).max() < 0.05
  np.testing.assert_allclose(actions.std(0), 1 / np.sqrt(3), rtol=0.05)


def test_held_actions_are_held():
  actions = _play(Held(2, max_decisions=4), range(5), [0] * 5, 2000)
  lengths = []
  for episode in actions:
    changes = np.flatnonzero((episode[1:] != episode[:-1]).any(1)) + 1
    lengths += np.diff(changes).tolist()
  counts = np.bincount(lengths, minlength=5)
  assert counts[0] == 0 and len(counts) == 5
  np.testing.assert_allclose(counts[1:] / counts.sum(), 0.25, atol=0.03)


def test_brownian_has_the_stated_moments():
  actor = Brownian(2, scale=0.2, theta=0.3, mean=(0.0, 0.1))
  noise = _play(actor, range(40), [0] * 40, 500) - (0.0, 0.1)
  np.testing.assert_allclose(noise.mean((0, 1)), 0, atol=0.01)
  np.testing.assert_allclose(noise.std((0, 1)), 0.2, rtol=0.03)
  np.testing.assert_allclose(noise[:, 0].std(), 0.2, rtol=0.2)  # From the first decision on.
  for lag in (1, 3):
    correlation = (noise[:, lag:] * noise[:, :-lag]).mean() / (noise**2).mean()
    assert correlation == pytest.approx(np.exp(-0.3 * lag), abs=0.03)


class _Still(_Follower):
  def act(self, observation, infos, rng):
    return np.array([[0.2, -0.1]], np.float32)


def test_noise_is_added_to_the_actor():
  actor = Noisy(Scripted(_Still()), scale=(0.1, 0.0), correlation=0.9)
  actions = _play(actor, range(40), [0] * 40, 500)
  np.testing.assert_allclose(actions[..., 1], -0.1, rtol=1e-6)
  noise = actions[..., 0] - 0.2
  assert noise.mean() == pytest.approx(0, abs=0.01)
  assert noise.std() == pytest.approx(0.1, rel=0.05)
  assert (noise[:, 1:] * noise[:, :-1]).mean() / (noise**2).mean() == pytest.approx(0.9, abs=0.03)


def test_noise_differs_from_that_of_the_actor_inside():
  plain = _play(Brownian(2, scale=0.2), [1], [0], 200)[0]
  noisy = _play(Noisy(Brownian(2, scale=0.2), scale=0.2), [1], [0], 200)[0]
  assert np.abs(np.corrcoef(plain.ravel(), (noisy - plain).ravel())[0, 1]) < 0.3


def test_a_mixture_plays_what_it_says():
  actors = {"held": Held(2), "uniform": Uniform(2)}
  mixture = Mixture(actors, {"held": 3, "uniform": 1})
  choices = [mixture.choice(seed) for seed in range(2000)]
  assert choices.count("held") / 2000 == pytest.approx(0.75, abs=0.03)
  played = _play(mixture, range(12), [0] * 12, 20)
  assert set(choices[:12]) == {"held", "uniform"}
  for seed, episode in enumerate(played):
    np.testing.assert_array_equal(episode, _play(actors[choices[seed]], [seed], [0], 20)[0])


@pytest.mark.parametrize("weights", [{"a": 1.0}, {"a": 1.0, "b": -1.0}, {"a": 0.0, "b": 0.0}])
def test_weights_must_fit(weights):
  with pytest.raises(ValueError, match="weights"):
    Mixture({"a": Uniform(2), "b": Held(2)}, weights)


def test_no_tensorflow():
  script = "import sys, wm_tf.policies.exploration; sys.exit('tensorflow' in sys.modules)"
  assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


def test_interruptions_are_uniform_held_and_as_frequent_as_said():
  rate, longest, num = 0.1, 8, 20000
  played = _play(Interrupted(Constant(0.25), rate, longest), [5], [0], num)[0]
  interrupted = (played != np.float32(0.25)).any(1)
  # Renewal: a decision outside is one with probability 1 - rate, or begins 4.5 others on average.
  mean_length = (1 + longest) / 2
  expected = rate * mean_length / (rate * mean_length + 1 - rate)
  assert interrupted.mean() == pytest.approx(expected, abs=0.03)
  assert np.abs(played[interrupted].mean(0)).max() < 0.05
  np.testing.assert_allclose(played[interrupted].std(0), np.sqrt(1 / 3), atol=0.03)
  changes = np.flatnonzero((np.diff(played, axis=0) != 0).any(1))
  lengths = [b - a for a, b in itertools.pairwise(changes) if interrupted[a + 1]]
  assert set(lengths) == set(range(1, longest + 1))


def test_an_interrupted_agent_is_told_what_it_did():
  told = []
  actor = Constant(0.25)
  actor.took = lambda action: told.append(action.copy())
  played = _play(Interrupted(actor, 0.3), [5], [0], 50)[0]
  np.testing.assert_array_equal(np.concatenate(told), played)


def test_an_agent_within_two_disturbances_is_told_the_last_of_both():
  told = []
  actor = Constant(0.25)
  actor.took = lambda action: told.append(action.copy())
  played = _play(Interrupted(Noisy(actor, 0.2), 0.3), [5], [0], 50)[0]
  # Each decision is told twice: after the noise, and after the interruption.
  np.testing.assert_array_equal(np.concatenate(told[1::2]), played)
  assert (np.concatenate(told[::2]) != played).any()


def test_without_interruptions_it_is_the_actor():
  plain = Noisy(Scripted(_Follower()), 0.1)
  np.testing.assert_array_equal(
    _play(Interrupted(plain, 0.0), [5], [0], 30), _play(plain, [5], [0], 30)
  )
  with pytest.raises(ValueError, match="rate is a probability"):
    Interrupted(plain, 1.5)
