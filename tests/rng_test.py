import numpy as np
import pytest
import tensorflow as tf

from wm_tf import rng

_SEED = rng.make_seed(7)
_ROWS = tf.constant([[1, 2], [3, 4], [1, 5]])
both_draws = pytest.mark.parametrize("draw", [rng.normal, rng.uniform])


def test_make_seed_keeps_all_62_bits():
  values = [0, 1, 2**31 - 1, 2**31, 2**31 + 1, 2**40, 2**61, 2**62 - 1]
  seeds = [rng.make_seed(value) for value in values]
  assert all(seed.shape == (2,) and seed.dtype == tf.int32 for seed in seeds)
  assert len({tuple(seed.numpy()) for seed in seeds}) == len(values)
  np.testing.assert_array_equal(rng.make_seed(3 + 5 * 2**31), [3, 5])


@pytest.mark.parametrize("seed", [-1, 2**62])
def test_a_seed_of_another_size_is_an_error(seed):
  with pytest.raises(ValueError, match=f"seed must be in .0, 2\\*\\*62., got {seed}"):
    rng.make_seed(seed)


def test_rows_of_seeds_are_derived_alone():
  split, folded = rng.split(_ROWS, 3), rng.fold_in(_ROWS, 9)
  assert len(split) == 3 and all(seed.shape == (3, 2) for seed in split)
  assert folded.shape == (3, 2)
  for row in range(3):
    for one, two in zip(rng.split(_ROWS[row], 3), split, strict=True):
      np.testing.assert_array_equal(one, two[row])
    np.testing.assert_array_equal(rng.fold_in(_ROWS[row], 9), folded[row])


def test_derived_seeds_differ():
  seeds = [*rng.split(_SEED, 4), *(rng.fold_in(_SEED, i) for i in range(4)), _SEED]
  assert len({tuple(seed.numpy()) for seed in seeds}) == 9


@both_draws
def test_each_row_depends_on_its_own_seed_alone(draw):
  together = draw([3, 4, 2], _ROWS)
  assert (together.shape, together.dtype) == ((3, 4, 2), tf.float32)
  for row in range(3):
    np.testing.assert_array_equal(draw([1, 4, 2], _ROWS[row : row + 1])[0], together[row])
  assert len(np.unique(together)) == 24
  np.testing.assert_array_equal(draw([3, 4, 2], _ROWS), together)


@both_draws
def test_one_seed_for_all(draw):
  x = draw([3, 4], _SEED)
  assert (x.shape, x.dtype) == ((3, 4), tf.float32)
  assert len(np.unique(x)) == 12
  np.testing.assert_array_equal(draw([3, 4], _SEED), x)
  assert np.any(draw([3, 4], rng.make_seed(8)) != x)


@both_draws
def test_sizes_known_only_when_the_graph_runs(draw):
  @tf.function(input_signature=[tf.TensorSpec([None, 2], tf.int32), tf.TensorSpec([], tf.int32)])
  def run(seed, steps):
    x = draw([tf.shape(seed)[0], steps, 2], seed)
    assert x.shape.as_list() == [None, None, 2]
    return x, draw([tf.shape(seed)[0], steps, 2], seed[0])

  rows, whole = run(_ROWS, 4)
  np.testing.assert_array_equal(rows, draw([3, 4, 2], _ROWS))
  np.testing.assert_array_equal(whole, draw([3, 4, 2], _ROWS[0]))


def test_moments():
  """Of 120,000 numbers from seeds that differ by 1 only; within 5 standard errors."""
  seeds = tf.stack([tf.zeros([300], tf.int32), tf.range(300)], axis=1)
  x = rng.normal([300, 400], seeds).numpy().astype(np.float64)
  n = x.size
  assert abs(x.mean()) < 5 / np.sqrt(n)
  assert abs((x**2).mean() - 1) < 5 * np.sqrt(2 / n)
  # Columns of neighbouring rows, as neighbouring decisions have them.
  assert abs((x[1:] * x[:-1]).mean()) < 5 / np.sqrt(n)
  u = rng.uniform([300, 400], seeds).numpy().astype(np.float64)
  assert u.min() >= 0 and u.max() < 1
  assert abs(u.mean() - 0.5) < 5 * np.sqrt(1 / 12 / n)
  assert abs(((u - 0.5) ** 2).mean() - 1 / 12) < 5 * np.sqrt(1 / 180 / n)
