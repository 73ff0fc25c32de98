import json

import numpy as np
import pytest

from tests.data import helpers
from wm_tf.core import Episode
from wm_tf.data import repair, rollouts
from wm_tf.data.rollouts import CorruptShardError

_EPISODES_PER_SHARD = 3


def _record_sizes(folder, shard):
  """Bytes of each record of a shard, by the framing in the file: length, crc, data, crc."""
  data, sizes = (folder / shard.file).read_bytes(), []
  while sum(sizes) < len(data):
    start = sum(sizes)
    sizes.append(16 + int.from_bytes(data[start : start + 8], "little"))
  return sizes


def _flip(path, position):
  data = bytearray(path.read_bytes())
  data[position] ^= 0x10
  path.write_bytes(data)


def test_what_is_read_is_what_was_written(tmp_path):
  helpers.write_noise(tmp_path, num_episodes=5, steps=4)
  found = list(rollouts.read_episodes(tmp_path))
  assert len(found) == 5
  for seed, (episode, info) in enumerate(found):
    expected, expected_info = helpers.noise_episode(seed, 4)
    assert info == expected_info._replace(episode_return=float(np.float32(0.1 * seed)))
    for name, value in expected._asdict().items():
      assert getattr(episode, name).dtype == value.dtype
      np.testing.assert_array_equal(getattr(episode, name), value, err_msg=name)


def test_the_manifest_says_what_is_there(tmp_path):
  helpers.write_noise(tmp_path, num_episodes=5, steps=4, episodes_per_shard=3)
  content = json.loads((tmp_path / "manifest.json").read_text())
  assert content["environment"] == {"name": "noise", "options": {}}
  assert [s["num_episodes"] for s in content["shards"]] == [3, 2]
  assert [s["num_steps"] for s in content["shards"]] == [12, 8]
  for shard in content["shards"]:
    assert shard["bytes"] == (tmp_path / shard["file"]).stat().st_size
  assert content["shards"][1]["episodes"][0] == {
    "seed": 3,
    "policy": "noise3",
    "iteration": 0,
    "episode_return": pytest.approx(0.3),
    "frames": 9,
    "steps": 4,
  }
  assert repair.verify(tmp_path) == rollouts.load_manifest(tmp_path)
  assert {p.name for p in tmp_path.iterdir()} == {
    "manifest.json",
    "shard-00000.tfrecord",
    "shard-00001.tfrecord",
  }


def test_appending_to_a_folder(tmp_path):
  helpers.write_noise(tmp_path, num_episodes=3)
  before = helpers.contents(tmp_path)
  more = [helpers.noise_episode(seed, 4) for seed in (7, 8)]
  manifest = rollouts.write_dataset(tmp_path, more, helpers.HEADER)
  assert [info.seed for info in manifest.episodes] == [0, 1, 2, 7, 8]
  assert helpers.contents(tmp_path)["shard-00000.tfrecord"] == before["shard-00000.tfrecord"]
  repair.verify(tmp_path)


@pytest.mark.parametrize("shard_index", [0, 1, 2])
@pytest.mark.parametrize("record", [0, 1, 2])
def test_a_flipped_byte_is_found(tmp_path, shard_index, record):
  manifest = helpers.write_noise(tmp_path, episodes_per_shard=_EPISODES_PER_SHARD)
  shard = manifest.shards[shard_index]
  path = tmp_path / shard.file
  sizes = _record_sizes(tmp_path, shard)
  start, size = sum(sizes[:record]), sizes[record]
  intact = path.read_bytes()
  # In the length, its checksum, the data (first, middle, last byte), and their checksum.
  for position in (0, 5, 9, 12, size // 2, size - 5, size - 1):
    _flip(path, start + position)
    with pytest.raises(CorruptShardError) as caught:
      rollouts.check_records(tmp_path, shard)
    assert (caught.value.path, caught.value.record, caught.value.offset) == (path, record, start)
    for part in (str(path), f"record {record} ", f"byte {start}:", "repair(", "collect"):
      assert part in str(caught.value)
    path.write_bytes(intact)
  rollouts.check_records(tmp_path, shard)


@pytest.mark.parametrize("record", [0, 1, 2])
@pytest.mark.parametrize("where", ["boundary", "header", "data", "checksum"])
def test_a_truncated_shard_is_found_before_it_is_read(tmp_path, record, where):
  manifest = helpers.write_noise(tmp_path)
  shard = manifest.shards[1]
  sizes = _record_sizes(tmp_path, shard)
  start, size = sum(sizes[:record]), sizes[record]
  path = tmp_path / shard.file
  keep = start + {"boundary": 0, "header": 7, "data": size // 2, "checksum": size - 2}[where]
  path.write_bytes(path.read_bytes()[:keep])
  with pytest.raises(CorruptShardError) as caught:
    rollouts.check_size(tmp_path, shard)
  assert (caught.value.path, caught.value.record, caught.value.offset) == (path, record, start)


def test_other_damage_is_found(tmp_path):
  manifest = helpers.write_noise(tmp_path)
  first, second, third = (tmp_path / shard.file for shard in manifest.shards)
  first.unlink()
  second.write_bytes(second.read_bytes() + b"more")
  third.write_bytes(third.read_bytes()[::-1])
  with pytest.raises(CorruptShardError):
    repair.verify(tmp_path)
  errors = repair.find_corrupt(tmp_path)
  assert [error.path for error in errors] == [first, second, third]
  assert "missing" in str(errors[0])
  assert errors[1].record == 3


def test_a_whole_shard_of_other_episodes_is_found(tmp_path):
  manifest = helpers.write_noise(tmp_path)
  first, second, _ = (tmp_path / shard.file for shard in manifest.shards)
  if first.stat().st_size != second.stat().st_size:
    pytest.skip("The sizes tell them apart already.")
  first.write_bytes(second.read_bytes())
  with pytest.raises(CorruptShardError, match="not the one"):
    repair.verify(tmp_path)


def test_repair_drops_the_bad_and_keeps_the_good(tmp_path):
  manifest = helpers.write_noise(tmp_path)
  _flip(tmp_path / manifest.shards[1].file, 1000)
  (tmp_path / ".shard-00007.tfrecord.tmp").write_bytes(b"left over")
  (error,) = repair.repair(tmp_path)
  assert error.path.name == manifest.shards[1].file
  repaired = repair.verify(tmp_path)
  assert [info.seed for info in repaired.episodes] == [0, 1, 2, 6, 7, 8]
  assert len(helpers.contents(tmp_path)) == 3
  assert repair.repair(tmp_path) == []
  # The next shard does not take the name of one that is there.
  again = [helpers.noise_episode(seed, 4) for seed in (3, 4, 5)]
  rollouts.write_dataset(tmp_path, again, helpers.HEADER)
  assert {info.seed for _, info in rollouts.read_episodes(tmp_path)} == set(range(9))


def test_a_shard_appears_only_when_whole(tmp_path):
  def names():
    return {path.name for path in tmp_path.iterdir()}

  with rollouts.ShardWriter(tmp_path, helpers.HEADER, episodes_per_shard=2) as writer:
    writer.add(*helpers.noise_episode(0, 3))
    assert "shard-00000.tfrecord" not in names()
    writer.add(*helpers.noise_episode(1, 3))
    assert "shard-00000.tfrecord" in names()
    writer.add(*helpers.noise_episode(2, 3))
    assert "shard-00001.tfrecord" not in names()
    repair.verify(tmp_path)
  assert names() == {"manifest.json", "shard-00000.tfrecord", "shard-00001.tfrecord"}


def test_an_exception_drops_the_unfinished_shard(tmp_path):
  with (
    pytest.raises(KeyboardInterrupt),
    rollouts.ShardWriter(tmp_path, helpers.HEADER, episodes_per_shard=2) as writer,
  ):
    for seed in range(3):
      writer.add(*helpers.noise_episode(seed, 3))
    raise KeyboardInterrupt
  assert [info.seed for info in repair.verify(tmp_path).episodes] == [0, 1]
  assert set(helpers.contents(tmp_path)) == {"manifest.json", "shard-00000.tfrecord"}


def test_one_writer_at_a_time(tmp_path):
  with (
    rollouts.ShardWriter(tmp_path, helpers.HEADER),
    pytest.raises(RuntimeError, match="in use by another process"),
  ):
    rollouts.ShardWriter(tmp_path, helpers.HEADER)
  rollouts.ShardWriter(tmp_path, helpers.HEADER).close()


@pytest.mark.parametrize(
  "change",
  [
    {"environment": {"name": "noise", "options": {"level": 2}}},
    {"action_size": 3},
    {"fingerprint": "other"},
    {"observation_shape": (32, 32, 3)},
  ],
)
def test_other_data_is_refused(tmp_path, change):
  helpers.write_noise(tmp_path, num_episodes=1)
  with pytest.raises(ValueError, match=next(iter(change))):
    rollouts.ShardWriter(tmp_path, helpers.HEADER._replace(**change))


def _change(**changes):
  episode, info = helpers.noise_episode(5, 4)
  return Episode(**{**episode._asdict(), **changes}), info


@pytest.mark.parametrize(
  ("name", "value"),
  [
    ("action", np.zeros((4, 3), np.float32)),
    ("action", np.zeros((4, 2), np.float64)),
    ("reward", np.array([0, 1, np.nan, 0], np.float32)),
    ("observation", np.zeros((3, 64, 64, 3), np.uint8)),
    ("is_first", np.zeros(4, np.int64)),
  ],
)
def test_an_episode_that_does_not_fit_is_refused(tmp_path, name, value):
  with pytest.raises(ValueError, match=f"seed 5: {name}"):
    rollouts.write_dataset(tmp_path, [_change(**{name: value})], helpers.HEADER)


def test_manifests_that_cannot_be_read(tmp_path):
  with pytest.raises(FileNotFoundError, match="no rollouts here"):
    rollouts.load_manifest(tmp_path)
  helpers.write_noise(tmp_path, num_episodes=1)
  path = tmp_path / "manifest.json"
  intact = path.read_text()
  for text in (
    intact[:100],
    "[]",
    "{}",
    intact.replace('"format_version": 2', '"format_version": 3'),
    intact.replace('"seed": 0', '"seed": 1'),
  ):
    path.write_text(text)
    with pytest.raises(ValueError, match=r"manifest\.json.*collect again"):
      rollouts.load_manifest(tmp_path)
