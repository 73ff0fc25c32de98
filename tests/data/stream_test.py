"""Streams of episodes: what is played, continued in another process, and played again."""

import functools
import os
import signal

import numpy as np
import pytest
import tensorflow as tf

from tests.envs import toys
from wm_tf.core import Batch
from wm_tf.data.env_pool import EnvPool, WorkerError
from wm_tf.data.rows import align
from wm_tf.data.stream import EnvStream
from wm_tf.envs import env_factory


class _Drawing:
  """Draws actions by the seed of the episode and the number of the decision, its memory."""

  def __init__(self, action_size: int):
    self.action_size = action_size

  def begin(self, rows):
    self.steps = np.zeros(rows, np.int64)

  def act(self, observation, is_first, seeds, infos):
    self.steps = np.where(is_first, 0, self.steps + 1)
    draws = [np.random.default_rng(pair) for pair in zip(seeds, self.steps, strict=True)]
    return np.stack([rng.uniform(-1, 1, self.action_size) for rng in draws]).astype(np.float32)

  def memory(self):
    return [self.steps]

  def recall(self, memory):
    (self.steps,) = memory


def _seed(row: int, number: int) -> int:
  return 1000 * row + number


@pytest.fixture(scope="module", params=toys.NAMES)
def pool(request):
  with EnvPool(env_factory(request.param), 2) as pool:
    yield pool


@pytest.fixture
def survival():
  with EnvPool(env_factory("tests.envs.toys:SurvivalEnv"), 2) as pool:
    yield pool


def _stream(pool: EnvPool, **options) -> EnvStream:
  return EnvStream(pool, _Drawing(pool.spec.action_size), _seed, **options)


def _by_row(*played) -> dict[int, Batch]:
  """All steps of each row, joined."""
  rows = {}
  for piece in (piece for one in played for piece in one.pieces):
    rows.setdefault(piece.row, []).append(piece.steps)
  return {
    row: tf.nest.map_structure(lambda *x: np.concatenate(x), *steps) for row, steps in rows.items()
  }


def _assert_equal(found, expected):
  tf.nest.assert_same_structure(found, expected)
  tf.nest.map_structure(np.testing.assert_array_equal, found, expected)


def test_steps_are_those_of_the_episodes(pool):
  played = _stream(pool, first_number=5).play(90)
  assert {piece.seed for piece in played.pieces} >= {5, 6, 1005, 1006}
  seeds = [info.seed for _, info in played.episodes]
  assert len(seeds) == len(set(seeds)) >= 2
  for episode, info in played.episodes:
    pieces = [piece.steps for piece in played.pieces if piece.seed == info.seed]
    _assert_equal(tf.nest.map_structure(lambda *x: np.concatenate(x), *pieces), align(episode))
  for steps in _by_row(played).values():
    assert int(np.sum(~steps.is_first)) == 90


def test_how_the_decisions_are_divided_does_not_matter(pool):
  stream = _stream(pool)
  parts = [stream.play(num) for num in (1, 22, 7, 20)]
  whole = _stream(pool).play(50)
  _assert_equal(_by_row(*parts), _by_row(whole))
  _assert_equal([x for part in parts for x in part.episodes], whole.episodes)


@pytest.mark.parametrize("num", [0, 7, 20, 45])
def test_continues_in_another_process(pool, num):
  stream = _stream(pool)
  before = stream.play(num)
  state = stream.state()
  expected = stream.play(30)
  again = _stream(pool)
  in_progress = again.restore(state)
  found = again.play(30)
  _assert_equal(_by_row(found), _by_row(expected))
  _assert_equal(found.episodes, expected.episodes)
  seeds = {piece.seed for piece in in_progress}
  assert len(seeds) == 2
  for piece in in_progress:
    steps = [p.steps for p in before.pieces if p.seed == piece.seed]
    _assert_equal(piece.steps, tf.nest.map_structure(lambda *x: np.concatenate(x), *steps))


def test_a_killed_worker_changes_nothing(survival, caplog):
  expected = _stream(survival).play(40)
  stream = _stream(survival)
  parts = []
  for num in (3, 17, 20):
    parts.append(stream.play(num))
    os.kill(survival.pids[len(parts) % 2], signal.SIGKILL)
  _assert_equal(_by_row(*parts), _by_row(expected))
  _assert_equal([x for part in parts for x in part.episodes], expected.episodes)
  assert "is played again" in caplog.text


def test_an_episode_that_cannot_be_repeated_ends_where_its_worker_died(caplog):
  with EnvPool(env_factory("tests.data.environments:Unrepeatable"), 1) as pool:
    stream = _stream(pool)
    first = stream.play(1)
    os.kill(pool.pids[0], signal.SIGKILL)
    second = stream.play(2)
  episode, info = second.episodes[0]
  assert info.seed == 0 and info.steps == 2 and stream.numbers == [1]
  assert episode.is_last[-1] and not episode.is_terminal[-1]
  np.testing.assert_array_equal(episode.observation, first.pieces[0].steps.observation)
  assert np.all(np.diff([piece.seed for piece in second.pieces]) >= 0)
  assert "ends at decision 1" in caplog.text


def test_an_episode_that_cannot_be_repeated_is_left_out_by_restore(caplog):
  with EnvPool(env_factory("tests.data.environments:Unrepeatable"), 1) as pool:
    stream = _stream(pool)
    stream.play(2)
    again = _stream(pool)
    assert again.restore(stream.state()) == [] and again.numbers == [1]
    assert again.play(1).pieces[0].seed == 1
  assert "which was in progress, is not the same again" in caplog.text


def test_a_worker_that_keeps_dying_is_an_error():
  with (
    EnvPool(functools.partial(env_factory("tests.data.environments:Dying")), 1) as pool,
    pytest.raises(WorkerError, match=r"The episode of seed 0 failed 3 times in a row"),
  ):
    _stream(pool).play(10)
