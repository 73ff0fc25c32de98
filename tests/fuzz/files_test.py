"""Files of a run, damaged in any way: read as they were written, or an error that names them."""

from __future__ import annotations

import json

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from tests.data import helpers
from tests.fuzz.bytes import damaged
from wm_tf import files
from wm_tf.data import datasets, repair, rollouts
from wm_tf.data.manifest import CorruptManifestError
from wm_tf.data.observations import ArraySpec, unpack
from wm_tf.data.rollouts import CorruptShardError, Manifest
from wm_tf.training import checkpoints

_NEST = {"weights": np.arange(60.0).reshape(3, 20), "step": 7, "progress": '{"epoch": 1}'}
_JSON = st.recursive(
  st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=10),
  lambda parts: (
    st.lists(parts, max_size=3) | st.dictionaries(st.text(max_size=5), parts, max_size=3)
  ),
  max_leaves=8,
)


_PARTS = {"camera": ArraySpec((8, 9, 1), "uint8"), "speed": ArraySpec((3,), "float32")}
_HEADERS = {
  "image": helpers.HEADER,
  "vector": helpers.HEADER._replace(observation_shape=(3,), observation_dtype="float32"),
  "parts": Manifest(helpers.HEADER.environment, 2, (), "", observation_parts=_PARTS),
}


@pytest.fixture(scope="module", params=_HEADERS)
def folder(request, tmp_path_factory):
  """A dataset folder of two shards, each of two short episodes."""
  folder = tmp_path_factory.mktemp("fuzz")
  header = _HEADERS[request.param]
  helpers.write_noise(folder, num_episodes=4, steps=2, episodes_per_shard=2, header=header)
  return folder


class _Contents(dict):
  """The bytes of files by name, which a failing example need not print."""

  def __repr__(self):
    return f"contents of {sorted(self)}"


@pytest.fixture(scope="module")
def sound(folder):
  """What its files hold."""
  return _Contents(helpers.contents(folder))


@pytest.fixture(autouse=True)
def _whole(folder, sound):
  yield
  for name, content in sound.items():
    (folder / name).write_bytes(content)


# --- JSON --------------------------------------------------------------------------------------


@given(values=st.dictionaries(st.text(max_size=5).filter("sha256".__ne__), _JSON, max_size=4))
def test_json_is_read_as_it_was_written(tmp_path_factory, values):
  path = tmp_path_factory.getbasetemp() / "values.json"
  files.write_json(path, values)
  assert files.read_json(path) == values


@given(data=st.data())
def test_damaged_json(tmp_path_factory, data):
  path = tmp_path_factory.getbasetemp() / "run.json"
  values = {"config": {"preset": "debug", "rate": 1e-3, "sizes": [1, 2]}, "seed": 12}
  files.write_json(path, values)
  path.write_bytes(data.draw(damaged(path.read_bytes())))
  try:
    found = files.read_json(path)
  except files.DamagedFileError as error:
    assert str(path) in str(error)
  else:
    # A file without a checksum is believed: so is one that has lost it, name or digits and all.
    assert found == values or b'"sha256"' not in path.read_bytes()


@given(data=st.data())
def test_damaged_sums(tmp_path_factory, data):
  base = tmp_path_factory.mktemp("sums", numbered=True)
  for name in ("a.bin", "b/c.bin"):
    (base / name).parent.mkdir(exist_ok=True)
    (base / name).write_bytes(name.encode() * 3)
  files.write_sums(base, ["a.bin", "b/c.bin"])
  victim = data.draw(st.sampled_from(["a.bin", "b/c.bin", files.SUMS]))
  before = (base / victim).read_bytes()
  (base / victim).write_bytes(after := data.draw(damaged(before)))
  problems = files.check_sums(base)
  if after == before:
    assert not problems
  elif victim != files.SUMS:
    assert [problem.path for problem in problems] == [base / victim]
  assert all(str(base) in str(problem) for problem in problems)


# --- Checkpoints ------------------------------------------------------------------------------


@given(data=st.data())
def test_damaged_checkpoints(tmp_path_factory, data):
  path = tmp_path_factory.getbasetemp() / "nest.npz"
  checkpoints.save_nest(path, _NEST)
  path.write_bytes(data.draw(damaged(path.read_bytes())))
  try:
    found = checkpoints.load_nest(path, _NEST)
  except (checkpoints.CorruptCheckpointError, checkpoints.CheckpointMismatchError) as error:
    assert str(path) in str(error)
  else:
    np.testing.assert_array_equal(found["weights"], _NEST["weights"])
    assert (found["step"], found["progress"]) == (7, '{"epoch": 1}')


# --- Shards and manifests ---------------------------------------------------------------------


@given(data=st.data())
def test_damaged_shards(folder, sound, data):
  name = data.draw(st.sampled_from(["shard-00000.tfrecord", "shard-00001.tfrecord"]))
  after = data.draw(damaged(sound[name]))
  (folder / name).write_bytes(after)
  manifest = rollouts.load_manifest(folder)
  shard = next(shard for shard in manifest.shards if shard.file == name)
  if after == sound[name]:
    rollouts.check_records(folder, shard)
    return
  for read in (
    lambda: rollouts.check_records(folder, shard),
    lambda: list(
      datasets.observations_dataset(
        folder, batch_size=1, seed=None, split="all"
      ).as_numpy_iterator()
    ),
  ):
    with pytest.raises(CorruptShardError, match=name):
      read()
  (folder / name).write_bytes(sound[name])


@given(data=st.data())
def test_damaged_rows(folder, data):
  made = folder.with_name(f"{folder.name}_rows")
  (shard, *_) = datasets.cache_frames(folder, made).shards
  sound = (made / shard.file).read_bytes()
  after = data.draw(damaged(sound))
  (made / shard.file).write_bytes(after)

  def frames():
    return list(datasets.observations_dataset(made, batch_size=1, seed=0, split="all"))

  try:
    if after == sound:
      repair.verify(made)
      frames()
      return
    for read in (lambda: repair.verify(made), frames):
      with pytest.raises(CorruptShardError, match=shard.file):
        read()
  finally:
    (made / shard.file).write_bytes(sound)


@given(data=st.data())
def test_records_of_something_else(folder, sound, data):
  """Records whose checksums hold, of bytes that are not, or not quite, an episode."""
  path = folder / "shard-00000.tfrecord"
  path.write_bytes(sound[path.name])
  record = data.draw(damaged(next(tf.data.TFRecordDataset(str(path)).as_numpy_iterator())))
  with tf.io.TFRecordWriter(str(path)) as writer:
    writer.write(record)
  manifest = rollouts.load_manifest(folder)
  lying = manifest.shards[0]._replace(
    bytes=path.stat().st_size, episodes=manifest.shards[0].episodes[:1]
  )
  try:
    ((episode, info),) = rollouts.read_episodes(folder, [lying])
  except CorruptShardError as error:
    assert error.path == path
  else:
    for name, array in unpack(episode.observation).items():
      assert (array.shape[1:], array.dtype) == manifest.arrays[name]
    assert info.steps == len(episode.reward)
  finally:
    path.write_bytes(sound["shard-00000.tfrecord"])


@given(data=st.data())
def test_damaged_manifests(folder, sound, data):
  path = folder / "manifest.json"
  expected = rollouts.load_manifest(folder)
  path.write_bytes(data.draw(damaged(sound["manifest.json"])))
  try:
    assert rollouts.load_manifest(folder) == expected
  except CorruptManifestError as error:
    assert str(path) in str(error)
  finally:
    path.write_bytes(sound["manifest.json"])


@given(data=st.data())
def test_manifests_of_something_else(folder, sound, data):
  """Values of other types and sizes, under a checksum that holds; then whatever reads shards."""
  content = json.loads(sound["manifest.json"])
  del content["sha256"]
  _change(content, data)
  path = folder / "manifest.json"
  files.write_json(path, content)
  try:
    rollouts.load_manifest(folder)
    list(rollouts.read_episodes(folder))
    frames = datasets.observations_dataset(folder, batch_size=1, seed=0, split="all")
    list(frames.take(2).as_numpy_iterator())
  except (CorruptManifestError, CorruptShardError) as error:
    assert str(folder) in str(error)
  except ValueError as error:  # Fewer frames than a batch, or none.
    assert "batch" in str(error) or "No episodes" in str(error), error
  finally:
    path.write_bytes(sound["manifest.json"])


def _change(content, data) -> None:
  """Replaces, removes or adds one value, anywhere inside."""
  places = []

  def walk(node):
    for key in list(node) if isinstance(node, dict) else range(len(node)):
      places.append((node, key))
      if isinstance(node[key], dict | list):
        walk(node[key])

  walk(content)
  node, key = places[data.draw(st.integers(0, len(places) - 1))]
  kind = data.draw(st.sampled_from(["replace", "remove", "add"]))
  if kind == "remove":
    del node[key]
  elif kind == "add" and isinstance(node, dict):
    node[data.draw(st.text(max_size=5))] = data.draw(_JSON)
  else:
    node[key] = data.draw(_JSON | st.integers(-5, 5))
