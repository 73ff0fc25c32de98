"""Tests of saving and loading nests, weights and series of checkpoints."""

import random
from typing import NamedTuple

import keras
import ml_dtypes
import numpy as np
import pytest
import tensorflow as tf

from tests.naming import raises_naming
from wm_tf.training.checkpoints import (
  CheckpointMismatchError,
  Checkpoints,
  CorruptCheckpointError,
  assign,
  atomic_open,
  flatten_with_path,
  load_nest,
  load_weights,
  map_with_path,
  save_nest,
  save_weights,
  values,
)


class State(NamedTuple):
  mean: object
  rest: object


def make_nest(scale=1):
  return State(
    mean=tf.constant([[0.1, -0.0], [np.nan, np.inf]]) * scale,
    rest={
      "seed": tf.constant([1, 2**31 - 1], tf.int32),
      "half": np.arange(3).astype(ml_dtypes.bfloat16),
      "flags": [np.array([True, False]), np.zeros([0, 3], np.uint8)],
      "numbers": (3 * scale, 0.1 + scale, True, "näme" * scale),
      "nothing": (None, ()),
    },
  )


def test_values_go_back_to_where_they_came_from(tmp_path):
  """By name: "10" comes before "2" in one order, and after it in another."""

  def pair(value):
    return tf.Variable(float(value)), [tf.Variable(1)]

  def make(first):
    return {str(i): pair(first + i) for i in range(12)}

  variables, others = make(0), make(100)
  saved = values(variables)
  assert saved["10"][0] == 10.0 and isinstance(saved["2"][1][0], np.int32)
  save_nest(tmp_path / "nest.npz", saved)
  assign(others, load_nest(tmp_path / "nest.npz", values(others)))
  assert {name: float(pair[0]) for name, pair in others.items()} == {
    f"{i}": float(i) for i in range(12)
  }
  with pytest.raises(ValueError):
    assign(others, {**saved, "12": saved["2"]})


def test_nest_round_trip_is_exact(tmp_path):
  nest = make_nest()
  save_nest(tmp_path / "nest.npz", nest)
  loaded = load_nest(tmp_path / "nest.npz", make_nest(scale=3))
  assert isinstance(loaded, State) and tf.is_tensor(loaded.mean)
  assert isinstance(loaded.rest["flags"][0], np.ndarray)
  assert loaded.rest["numbers"] == nest.rest["numbers"]
  assert [type(x) for x in loaded.rest["numbers"]] == [int, float, bool, str]
  assert loaded.rest["nothing"] == (None, ())
  for path, leaf in flatten_with_path(nest).items():
    other = flatten_with_path(loaded)[path]
    assert np.asarray(leaf).dtype == np.asarray(other).dtype, path
    assert np.asarray(leaf).tobytes() == np.asarray(other).tobytes(), path
  save_nest(tmp_path / "again.npz", loaded)
  assert (tmp_path / "again.npz").read_bytes() == (tmp_path / "nest.npz").read_bytes()


def test_paths():
  nest = State(1, {"a": [2, (3,)], "b": None})
  assert flatten_with_path(nest) == {"mean": 1, "rest/a/0": 2, "rest/a/1/0": 3}
  assert flatten_with_path(5) == {"value": 5}
  assert map_with_path(lambda path, leaf: leaf + 1, nest) == State(2, {"a": [3, (4,)], "b": None})
  with pytest.raises(ValueError, match="a/b"):
    flatten_with_path({"a": {"b": 1}, "a/b": 2})


@pytest.mark.parametrize(
  ("like", "message"),
  [
    ({"a": np.zeros(2)}, "has 'b', which is unknown here"),
    ({"a": np.zeros(2), "b": 1, "c": 1}, "has no 'c'"),
    ({"a": np.zeros(3), "b": 1}, r"'a' is float64\[2\] in the file, and float64\[3\] is expected"),
    ({"a": np.zeros(2, np.float32), "b": 1}, r"'a' is float64\[2\].* float32\[2\] is expected"),
    ({"a": np.zeros(2), "b": 1.0}, r"'b' is int64\[\]"),
  ],
)
def test_another_structure_is_refused(tmp_path, like, message):
  path = tmp_path / "nest.npz"
  save_nest(path, {"a": np.ones(2), "b": 1})
  with raises_naming(path, CheckpointMismatchError, message):
    load_nest(path, like)


def test_an_object_cannot_be_saved(tmp_path):
  with pytest.raises(ValueError, match="'a/0' cannot be saved"):
    save_nest(tmp_path / "nest.npz", {"a": [object()]})
  assert not list(tmp_path.iterdir())


def test_damage_is_found_wherever_it_is(tmp_path):
  """A bit flipped anywhere is an error that names the file, or changes nothing."""
  path = tmp_path / "nest.npz"
  nest = {"a": np.arange(50.0), "b": np.arange(7)}
  save_nest(path, nest)
  whole = path.read_bytes()
  random_ = random.Random(0)
  found = 0
  for position in random_.sample(range(len(whole)), 150):
    damaged = bytearray(whole)
    damaged[position] ^= 1 << random_.randrange(8)
    path.write_bytes(damaged)
    try:
      loaded = load_nest(path, nest)
    except (CorruptCheckpointError, CheckpointMismatchError) as error:
      assert str(path) in str(error)
      found += 1
    else:  # Dates and the like, in the zip's own tables.
      np.testing.assert_array_equal(loaded["a"], nest["a"])
      np.testing.assert_array_equal(loaded["b"], nest["b"])
  assert found > 75
  for length in (0, 1, 100, len(whole) - 1):
    path.write_bytes(whole[:length])
    with pytest.raises(CorruptCheckpointError, match="damaged"):
      load_nest(path, nest)
  with pytest.raises(FileNotFoundError):
    load_nest(tmp_path / "absent.npz", nest)


def test_atomic_open_leaves_the_old_file_on_error(tmp_path):
  path = tmp_path / "new_folder" / "file"
  with atomic_open(path) as file:
    file.write(b"old")
  with pytest.raises(KeyboardInterrupt), atomic_open(path) as file:
    file.write(b"new")
    raise KeyboardInterrupt
  assert path.read_bytes() == b"old"
  assert [p.name for p in path.parent.iterdir()] == ["file"]


def make_model(units=3):
  return keras.Sequential(
    [keras.Input([4]), keras.layers.Dense(units), keras.layers.BatchNormalization(),
     keras.layers.Dense(units, name="head"), keras.layers.Dense(units, name="head_2")]
  )  # fmt: skip


def test_weights_round_trip_into_a_second_model_of_the_process(tmp_path):
  """Keras names the second model's layers `dense_1`; that is not another model."""
  first, second = make_model(), make_model()
  first.layers[1].moving_mean.assign([1.0, 2.0, 3.0])
  assert [v.path for v in first.weights] != [v.path for v in second.weights]
  save_weights(first, tmp_path / "weights.npz")
  load_weights(second, tmp_path / "weights.npz")
  for a, b in zip(first.get_weights(), second.get_weights(), strict=True):
    np.testing.assert_array_equal(a, b)
  assert "000/dense/kernel" in np.load(tmp_path / "weights.npz")


def test_weights_of_another_model_change_nothing(tmp_path):
  save_weights(make_model(5), tmp_path / "weights.npz")
  model = make_model()
  before = model.get_weights()
  with pytest.raises(CheckpointMismatchError, match=r"000/dense/kernel' is float32\[4, 5\]"):
    load_weights(model, tmp_path / "weights.npz")
  for a, b in zip(before, model.get_weights(), strict=True):
    np.testing.assert_array_equal(a, b)
  unbuilt = keras.Sequential([keras.layers.Dense(3)])
  with pytest.raises(CheckpointMismatchError, match="not built yet"):
    load_weights(unbuilt, tmp_path / "weights.npz")


def test_checkpoints_keep_the_last_and_restore_the_latest(tmp_path):
  saved = Checkpoints(tmp_path / "checkpoints", keep=2)
  assert saved.restore({"x": 0}) is None
  for step in (5, 40, 300):
    saved.save(step, {"x": step})
  assert saved.steps() == [40, 300]
  assert saved.restore({"x": 0}) == (300, {"x": 300})
  (saved.directory / ".step-00000301.npz.tmp").write_bytes(b"half")  # What a kill leaves.
  saved.clear()
  assert not list(tmp_path.iterdir())


def test_damaged_checkpoints_fall_back_with_a_warning(tmp_path):
  saved = Checkpoints(tmp_path, keep=3)
  for step in (1, 2, 3):
    saved.save(step, {"x": np.full(9, step)})
  like = {"x": np.zeros(9, int)}
  saved.path(3).write_bytes(saved.path(3).read_bytes()[:60])
  with pytest.warns(RuntimeWarning, match=r"step-00000003.npz is damaged"):
    step, nest = saved.restore(like)
  assert step == 2 and nest["x"][0] == 2
  assert saved.steps() == [1, 2]
  for step in (1, 2):
    saved.path(step).write_bytes(b"")
  with (
    pytest.warns(RuntimeWarning, match="damaged"),
    pytest.raises(CorruptCheckpointError, match=r"Every checkpoint .* Delete that folder"),
  ):
    saved.restore(like)
  assert saved.steps() == [1, 2]


def test_a_checkpoint_that_does_not_fit_is_not_skipped(tmp_path):
  saved = Checkpoints(tmp_path)
  saved.save(1, {"x": 1})
  saved.save(2, {"y": 1})
  with pytest.raises(CheckpointMismatchError, match=r"step-00000002.npz has no 'x'"):
    saved.restore({"x": 1})
