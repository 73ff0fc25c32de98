"""Exploration with categorical actions."""

import numpy as np
import pytest

from wm_tf.policies.exploration import Brownian, Held, Interrupted, Noisy, Uniform

_CHOICES = (3, 2)


class Constant:
  """Takes the first choice of each group always."""

  def begin(self, rows):
    pass

  def act(self, observation, is_first, seeds, infos):
    return np.tile(np.float32([1, 0, 0, 1, 0]), (len(seeds), 1))


def _play(actor, num_decisions=4000, seeds=(5, 6)):
  """Plays one episode of each seed; returns the choices `int[seeds, num_decisions, 2]`."""
  actor.begin(len(seeds))
  played = []
  for t in range(num_decisions):
    frames = np.zeros((len(seeds), 8, 8, 3), np.uint8)
    infos = [{}] * len(seeds)
    played.append(actor.act(frames, np.full(len(seeds), t == 0), np.array(seeds), infos))
  played = np.stack(played, axis=1)
  assert played.dtype == np.float32 and set(np.unique(played)) == {0.0, 1.0}
  groups = np.split(played, [3], axis=-1)
  for group in groups:
    np.testing.assert_array_equal(group.sum(-1), 1.0)
  return np.stack([group.argmax(-1) for group in groups], axis=-1)


def _actors():
  return {
    "uniform": Uniform(5, _CHOICES),
    "held": Held(5, 4, _CHOICES),
    "brownian": Brownian(5, theta=0.3, num_choices=_CHOICES),
    "noisy": Noisy(Constant(), 0.3, num_choices=_CHOICES),
    "interrupted": Interrupted(Constant(), 0.1, num_choices=_CHOICES),
  }


@pytest.mark.parametrize("name", _actors())
def test_an_episode_depends_on_its_seed_alone(name):
  both, alone = _play(_actors()[name], 50), _play(_actors()[name], 50, seeds=(6,))
  np.testing.assert_array_equal(both[1:], alone)
  assert np.any(both[0] != both[1])


@pytest.mark.parametrize("name", ["uniform", "held", "brownian"])
def test_all_choices_are_equally_frequent(name):
  choices = _play(_actors()[name], 20000)
  for group, num in enumerate(_CHOICES):
    shares = np.bincount(choices[..., group].ravel(), minlength=num) / choices[..., group].size
    np.testing.assert_allclose(shares, 1 / num, atol=0.03)


def test_sticky_choices_are_kept_as_often_as_theta_says():
  choices = _play(_actors()["brownian"], 20000)
  same = (choices[:, 1:] == choices[:, :-1]).mean((0, 1))
  keep = np.exp(-0.3)
  np.testing.assert_allclose(same, keep + (1 - keep) / np.array(_CHOICES), atol=0.02)
  # Each group keeps or changes by itself.
  changed = choices[:, 1:] != choices[:, :-1]
  assert abs(np.corrcoef(changed[..., 0].ravel(), changed[..., 1].ravel())[0, 1]) < 0.05


def test_held_choices_last_as_long_as_said():
  choices = _play(_actors()["held"], 8000)
  runs = np.diff(np.flatnonzero((choices[0, 1:] != choices[0, :-1]).any(1)))
  # Of 1 to 4 decisions; a sixth of the next draws repeats the last one, which joins two.
  assert runs.min() == 1 and 2.5 < runs.mean() < 3.5


def test_noise_replaces_choices_with_its_probability():
  choices = _play(_actors()["noisy"], 20000)
  changed = (choices != 0).mean((0, 1))
  np.testing.assert_allclose(changed, 0.3 * (1 - 1 / np.array(_CHOICES)), atol=0.01)


def test_interruptions_are_uniform():
  choices = _play(_actors()["interrupted"], 20000)
  expected = 0.1 * 4.5 / (0.1 * 4.5 + 0.9)  # Of the decisions, as of continuous actions.
  changed = (choices != 0).mean((0, 1))
  np.testing.assert_allclose(changed, expected * (1 - 1 / np.array(_CHOICES)), atol=0.03)


def test_refuses():
  with pytest.raises(ValueError, match=r"4 numbers are not groups of \(3, 2\) choices"):
    Uniform(4, _CHOICES)
  with pytest.raises(ValueError, match="scale is a probability for categorical actions"):
    Noisy(Constant(), 1.5, num_choices=_CHOICES)
