import os

import numpy as np
import pytest

from tests.data import helpers
from wm_tf.data import datasets, repair, rollouts, rows
from wm_tf.data.manifest import CorruptManifestError
from wm_tf.data.rollouts import CorruptShardError


def _encode(frames):
  return np.asarray(frames[:, 0, :3, 0], np.float32)


@pytest.fixture(params=["frames", "latents"])
def folder(request, tmp_path):
  """Nine episodes of four steps in three shards, decoded or encoded."""
  source, folder = tmp_path / "source", tmp_path / "made"
  helpers.write_noise(source)
  if request.param == "frames":
    datasets.cache_frames(source, folder)
  else:
    datasets.write_latents(source, folder, _encode, fingerprint="a")
  return folder


def _read(folder, seed=0):
  data = datasets.sequences_dataset(
    folder, sequence_length=3, batch_size=4, seed=seed, split="all", drop_remainder=False
  )
  return list(data.as_numpy_iterator())


def test_rows_hold_aligned_steps(folder):
  manifest = rollouts.load_manifest(folder)
  row = rows.row_type(manifest)
  for shard in manifest.shards:
    found = np.fromfile(folder / shard.file, row)
    assert len(found) == shard.num_steps == 12
    episodes = rollouts.read_episodes(folder.with_name("source"))
    expected = [rows.align(e) for e, info in episodes if info in shard.episodes]
    for name in ("prev_action", "reward", "discount", "is_first"):
      values = np.concatenate([getattr(batch, name) for batch in expected])
      np.testing.assert_array_equal(found[name], values)
    frames = np.concatenate([batch.observation for batch in expected])
    made = frames if row["observation"].base == np.uint8 else _encode(frames)
    np.testing.assert_array_equal(found["observation"], made)


def test_any_changed_byte_is_found(folder):
  """By whoever reads the row, and by a check of the whole; a hole too."""
  manifest = rollouts.load_manifest(folder)
  row = rows.row_type(manifest)
  shard = manifest.shards[1]
  path = folder / shard.file
  intact = path.read_bytes()
  chance = np.random.default_rng(0)
  places = [0, len(intact) - 1, *chance.integers(len(intact), size=6).tolist()]
  for place in places:
    content = bytearray(intact)
    content[place] ^= 1 << int(chance.integers(8))
    path.write_bytes(content)
    for read in (_read, repair.verify):
      with pytest.raises(CorruptShardError, match="checksum does not match") as caught:
        read(folder)
      assert (caught.value.path, caught.value.record) == (path, place // row.itemsize)
  size = row.itemsize
  for content in (
    intact[:size] + bytes(size) + intact[2 * size :],
    intact[size : 2 * size] + intact[:size] + intact[2 * size :],
    intact[:8][::-1] + intact[8:],
    intact[8:16] + intact[:8] + intact[16:],
  ):
    path.write_bytes(content)
    with pytest.raises(CorruptShardError, match="checksum does not match"):
      _read(folder)
  path.write_bytes(intact)
  repair.verify(folder)


def test_truncated_missing_and_other_files_are_named(folder):
  first, second, third = (folder / s.file for s in rollouts.load_manifest(folder).shards)
  data = datasets.episodes_dataset(folder)
  size = second.stat().st_size
  os.truncate(second, size - 10)
  for read in (lambda: list(data), lambda: _read(folder), lambda: repair.verify(folder)):
    with pytest.raises(CorruptShardError, match=str(second)):
      read()
  first.unlink()
  with pytest.raises(CorruptShardError, match=f"{first}: .*missing"):
    _read(folder)
  # Sound rows of other episodes: the checksum in the manifest tells.
  manifest = rollouts.load_manifest(folder)
  third.write_bytes(_other_rows(folder, manifest))
  with pytest.raises(CorruptShardError, match="not the one that the manifest describes"):
    rollouts.check_records(folder, manifest.shards[2])
  assert [error.path for error in repair.find_corrupt(folder)] == [first, second, third]


def _other_rows(folder, manifest):
  row = rows.row_type(manifest)
  found = np.fromfile(folder / manifest.shards[2].file, row)
  batch = rows.Batch(*(found[name] for name in rows.Batch._fields[:-1]), mask=None)
  return rows.pack(batch._replace(reward=batch.reward + 1), row).tobytes()


def test_a_killed_writer_goes_on(folder):
  """What is there of `folder` is kept, and what a killed writer left is removed."""
  source, whole = folder.with_name("source"), helpers.contents(folder)
  manifest = rollouts.load_manifest(folder)
  rollouts.save_manifest(folder, manifest._replace(shards=manifest.shards[:1]))
  (folder / ".shard-00001.rows.tmp").write_bytes(b"begun")
  seen = []
  options = {"on_progress": lambda done, total: seen.append((done, total))}
  if manifest.fingerprint:
    datasets.write_latents(source, folder, _encode, fingerprint="a", **options)
  else:
    datasets.cache_frames(source, folder, **options)
  assert seen == [(6, 9), (9, 9)]
  assert helpers.contents(folder) == whole


def test_more_files_than_are_kept_open(folder, monkeypatch):
  monkeypatch.setattr(rows, "_MAX_OPEN", 2)
  before = len(os.listdir("/proc/self/fd"))
  assert len(_read(folder)) > 1
  assert len(os.listdir("/proc/self/fd")) <= before + 2


def test_rows_are_no_rollouts(folder):
  with pytest.raises(ValueError, match="holds rows"):
    list(rollouts.read_episodes(folder))
  with pytest.raises(ValueError, match="nothing to encode"):
    datasets.cache_frames(folder, folder.with_name("again"))


def test_a_manifest_of_impossible_rows(folder):
  manifest = rollouts.load_manifest(folder)._replace(observation_shape=(1 << 40,))
  with pytest.raises(CorruptManifestError, match="no rows"):
    rows.row_type(manifest)
