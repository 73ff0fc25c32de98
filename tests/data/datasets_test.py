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


def _encode(frames):
  """Fake posteriors `float32[B, 4]`, different for different frames."""
  frames = np.asarray(frames, np.float32)
  return np.stack(
    [frames[:, 0, 0, 0], frames[:, 1, 1, 1], frames.mean((1, 2, 3)), -frames[:, 5, 5, 0]], 1
  )


def _sequences(folders, length=5, batch_size=7, seed=1, **options):
  options = {"split": "all", "drop_remainder": False, **options}
  return datasets.sequences_dataset(
    folders, sequence_length=length, batch_size=batch_size, seed=seed, **options
  )


def _rows(data):
  """The rows of a dataset of `Batch`, as NumPy `Batch`es `[T, ...]`."""
  return [Batch(*row) for batch in data.as_numpy_iterator() for row in zip(*batch, strict=True)]


def _equal(one, other):
  return len(one) == len(other) and all(
    np.array_equal(a, b) for x, y in zip(one, other, strict=True) for a, b in zip(x, y, strict=True)
  )


def _check_alignment(row: Batch, value: np.ndarray) -> int:
  """Checks a row of `CountingEnv` against its definition; `value[t]` is what frame t shows.

  Returns:
    The seed of its episode, or -1 if the row is a first frame alone.
  """
  valid = row.mask
  assert valid[0] and not (~valid[:-1] & valid[1:]).any(), "padding comes last"
  np.testing.assert_array_equal(value[valid], value[0] + np.arange(valid.sum()))
  np.testing.assert_array_equal(row.is_first, valid & (value == 0))
  arrived = valid & ~row.is_first
  # The action that led to frame t was chosen at frame t - 1, and says so.
  np.testing.assert_allclose(row.prev_action[arrived, 1], (value[arrived] - 1) / 100)
  # The reward that came with frame t is 100 seed + t + action.
  seeds = (row.reward - value - row.prev_action[:, 0]) / 100
  if not arrived.any():
    return -1
  seed = round(float(seeds[arrived][0]))
  np.testing.assert_allclose(seeds[arrived], seed, atol=1e-4)
  np.testing.assert_allclose(row.prev_action[arrived, 0], seed % 10 / 10)
  ended = valid & (value == fakes.num_decisions(seed)) & (seed % 2 == 0)
  np.testing.assert_array_equal(row.discount, np.where(ended, 0, 1))
  # Where nothing led to a frame, and on padding, there is nothing.
  assert not row.prev_action[~arrived].any() and not row.reward[~arrived].any()
  assert not row.observation[~valid].any()
  return seed


@pytest.mark.parametrize("length", [2, 5, 8, 40])
def test_alignment_and_every_transition_once(folder, length):
  for seed, epoch in ((1, 0), (1, 1), (None, 0)):
    transitions = collections.Counter()
    for row in _rows(_sequences(folder, length, seed=seed, epoch=epoch)):
      assert row.observation.shape == (length, 64, 64, 3)
      assert (row.observation == row.observation[:, :1, :1, :1]).all()
      value = row.observation[:, 0, 0, 0].astype(int)
      episode = _check_alignment(row, value)
      transitions.update((episode, t) for t in value[row.mask][1:])
    expected = {(s, t) for s in _SEEDS for t in range(1, fakes.num_decisions(s) + 1)}
    assert transitions == collections.Counter(expected)


def test_alignment_of_whole_episodes(folder):
  rows = _rows(datasets.episodes_dataset(folder, batch_size=6))
  values = [row.observation[:, 0, 0, 0].astype(int) for row in rows]
  assert [_check_alignment(*pair) for pair in zip(rows, values, strict=True)] == list(_SEEDS)
  assert [row.mask.sum() for row in rows] == [fakes.num_decisions(s) + 1 for s in _SEEDS]
  assert {row.mask.shape for row in rows} == {(17,)}
  short = _rows(datasets.episodes_dataset(folder, batch_size=6, num_steps=4))
  for row, whole in zip(short, rows, strict=True):
    assert _equal([row], [Batch(*(field[:4] for field in whole))])


def test_alignment_of_latents(folder, tmp_path):
  datasets.write_latents(folder, tmp_path, _encode, fingerprint="a", batch_size=16)
  transitions = 0
  for row in _rows(_sequences(tmp_path)):
    assert row.observation.shape == (5, 4) and row.observation.dtype == np.float32
    value = row.observation[:, 0]
    np.testing.assert_array_equal(row.observation[:, 3], -value)
    _check_alignment(row, value)
    transitions += row.mask[1:].sum()
  assert transitions == sum(map(fakes.num_decisions, _SEEDS))


def test_every_frame_once(folder):
  for seed in (0, None):
    data = datasets.frames_dataset(
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
    datasets.frames_dataset(folder, **options),
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
  make = lambda seed, epoch: _rows(_sequences(noise, 3, 4, seed=seed, epoch=epoch))
  first = make(1, 0)
  assert _equal(first, make(1, 0))
  assert not _equal(first, make(1, 1))
  assert not _equal(first, make(2, 0))
  frames = lambda seed, epoch: list(
    datasets.frames_dataset(noise, batch_size=4, seed=seed, epoch=epoch).as_numpy_iterator()
  )
  assert np.array_equal(frames(1, 0), frames(1, 0))
  assert not np.array_equal(frames(1, 0), frames(1, 1))


@pytest.fixture(params=["rollouts", "frames", "latents", "rollouts and frames"])
def source(request, noise, tmp_path):
  """The nine episodes as they were collected, decoded, and encoded; and the first two together."""
  if request.param == "rollouts":
    return noise
  if request.param == "latents":
    datasets.write_latents(noise, tmp_path, _encode, fingerprint="a")
    return tmp_path
  datasets.cache_frames(noise, tmp_path)
  return [noise, tmp_path] if "and" in request.param else tmp_path


def test_the_rest_of_an_epoch(source):
  for options in ({}, {"shuffle_buffer": 2}):
    make = lambda options=options: _sequences(source, 3, 4, epoch=3, **options)
    whole = _rows(make())
    for n in (0, 1, 2, 4):
      assert _equal(_rows(make().skip(n)), whole[4 * n :])
      assert _equal(_rows(make().take(n)), whole[: 4 * n])
      assert int(make().skip(n).cardinality()) == len(make()) - n
    assert _equal(_rows(make().skip(1).take(2).skip(1)), whole[8:12])
    assert not _rows(make().skip(100)) and not _rows(make().take(0))


def test_what_is_skipped_is_not_read(noise, tmp_path):
  datasets.write_latents(noise, tmp_path, _encode, fingerprint="a")
  data = datasets.episodes_dataset(tmp_path)
  (tmp_path / "shard-00000.rows").unlink()
  assert len(_rows(data.skip(3))) == 6
  with pytest.raises(CorruptShardError, match=r"shard-00000\.rows.*missing"):
    _rows(data.skip(2))


def test_other_ops_may_follow(source):
  """Then TensorFlow iterates, and gets the same."""
  data = _sequences(source, 3, 4, drop_remainder=True)
  mapped = data.skip(1).map(lambda batch: batch).repeat(2)
  assert mapped.element_spec == data.element_spec
  assert _equal(_rows(mapped), 2 * _rows(data)[4:])


def test_iterated_twice_at_once(source):
  data = _sequences(source, 3, 4)
  for one, other in zip(data, data, strict=True):
    assert _equal([one], [other])


def test_decoded_frames_are_the_frames(noise, tmp_path):
  frames = lambda folder, **options: np.concatenate(
    [*datasets.frames_dataset(folder, batch_size=1, split="all", **options).as_numpy_iterator()]
  )
  manifest = datasets.cache_frames(noise, tmp_path)
  assert manifest.episodes == rollouts.load_manifest(noise).episodes
  decoded = frames(tmp_path, seed=None)
  assert np.array_equal(decoded, frames(noise, seed=None))
  shuffled = frames(tmp_path, seed=0)
  assert not np.array_equal(decoded, shuffled)
  assert {frame.tobytes() for frame in decoded} == {frame.tobytes() for frame in shuffled}
  assert _equal(_rows(_sequences(tmp_path, seed=None)), _rows(_sequences(noise, seed=None)))


def test_shuffling_mixes_episodes(folder):
  data = datasets.frames_dataset(folder, batch_size=50, seed=0, split="all")
  for batch in data:
    assert len(np.unique(batch[:, 0, 0, 0])) > 10


def test_splits(folder):
  seeds = lambda split, fraction: {
    info.seed for info in datasets.select_episodes(folder, split, fraction)
  }
  train, held_out = seeds("train", 0.3), seeds("held_out", 0.3)
  assert train and held_out and not train & held_out
  assert train | held_out == set(_SEEDS) == seeds("all", 0.3)
  assert seeds("train", 0.0) == set(_SEEDS)
  for split, expected in (("train", train), ("held_out", held_out)):
    rows = _rows(_sequences(folder, 40, split=split, held_out_fraction=0.3))
    values = (row.observation[:, 0, 0, 0].astype(int) for row in rows)
    found = {_check_alignment(*pair) for pair in zip(rows, values, strict=True)}
    assert found - {-1} == expected
    data = datasets.frames_dataset(folder, batch_size=1, seed=0, split=split, held_out_fraction=0.3)
    assert len(list(data)) == sum(fakes.num_decisions(s) + 1 for s in expected)


def test_an_episode_stays_on_its_side_as_data_grows():
  few, many = datasets.held_out_seeds(range(50), 0.2), datasets.held_out_seeds(range(1000), 0.2)
  assert few == {seed for seed in many if seed < 50}
  assert 150 < len(many) < 250


def test_something_is_held_out_of_few_episodes():
  for seeds in ([1, 2], [5, 6, 7]):
    assert len(datasets.held_out_seeds(seeds, 0.01)) == 1
  assert datasets.held_out_seeds([1], 0.01) == set()
  assert datasets.held_out_seeds([1, 2], 0.0) == set()


def test_what_cannot_be_made_is_an_error(folder, noise, tmp_path):
  with pytest.raises(ValueError, match="No episodes for split 'held_out'"):
    datasets.frames_dataset(folder, batch_size=1, seed=0, split="held_out", held_out_fraction=0.0)
  with pytest.raises(ValueError, match="less than a batch of 1000"):
    datasets.frames_dataset(folder, batch_size=1000, seed=0)
  with pytest.raises(ValueError, match='split must be "train"'):
    datasets.frames_dataset(folder, batch_size=1, seed=0, split="test")
  with pytest.raises(ValueError, match="sequence_length"):
    datasets.sequences_dataset(folder, sequence_length=1, batch_size=1, seed=0)
  with pytest.raises(FileNotFoundError, match="no rollouts here"):
    datasets.frames_dataset(tmp_path, batch_size=1, seed=0)
  for name in ("a", "b"):
    datasets.write_latents(noise, tmp_path / name, _encode, fingerprint=name)
  with pytest.raises(ValueError, match="cannot be used together: fingerprint is 'a' and 'b'"):
    _sequences([tmp_path / "a", tmp_path / "b"])
  with pytest.raises(ValueError, match="cannot be used together: observation_shape"):
    _sequences([noise, tmp_path / "a"])
  with pytest.raises(ValueError, match="does not hold frames"):
    datasets.write_latents(tmp_path / "a", tmp_path / "c", _encode, fingerprint="c")


def test_several_folders(folder, noise):
  data = datasets.frames_dataset(
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
  frames = datasets.frames_dataset(tmp_path, batch_size=4, seed=0, split="all")
  made = [_sequences(tmp_path), frames, frames.take(100), frames.skip(1)]
  for dataset in made[:: 1 if record == 1 else 4]:
    with pytest.raises(CorruptShardError) as caught:
      list(dataset)
    assert (caught.value.path, caught.value.record) == (path, record)


def test_truncated_and_missing_shards_are_named(tmp_path):
  manifest = helpers.write_noise(tmp_path)
  data = _sequences(tmp_path)
  path = tmp_path / manifest.shards[1].file
  os.truncate(path, manifest.shards[1].bytes - 10)
  with pytest.raises(CorruptShardError, match=r"record 2 .* truncated"):
    _sequences(tmp_path)
  with pytest.raises(CorruptShardError, match=r"record 2 .* truncated"):
    list(data)
  path.unlink()
  with pytest.raises(CorruptShardError, match="missing"):
    _sequences(tmp_path)
  with pytest.raises(CorruptShardError, match="missing"):
    list(data)


class _Encoder:
  """Counts what it encodes."""

  def __init__(self, offset=0.0):
    self.num_frames, self.shapes, self.offset = 0, set(), offset

  def __call__(self, frames):
    self.num_frames += len(frames)
    self.shapes.add(frames.shape)
    return _encode(frames) + self.offset


def test_latents_keep_what_is_there(tmp_path):
  frames, latents = tmp_path / "frames", tmp_path / "latents"
  helpers.write_noise(frames, num_episodes=6)
  first = _Encoder()
  datasets.write_latents(frames, latents, first, fingerprint="a", batch_size=5)
  assert first.shapes == {(5, 64, 64, 3)} and first.num_frames == 2 * 15
  assert rollouts.load_manifest(latents).episodes == rollouts.load_manifest(frames).episodes
  rows = _rows(datasets.episodes_dataset(latents))
  for row, (source, _) in zip(rows, rollouts.read_episodes(frames), strict=True):
    np.testing.assert_allclose(row.observation, _encode(source.observation), rtol=1e-6)
    assert _equal([row[1:]], [datasets.align(source)[1:]])

  again = _Encoder()
  datasets.write_latents(frames, latents, again, fingerprint="a", batch_size=5)
  assert again.num_frames == 0
  more = [helpers.noise_episode(seed, 4) for seed in (6, 7, 8)]
  rollouts.write_dataset(frames, more, helpers.HEADER)
  seen = []
  manifest = datasets.write_latents(
    frames, latents, again, fingerprint="a", batch_size=5, on_progress=lambda *a: seen.append(a)
  )
  assert again.num_frames == 15 and seen == [(9, 9)]
  assert [info.seed for info in manifest.episodes] == list(range(9))

  other = _Encoder(offset=1.0)
  datasets.write_latents(frames, latents, other, fingerprint="b", batch_size=5)
  assert other.num_frames == 45
  assert rollouts.verify(latents).fingerprint == "b"


def test_latents_of_an_older_version(noise, tmp_path):
  """Records: they are read as they are, and made anew as rows when that is next asked for."""
  old, new = tmp_path / "old", tmp_path / "new"
  header = rollouts.load_manifest(noise)._replace(
    observation_shape=(4,), observation_dtype="float32", fingerprint="a"
  )
  with rollouts.ShardWriter(old, header, episodes_per_shard=100) as writer:
    for shard in header.shards:
      for episode, info in rollouts.read_episodes(noise, [shard]):
        writer.add(episode._replace(observation=_encode(episode.observation)), info)
      writer.flush(source=shard.sha256)
  datasets.write_latents(noise, new, _encode, fingerprint="a")
  assert _equal(_rows(_sequences(old, seed=None)), _rows(_sequences(new, seed=None)))
  datasets.write_latents(noise, old, _encode, fingerprint="a")
  assert helpers.contents(old) == helpers.contents(new)


def test_an_encoder_that_makes_nan(noise, tmp_path):
  with pytest.raises(ValueError, match=f"NaN or infinity of frames in {noise}"):
    datasets.write_latents(noise, tmp_path, lambda x: _encode(x) * np.nan, fingerprint="a")


def test_latents_follow_their_frames(tmp_path):
  """Shards dropped on either side, and a writer that was killed."""
  frames, latents = tmp_path / "frames", tmp_path / "latents"
  helpers.write_noise(frames)
  datasets.write_latents(frames, latents, _encode, fingerprint="a")
  whole = helpers.contents(latents)

  def stop(done, total):
    raise KeyboardInterrupt

  (latents / "shard-00001.rows").write_bytes(b"")
  with pytest.raises(KeyboardInterrupt):
    datasets.write_latents(frames, latents, _encode, fingerprint="a", on_progress=stop)
  assert len(rollouts.verify(latents).shards) == 2
  datasets.write_latents(frames, latents, _encode, fingerprint="a")
  assert helpers.contents(latents) == whole

  (frames / "shard-00001.tfrecord").write_bytes(b"")
  rollouts.repair(frames)
  manifest = datasets.write_latents(frames, latents, _encode, fingerprint="a")
  assert [info.seed for info in manifest.episodes] == [0, 1, 2, 6, 7, 8]
  assert len(helpers.contents(latents)) == 3


def _resident_bytes():
  with open("/proc/self/statm") as file:
    return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE")


def test_memory_stays_flat_as_data_grows(tmp_path):
  """Ten times the data, 240 MB, must not need more than a fraction of it."""
  source, decoded = tmp_path / "rollouts", tmp_path / "frames"
  manifest = helpers.write_noise(source, num_episodes=20, steps=100, episodes_per_shard=4)
  datasets.cache_frames(source, decoded)

  def peak(times):
    highest = 0
    for folder in (source, decoded):
      common = dict(seed=0, shuffle_buffer=100)
      frames = datasets.frames_dataset([folder] * times, batch_size=50, **common)
      for data in (frames, _sequences([folder] * times, 11, 8, **common)):
        for _ in data:
          highest = max(highest, _resident_bytes())
    return highest

  size = sum(info.steps for info in manifest.episodes) * 64 * 64 * 3
  once = max(peak(1) for _ in range(2))
  assert peak(10) - once < 2 * size  # Of the 9 that it grew by.
