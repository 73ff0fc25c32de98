"""Training steps in bfloat16: they compute in it, the same each time, and nothing else does."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from tests.training.small_run import CONFIG, TinyModel, run
from wm_tf.training.precision import computing_in, has_bfloat16, multiplies_bfloat16

SHORT = dataclasses.replace(CONFIG, num_epochs=2)
here = pytest.mark.skipif(not has_bfloat16(), reason="this processor has no bfloat16 products")


@here
def test_products_are_in_bfloat16_within_and_in_float32_outside():
  x = tf.random.stateless_normal([64, 512], [0, 1])
  product = tf.function(lambda x: tf.matmul(tf.matmul(x, x, transpose_b=True), x))
  exact = np.asarray(x, np.float64) @ np.asarray(x, np.float64).T @ np.asarray(x, np.float64)

  def error(found):
    return np.abs(found - exact).max() / np.abs(exact).max()

  assert error(product(x)) < 1e-5
  with computing_in("bfloat16"):
    assert 1e-4 < error(product(x)) < 0.02  # 8 bits of mantissa: 2^-9 for each factor.
  assert error(product(x)) < 1e-5


@here
def test_float32_stays_float32():
  x = tf.random.stateless_normal([64, 512], [0, 1])
  product = tf.function(lambda x: tf.matmul(tf.matmul(x, x, transpose_b=True), x))
  exact = product(x)
  with computing_in("float32"):
    np.testing.assert_array_equal(product(x), exact)


@pytest.mark.parametrize(
  ("cpuinfo", "faster"),
  [
    ("vendor_id\t: AuthenticAMD\nflags\t\t: avx2 avx512f avx512_bf16 sha_ni\n", True),
    ("vendor_id\t: AuthenticAMD\nflags\t\t: avx2 avx512f\n", False),
    ("vendor_id\t: GenuineIntel\nflags\t\t: avx512f avx512_bf16 amx_bf16 amx_tile\n", True),
    ("vendor_id\t: GenuineIntel\nflags\t\t: avx512f avx512_bf16\n", False),  # Half the speed.
  ],
)
def test_where_bfloat16_is_faster(cpuinfo, faster):
  assert multiplies_bfloat16(cpuinfo) == faster


def test_unknown_precision():
  with (
    pytest.raises(ValueError, match="one of float32, bfloat16, not 'half'"),
    computing_in("half"),
  ):
    pass


def test_an_error_within_leaves_float32():
  options = tf.config.optimizer.get_experimental_options()
  with pytest.raises(KeyError), computing_in("bfloat16"):
    raise KeyError
  # The option may be listed now, but not be on.
  left = tf.config.optimizer.get_experimental_options()
  assert {k: v for k, v in left.items() if v} == {k: v for k, v in options.items() if v}


@pytest.mark.slow
@here
def test_fit_learns_as_much_and_differs(tmp_path):
  config = dataclasses.replace(CONFIG, num_epochs=15)
  exact = run(tmp_path / "float32", config)
  rounded = run(tmp_path / "bfloat16", dataclasses.replace(config, precision="bfloat16"))
  assert rounded.train != exact.train
  assert rounded.best["eval/loss"] == pytest.approx(exact.best["eval/loss"], rel=0.2)


def test_fit_is_the_same_each_time(tmp_path):
  config = dataclasses.replace(SHORT, precision="bfloat16")
  results = [run(tmp_path / name, config, model=TinyModel()) for name in "ab"]
  assert results[0].train == results[1].train
  assert results[0].final == results[1].final
