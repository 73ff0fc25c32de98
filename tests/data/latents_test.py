import numpy as np
import pytest

from tests import fakes
from tests.data import helpers
from wm_tf.core import Embedded
from wm_tf.data import datasets, repair, rollouts

_SEEDS = range(10)


@pytest.fixture(scope="module")
def noise(tmp_path_factory):
  """Nine episodes of incompressible noise, in three shards."""
  folder = tmp_path_factory.mktemp("noise")
  helpers.write_noise(folder)
  return folder


def test_alignment_of_latents(tmp_path):
  folder, made = tmp_path / "frames", tmp_path / "latents"
  helpers.collect_counting(folder, _SEEDS)
  datasets.write_latents(folder, made, helpers.encode, fingerprint="a", batch_size=16)
  transitions = 0
  for row in helpers.rows_of(helpers.sequences(made)):
    latents = helpers.raw(row)
    assert latents.shape == (5, 4) and latents.dtype == np.float32
    value = latents[:, 0]
    np.testing.assert_array_equal(latents[:, 3], -value)
    helpers.check_actions(row, value, helpers.check_alignment(row, value))
    transitions += row.mask[1:].sum()
  assert transitions == sum(map(fakes.num_decisions, _SEEDS))


class _Encoder:
  """Counts what it encodes."""

  def __init__(self, offset=0.0):
    self.num_frames, self.shapes, self.offset = 0, set(), offset

  def __call__(self, frames):
    self.num_frames += len(frames)
    self.shapes.add(frames.shape)
    return helpers.encode(frames) + self.offset


def test_latents_keep_what_is_there(tmp_path):
  frames, latents = tmp_path / "frames", tmp_path / "latents"
  helpers.write_noise(frames, num_episodes=6)
  first = _Encoder()
  datasets.write_latents(frames, latents, first, fingerprint="a", batch_size=5)
  assert first.shapes == {(5, 64, 64, 3)} and first.num_frames == 2 * 15
  assert rollouts.load_manifest(latents).episodes == rollouts.load_manifest(frames).episodes
  rows = helpers.rows_of(datasets.episodes_dataset(latents))
  for row, (source, _) in zip(rows, rollouts.read_episodes(frames), strict=True):
    np.testing.assert_allclose(helpers.raw(row), helpers.encode(source.observation), rtol=1e-6)
    assert helpers.equal(row[1:], datasets.align(source)[1:])

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
  assert repair.verify(latents).fingerprint == "b"


def test_latents_of_an_older_version(noise, tmp_path):
  """Records are read as they are, and replaced by rows at the next call of `write_latents`."""
  old, new = tmp_path / "old", tmp_path / "new"
  header = rollouts.load_manifest(noise)._replace(
    observation_shape=(4,), observation_dtype="float32", fingerprint="a"
  )
  with rollouts.ShardWriter(old, header, episodes_per_shard=100) as writer:
    for shard in header.shards:
      for episode, info in rollouts.read_episodes(noise, [shard]):
        writer.add(episode._replace(observation=helpers.encode(episode.observation)), info)
      writer.flush(source=shard.sha256)
  datasets.write_latents(noise, new, helpers.encode, fingerprint="a")
  assert helpers.equal(
    helpers.rows_of(helpers.sequences(old, seed=None)),
    helpers.rows_of(helpers.sequences(new, seed=None)),
  )
  datasets.write_latents(noise, old, helpers.encode, fingerprint="a")
  assert helpers.contents(old) == helpers.contents(new)


def test_an_encoder_that_makes_nan(noise, tmp_path):
  def encode(frames):
    return helpers.encode(frames) * np.nan

  with pytest.raises(ValueError, match=f"NaN or infinity of observations in {noise}"):
    datasets.write_latents(noise, tmp_path, encode, fingerprint="a")


def test_latents_follow_their_frames(tmp_path):
  """Shards dropped on either side, and a writer that was killed."""
  frames, latents = tmp_path / "frames", tmp_path / "latents"
  helpers.write_noise(frames)
  datasets.write_latents(frames, latents, helpers.encode, fingerprint="a")
  whole = helpers.contents(latents)

  def stop(done, total):
    raise KeyboardInterrupt

  (latents / "shard-00001.rows").write_bytes(b"")
  with pytest.raises(KeyboardInterrupt):
    datasets.write_latents(frames, latents, helpers.encode, fingerprint="a", on_progress=stop)
  assert len(repair.verify(latents).shards) == 2
  datasets.write_latents(frames, latents, helpers.encode, fingerprint="a")
  assert helpers.contents(latents) == whole

  (frames / "shard-00001.tfrecord").write_bytes(b"")
  repair.repair(frames)
  manifest = datasets.write_latents(frames, latents, helpers.encode, fingerprint="a")
  assert [info.seed for info in manifest.episodes] == [0, 1, 2, 6, 7, 8]
  assert len(helpers.contents(latents)) == 3


def test_an_encoder_may_return_embedded(noise, tmp_path):
  def embed(frames):
    return Embedded(helpers.encode(frames))

  for folder, encode_fn in (("a", helpers.encode), ("b", embed)):
    datasets.write_latents(noise, tmp_path / folder, encode_fn, fingerprint="a")
  assert helpers.contents(tmp_path / "a") == helpers.contents(tmp_path / "b")
