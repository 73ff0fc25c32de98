import collections
import os

import numpy as np
import pytest
import tensorflow as tf

from tests import fakes
from tests.data import helpers
from wm_tf.core import Batch
from wm_tf.data import datasets, rollouts
from wm_tf.data.rollouts import CorruptShardError

_SEEDS = range(20)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """Twenty episodes of `CountingEnv`, through worker processes and disk, in five shards."""
  folder = tmp_path_factory.mktemp("counting")
  helpers.collect_counting(folder, _SEEDS)
  return folder


@pytest.fixture(scope="module")
def noise(tmp_path_factory):
  """Nine episodes of incompressible noise, in three shards."""
  folder = tmp_path_factory.mktemp("noise")
  helpers.write_noise(folder)
  return folder


def _check_alignment(row, value) -> int:
  seed = helpers.check_alignment(row, value)
  helpers.check_actions(row, value, seed)
  return seed


@pytest.mark.parametrize("length", [2, 5, 8, 40])
def test_alignment_and_every_transition_once(folder, length):
  for seed, epoch in ((1, 0), (1, 1), (None, 0)):
    transitions = collections.Counter()
    for row in helpers.rows_of(helpers.sequences(folder, length, seed=seed, epoch=epoch)):
      assert row.observation.shape == (length, 64, 64, 3)
      assert (row.observation == row.observation[:, :1, :1, :1]).all()
      value = row.observation[:, 0, 0, 0].astype(int)
      episode = _check_alignment(row, value)
      transitions.update((episode, t) for t in value[row.mask][1:])
    expected = {(s, t) for s in _SEEDS for t in range(1, fakes.num_decisions(s) + 1)}
    assert transitions == collections.Counter(expected)


def test_alignment_of_whole_episodes(folder):
  rows = helpers.rows_of(datasets.episodes_dataset(folder, batch_size=6))
  values = [row.observation[:, 0, 0, 0].astype(int) for row in rows]
  assert [_check_alignment(*pair) for pair in zip(rows, values, strict=True)] == list(_SEEDS)
  assert [row.mask.sum() for row in rows] == [fakes.num_decisions(s) + 1 for s in _SEEDS]
  assert {row.mask.shape for row in rows} == {(17,)}
  short = helpers.rows_of(datasets.episodes_dataset(folder, batch_size=6, num_steps=4))
  for row, whole in zip(short, rows, strict=True):
    assert helpers.equal(row, Batch(*(field[:4] for field in whole)))


def test_every_frame_once(folder):
  for seed in (0, None):
    data = datasets.observations_dataset(
      folder, batch_size=16, seed=seed, split="all", drop_remainder=False
    )
    frames = np.concatenate(list(data.as_numpy_iterator()))
    assert frames.dtype == np.uint8 and frames.shape[1:] == (64, 64, 3)
    expected = [t for s in _SEEDS for t in range(fakes.num_decisions(s) + 1)]
    values = frames[:, 0, 0, 0].tolist()
    assert sorted(values) == sorted(expected)
    assert (values == expected) == (seed is None)


@pytest.mark.parametrize("drop_remainder", [True, False])
def test_cardinality_and_shapes(folder, drop_remainder):
  options = {"batch_size": 8, "seed": 3, "drop_remainder": drop_remainder}
  made = [
    datasets.observations_dataset(folder, **options),
    *(
      datasets.sequences_dataset(folder, sequence_length=n, epoch=n, **options)
      for n in (2, 3, 6, 20)
    ),
  ]
  for data in made:
    batches = list(data)
    assert len(batches) == data.cardinality()
    for batch in batches if drop_remainder else batches[:-1]:
      assert {field.shape[0] for field in tf.nest.flatten(batch)} == {8}
  assert made[1].element_spec.observation.shape[1:] == (2, 64, 64, 3)
  assert (made[1].element_spec.observation.shape[0] == 8) == drop_remainder


def test_order_depends_on_seed_and_epoch_alone(noise):
  def make(seed, epoch):
    return helpers.rows_of(helpers.sequences(noise, 3, 4, seed=seed, epoch=epoch))

  first = make(1, 0)
  assert helpers.equal(first, make(1, 0))
  assert not helpers.equal(first, make(1, 1))
  assert not helpers.equal(first, make(2, 0))

  def frames(seed, epoch):
    return list(datasets.observations_dataset(noise, batch_size=4, seed=seed, epoch=epoch))

  assert np.array_equal(frames(1, 0), frames(1, 0))
  assert not np.array_equal(frames(1, 0), frames(1, 1))


@pytest.fixture(params=["rollouts", "frames", "latents", "rollouts and frames"])
def source(request, noise, tmp_path):
  """The nine episodes as they were collected, decoded, and encoded; and the first two together."""
  if request.param == "rollouts":
    return noise
  if request.param == "latents":
    datasets.write_latents(noise, tmp_path, helpers.encode, fingerprint="a")
    return tmp_path
  datasets.cache_frames(noise, tmp_path)
  return [noise, tmp_path] if "and" in request.param else tmp_path


def test_the_rest_of_an_epoch(source):
  for options in ({}, {"shuffle_buffer": 2}):

    def make(options=options):
      return helpers.sequences(source, 3, 4, epoch=3, **options)

    whole = helpers.rows_of(make())
    for n in (0, 1, 2, 4):
      assert helpers.equal(helpers.rows_of(make().skip(n)), whole[4 * n :])
      assert helpers.equal(helpers.rows_of(make().take(n)), whole[: 4 * n])
      assert int(make().skip(n).cardinality()) == len(make()) - n
    assert helpers.equal(helpers.rows_of(make().skip(1).take(2).skip(1)), whole[8:12])
    assert not helpers.rows_of(make().skip(100)) and not helpers.rows_of(make().take(0))


def test_what_is_skipped_is_not_read(noise, tmp_path):
  datasets.write_latents(noise, tmp_path, helpers.encode, fingerprint="a")
  data = datasets.episodes_dataset(tmp_path)
  (tmp_path / "shard-00000.rows").unlink()
  assert len(helpers.rows_of(data.skip(3))) == 6
  with pytest.raises(CorruptShardError, match=r"shard-00000\.rows.*missing"):
    helpers.rows_of(data.skip(2))


def test_other_ops_may_follow(source):
  """Then TensorFlow iterates, and gets the same."""
  data = helpers.sequences(source, 3, 4, drop_remainder=True)
  mapped = data.skip(1).map(lambda batch: batch).repeat(2)
  assert mapped.element_spec == data.element_spec
  assert helpers.equal(helpers.rows_of(mapped), 2 * helpers.rows_of(data)[4:])


def test_iterated_twice_at_once(source):
  data = helpers.sequences(source, 3, 4)
  for one, other in zip(data, data, strict=True):
    assert helpers.equal([one], [other])


def test_decoded_frames_are_the_frames(noise, tmp_path):
  def frames(folder, **options):
    data = datasets.observations_dataset(folder, batch_size=1, split="all", **options)
    return np.concatenate(list(data.as_numpy_iterator()))

  manifest = datasets.cache_frames(noise, tmp_path)
  assert manifest.episodes == rollouts.load_manifest(noise).episodes
  decoded = frames(tmp_path, seed=None)
  assert np.array_equal(decoded, frames(noise, seed=None))
  shuffled = frames(tmp_path, seed=0)
  assert not np.array_equal(decoded, shuffled)
  assert {frame.tobytes() for frame in decoded} == {frame.tobytes() for frame in shuffled}
  found, expected = (helpers.sequences(folder, seed=None) for folder in (tmp_path, noise))
  assert helpers.equal(helpers.rows_of(found), helpers.rows_of(expected))


def test_shuffling_mixes_episodes(folder):
  data = datasets.observations_dataset(folder, batch_size=50, seed=0, split="all")
  for batch in data:
    assert len(np.unique(batch[:, 0, 0, 0])) > 10


def test_splits(folder):
  def seeds(split, fraction):
    return {info.seed for info in datasets.select_episodes(folder, split, fraction)}

  train, held_out = seeds("train", 0.3), seeds("held_out", 0.3)
  assert train and held_out and not train & held_out
  assert train | held_out == set(_SEEDS) == seeds("all", 0.3)
  assert seeds("train", 0.0) == set(_SEEDS)
  for split, expected in (("train", train), ("held_out", held_out)):
    rows = helpers.rows_of(helpers.sequences(folder, 40, split=split, held_out_fraction=0.3))
    values = (row.observation[:, 0, 0, 0].astype(int) for row in rows)
    found = {_check_alignment(*pair) for pair in zip(rows, values, strict=True)}
    assert found - {-1} == expected
    data = datasets.observations_dataset(
      folder, batch_size=1, seed=0, split=split, held_out_fraction=0.3
    )
    assert len(list(data)) == sum(fakes.num_decisions(s) + 1 for s in expected)


def test_fewer_than_a_batch_are_one_smaller_batch(folder):
  (batch,) = datasets.observations_dataset(folder, batch_size=1000, seed=0)
  assert 200 < len(batch) < 300
  data = datasets.sequences_dataset(folder, sequence_length=9, batch_size=1000, seed=0)
  (batch,) = data
  assert data.element_spec.mask.shape == (None, 9) and 4 <= batch.mask.shape[0] < 100


def test_what_cannot_be_made_is_an_error(folder, noise, tmp_path):
  with pytest.raises(ValueError, match="No episodes for split 'held_out'"):
    datasets.observations_dataset(
      folder, batch_size=1, seed=0, split="held_out", held_out_fraction=0.0
    )
  with pytest.raises(ValueError, match='split must be "train"'):
    datasets.observations_dataset(folder, batch_size=1, seed=0, split="test")
  with pytest.raises(ValueError, match="sequence_length"):
    datasets.sequences_dataset(folder, sequence_length=1, batch_size=1, seed=0)
  with pytest.raises(FileNotFoundError, match="no rollouts here"):
    datasets.observations_dataset(tmp_path, batch_size=1, seed=0)
  for name in ("a", "b"):
    datasets.write_latents(noise, tmp_path / name, helpers.encode, fingerprint=name)
  with pytest.raises(ValueError, match="cannot be used together: fingerprint is 'a' and 'b'"):
    helpers.sequences([tmp_path / "a", tmp_path / "b"])
  with pytest.raises(ValueError, match="cannot be used together: observation_shape"):
    helpers.sequences([noise, tmp_path / "a"])
  with pytest.raises(ValueError, match="nothing to encode"):
    datasets.write_latents(tmp_path / "a", tmp_path / "c", helpers.encode, fingerprint="c")
  with pytest.raises(ValueError, match="fingerprint must not be empty"):
    datasets.write_latents(noise, tmp_path / "c", helpers.encode, fingerprint="")


def test_several_folders(folder, noise):
  data = datasets.observations_dataset(
    [folder, noise], batch_size=10, seed=0, split="all", drop_remainder=False
  )
  total = sum(len(batch) for batch in data)
  assert total == sum(fakes.num_decisions(s) + 1 for s in _SEEDS) + 36


@pytest.mark.parametrize("shard_index", [0, 1, 2])
@pytest.mark.parametrize("record", [0, 1, 2])
def test_a_damaged_record_is_named_while_iterating(tmp_path, shard_index, record):
  manifest = helpers.write_noise(tmp_path)
  path = tmp_path / manifest.shards[shard_index].file
  size = path.stat().st_size // 3
  data = bytearray(path.read_bytes())
  data[size * record + size // 2] ^= 1
  path.write_bytes(data)
  frames = datasets.observations_dataset(tmp_path, batch_size=4, seed=0, split="all")
  made = [helpers.sequences(tmp_path), frames, frames.take(100), frames.skip(1)]
  for dataset in made[:: 1 if record == 1 else 4]:
    with pytest.raises(CorruptShardError) as caught:
      list(dataset)
    assert (caught.value.path, caught.value.record) == (path, record)


def test_truncated_and_missing_shards_are_named(tmp_path):
  manifest = helpers.write_noise(tmp_path)
  data = helpers.sequences(tmp_path)
  path = tmp_path / manifest.shards[1].file
  os.truncate(path, manifest.shards[1].bytes - 10)
  with pytest.raises(CorruptShardError, match=r"record 2 .* truncated"):
    helpers.sequences(tmp_path)
  with pytest.raises(CorruptShardError, match=r"record 2 .* truncated"):
    list(data)
  path.unlink()
  with pytest.raises(CorruptShardError, match="missing"):
    helpers.sequences(tmp_path)
  with pytest.raises(CorruptShardError, match="missing"):
    list(data)


def _resident_bytes():
  with open("/proc/self/statm") as file:
    return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE")


@pytest.mark.slow
def test_memory_stays_flat_as_data_grows(tmp_path):
  """Ten times the data, 240 MB, must not need more than a fraction of it."""
  source, decoded = tmp_path / "rollouts", tmp_path / "frames"
  manifest = helpers.write_noise(source, num_episodes=20, steps=100, episodes_per_shard=4)
  datasets.cache_frames(source, decoded)

  def peak(times):
    highest = 0
    for folder in (source, decoded):
      common = dict(seed=0, shuffle_buffer=100)
      frames = datasets.observations_dataset([folder] * times, batch_size=50, **common)
      for data in (frames, helpers.sequences([folder] * times, 11, 8, **common)):
        for _ in data:
          highest = max(highest, _resident_bytes())
    return highest

  size = sum(info.steps for info in manifest.episodes) * 64 * 64 * 3
  once = max(peak(1) for _ in range(2))
  assert peak(10) - once < 2 * size  # Of the 9 that it grew by.
