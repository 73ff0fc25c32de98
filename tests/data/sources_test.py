import numpy as np
import pytest

from tests.data import helpers
from wm_tf.data import datasets, sources


def test_an_episode_stays_on_its_side_as_data_grows():
  few, many = datasets.held_out_seeds(range(50), 0.2), datasets.held_out_seeds(range(1000), 0.2)
  assert few == {seed for seed in many if seed < 50}
  assert 150 < len(many) < 250


def test_something_is_held_out_of_few_episodes():
  for seeds in ([1, 2], [5, 6, 7]):
    assert len(datasets.held_out_seeds(seeds, 0.01)) == 1
  assert datasets.held_out_seeds([1], 0.01) == set()
  assert datasets.held_out_seeds([1, 2], 0.0) == set()


def test_something_is_left_to_train_on_of_few_episodes():
  """Seeds whose hashes all fall below the fraction, found by trying."""
  seeds = next(
    [i, i + 1] for i in range(1000) if {i, i + 1} <= datasets.held_out_seeds(range(1001), 0.5)
  )
  assert len(datasets.held_out_seeds(seeds, 0.5)) == 1
  assert datasets.held_out_seeds(seeds, 1.0) == set(seeds)


@pytest.mark.parametrize("length", [2, 3, 5, 9])
@pytest.mark.parametrize("steps", [2, 3, 4, 9, 10])
def test_num_sequences_is_the_most_that_an_episode_is_cut_into(tmp_path, steps, length):
  helpers.write_noise(tmp_path, num_episodes=1, steps=steps)
  counts = [len(helpers.rows_of(helpers.sequences(tmp_path, length, seed=s))) for s in range(20)]
  assert max(counts) <= sources.num_sequences(steps, length) <= max(counts) + (length > 3)


def _check(num=10, max_steps=21, **options):
  options = {"batch_size": 8, "episodes_name": "collect.num_episodes", **options}
  datasets.check_amounts(range(num), max_steps, **options)


def test_amounts_that_can_work_are_accepted():
  _check()
  _check(2, 9)
  _check(sequence_length=5, batch_size=9 * 6)


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"num": 0}, "collect.num_episodes = 0 .*at least 2"),
    ({"num": 1}, "collect.num_episodes = 1 .*at least 2"),
    ({"held_out_fraction": 0.0, "held_out_name": "collect.held_out"}, "collect.held_out = 0.0 "),
    ({"held_out_fraction": 1.0}, "holds out 10 of 10"),
    ({"num": 2, "max_steps": 7}, "1 episodes .* at most 6 decisions, hold at most 7 observations"),
    (
      {"sequence_length": 5, "batch_size": 55, "batch_size_name": "dynamics_fit.batch_size"},
      "54 sequences of 5 steps, fewer than dynamics_fit.batch_size = 55; lower .* to at most 54",
    ),
  ],
)
def test_amounts_that_cannot_work_are_refused(options, message):
  with pytest.raises(ValueError, match=message):
    _check(**options)


def test_what_is_refused_could_not_fill_a_batch(tmp_path):
  """The longest possible episodes, collected all the same, are less than the batch."""
  helpers.write_noise(tmp_path, num_episodes=4, steps=7)
  common = {"batch_size": 13, "held_out_fraction": 0.1}
  with pytest.raises(ValueError, match="batch_size"):
    datasets.check_amounts(range(4), 7, sequence_length=4, **common)
  for seed in range(5):
    (batch,) = datasets.sequences_dataset(tmp_path, sequence_length=4, seed=seed, **common)
    assert len(batch.mask) < 13
  data = datasets.observations_dataset(tmp_path, seed=0, **common)
  datasets.check_amounts(range(4), 7, **common)
  assert sum(len(np.asarray(batch)) for batch in data) == 13
