"""The replay buffer."""

import numpy as np
import pytest

from wm_tf.core import Episode
from wm_tf.data.replay import Replay
from wm_tf.data.rows import align


def _episode(first: int, num: int, terminal: bool = True) -> Episode:
  """An episode whose observation counts from `first`, whose rewards and actions repeat it."""
  count = np.arange(first, first + num, dtype=np.float32)
  last = np.arange(num) == num - 1
  return Episode(
    observation={"x": count[:, np.newaxis]},
    action=count[:, np.newaxis],
    reward=count,
    is_first=np.arange(num) == 0,
    is_last=last,
    is_terminal=last & terminal,
  )


def _draws(replay: Replay, length: int, num: int = 200):
  return replay.draw(np.random.default_rng(0), num, length)


def test_windows_are_consecutive_and_cross_episodes():
  replay = Replay(100)
  replay.add(align(_episode(0, 5)))
  replay.add(align(_episode(5, 7, terminal=False)))
  assert len(replay) == 12
  batch = _draws(replay, 4)
  x = batch.observation["x"][..., 0]
  np.testing.assert_array_equal(np.diff(x, axis=1), 1.0)
  np.testing.assert_array_equal(np.unique(x[:, 0]), np.arange(9))  # Every window occurs.
  np.testing.assert_array_equal(batch.is_first, (x == 0) | (x == 5))
  np.testing.assert_array_equal(batch.discount == 0, x == 4)
  assert batch.mask.all() and batch.mask.dtype == bool
  # Rewards and actions arrive with the observation that follows them.
  arrived = np.where(batch.is_first, 0.0, x - 1)
  np.testing.assert_array_equal(batch.reward, arrived)
  np.testing.assert_array_equal(batch.prev_action[..., 0], arrived)


def test_the_newest_window_is_always_drawn():
  replay = Replay(10)
  for first in range(0, 60, 6):
    replay.add(align(_episode(first, 6)))
    if first:
      x = _draws(replay, 3, num=1).observation["x"]
      np.testing.assert_array_equal(x[0, :, 0], np.arange(first + 3, first + 6))


@pytest.mark.parametrize("lengths", [(6, 6, 6, 6), (3, 25), (25,), (10, 10), (7, 10, 1)])
def test_the_oldest_steps_are_overwritten(lengths):
  replay, first = Replay(10), 0
  for num in lengths:
    replay.add(align(_episode(first, num)))
    first += num
  assert len(replay) == 10
  expected = np.arange(first - 10, first)
  np.testing.assert_array_equal(replay.all().observation["x"][0, :, 0], expected)
  x = _draws(replay, 4).observation["x"][..., 0]
  np.testing.assert_array_equal(np.unique(x), expected)


def test_too_few_steps_are_refused():
  replay = Replay(10)
  replay.add(align(_episode(0, 3)))
  with pytest.raises(ValueError, match=r"hold \[3\] steps, and a window has 4"):
    _draws(replay, 4)


def test_windows_of_several_streams():
  """No window crosses streams, all windows are as likely, and the newest of each come first."""
  replay, added = Replay(60, num_streams=3), [12, 2, 30]
  for stream, num in enumerate(added):
    for first in range(0, num, 2):  # The streams grow by turns, in pieces.
      replay.add(align(_episode(100 * stream + first, 2)), stream)
  assert len(replay) == 12 + 2 + 20
  batch = _draws(replay, 4, num=20_000)
  x = batch.observation["x"][..., 0]
  np.testing.assert_array_equal(np.diff(x, axis=1), 1.0)
  np.testing.assert_array_equal(x[:2, 0], [8, 226])
  expected = [*range(9), *range(210, 227)]
  found, counts = np.unique(x[2:, 0], return_counts=True)
  np.testing.assert_array_equal(found, expected)
  mean = 19_998 / len(expected)
  assert np.abs(counts - mean).max() < 5 * np.sqrt(mean)
  every = replay.all().observation["x"][0, :, 0]
  np.testing.assert_array_equal(every, [*range(12), 100, 101, *range(210, 230)])
  single = _draws(replay, 4, num=1).observation["x"]
  assert single.shape == (1, 4, 1) and single[0, 0, 0] == 8


def test_without_the_newest_all_windows_are_as_likely():
  replay = Replay(60, newest=False)
  replay.add(align(_episode(0, 12)))
  x = _draws(replay, 4, num=20_000).observation["x"][:, 0, 0]
  _, counts = np.unique(x, return_counts=True)
  assert len(counts) == 9 and np.abs(counts - 20_000 / 9).max() < 5 * np.sqrt(20_000 / 9)
