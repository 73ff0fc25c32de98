"""Observations and actions of every kind: collected, on disk, in rows and in batches."""

import functools
import json
import shutil

import numpy as np
import pytest
import tensorflow as tf

from tests import fakes
from tests.data import environments, helpers
from wm_tf.core import Embedded
from wm_tf.data import collect, datasets, observations, repair, rollouts, rows
from wm_tf.data.env_pool import EnvPool
from wm_tf.data.rollouts import CorruptShardError, Manifest

_SEEDS = range(6)
_SHAPES = {
  "image": ((64, 64, 3), "uint8"),
  "gray": ((20, 24, 1), "uint8"),
  "vector": ((3,), "float32"),
  "mixed": {"camera": ((20, 24, 1), "uint8"), "speed": ((3,), "float32")},
  "one_part": {"speed": ((3,), "float32")},
}


class _ScoreActor(fakes.CountingActor):
  """Scores of choices: at decision t, choice `t % 3` of three and `seed % 2` of two win."""

  def act(self, observation, is_first, seeds, infos):
    super().act(observation, is_first, seeds, infos)
    scores = np.zeros((len(seeds), sum(environments.NUM_CHOICES)), np.float32)
    scores[np.arange(len(seeds)), self._count % 3] = 0.5
    scores[np.arange(len(seeds)), 3 + seeds % 2] = -0.25
    scores[np.arange(len(seeds)), 4 - seeds % 2] = -7.0
    return scores


def _collect(folder, kind, seeds=_SEEDS, actor=None, **options):
  make_env_fn = functools.partial(environments.KindEnv, kind=kind, **options)
  return collect.collect(
    folder,
    make_env_fn,
    actor or fakes.CountingActor(),
    seeds,
    policy_name="counting",
    num_workers=2,
    episodes_per_shard=2,
  )


@pytest.fixture(scope="module", params=environments.KINDS)
def kind(request):
  return request.param


@pytest.fixture(scope="module")
def folder(kind, tmp_path_factory):
  """Six episodes in three shards."""
  folder = tmp_path_factory.mktemp(kind)
  _collect(folder, kind)
  return folder


def _nest(observation):
  """Shapes and dtypes of an observation, as `_SHAPES` has them."""
  return observations.map_arrays(lambda x: (tuple(x.shape), str(x.dtype)), observation)


def test_the_manifest_describes_observations(kind, folder):
  content = json.loads((folder / "manifest.json").read_text())
  one = not isinstance(_SHAPES[kind], dict)
  assert content["format_version"] == (2 if one else 3)
  if one:
    assert "observation_parts" not in content
    found = tuple(content["observation_shape"]), content["observation_dtype"]
  else:
    assert not {"observation_shape", "observation_dtype"} & content.keys()
    parts = content["observation_parts"].items()
    found = {name: (tuple(part["shape"]), part["dtype"]) for name, part in parts}
  assert found == _SHAPES[kind]
  assert not rollouts.load_manifest(folder).is_embedded


def test_records_have_a_key_for_each_array(kind, folder):
  record = next(tf.data.TFRecordDataset(str(folder / "shard-00000.tfrecord")).as_numpy_iterator())
  keys = tf.train.Example.FromString(record).features.feature
  found = {key for key in keys if key.startswith("observation")}
  parts = isinstance(_SHAPES[kind], dict)
  names = [f"/{name}" for name in _SHAPES[kind]] if parts else [""]
  assert found == {f"{key}{name}" for key in ("observation", "observation_shape") for name in names}


def test_episodes_are_read_as_they_were_played(kind, folder):
  for seed, (episode, info) in enumerate(rollouts.read_episodes(folder)):
    assert info.seed == seed and info.steps == fakes.num_decisions(seed) + 1
    decision = environments.decision_of(episode.observation, kind)
    np.testing.assert_array_equal(decision, np.arange(info.steps))
    if kind in ("vector", "mixed", "one_part"):
      vector = episode.observation if kind == "vector" else episode.observation["speed"]
      assert vector.dtype == np.float32 and (vector[:, 2] == seed).all()
      np.testing.assert_array_equal(vector[:, 1], -vector[:, 0])
  assert repair.verify(folder) == rollouts.load_manifest(folder)


@pytest.mark.parametrize("cached", [False, True])
def test_alignment(kind, folder, tmp_path, cached):
  if cached:
    datasets.cache_frames(folder, tmp_path)
    assert repair.verify(tmp_path).arrays == rollouts.load_manifest(folder).arrays
  source = tmp_path if cached else folder
  transitions = 0
  for row in helpers.rows_of(helpers.sequences(source)):
    value = environments.decision_of(row.observation, kind)
    helpers.check_actions(row, value, helpers.check_alignment(row, value))
    transitions += row.mask[1:].sum()
  assert transitions == sum(map(fakes.num_decisions, _SEEDS))
  whole = helpers.rows_of(datasets.episodes_dataset(source, batch_size=4))
  for row, (episode, _) in zip(whole, rollouts.read_episodes(folder), strict=True):
    aligned = tf.nest.map_structure(lambda x, row=row: x[row.mask], row)
    assert helpers.equal(aligned, rows.align(episode))


@pytest.mark.parametrize("cached", [False, True])
def test_observations_one_by_one(kind, folder, tmp_path, cached):
  if cached:
    datasets.cache_frames(folder, tmp_path)
  source = tmp_path if cached else folder
  data = datasets.observations_dataset(source, batch_size=8, seed=0, split="all")
  batches = list(data.as_numpy_iterator())
  assert len(batches) == len(data)
  one = observations.map_arrays(lambda x: x[0], batches[0])
  assert _nest(one) == _SHAPES[kind]
  data = datasets.observations_dataset(source, batch_size=1, seed=None, split="all")
  found = [int(environments.decision_of(batch, kind)[0]) for batch in data.as_numpy_iterator()]
  assert found == [t for s in _SEEDS for t in range(fakes.num_decisions(s) + 1)]
  mapped = data.map(lambda observation: observation)  # Through TensorFlow's own iterator.
  assert helpers.equal(list(mapped.as_numpy_iterator()), list(data.as_numpy_iterator()))


def test_cached_posteriors_are_embedded(kind, folder, tmp_path):
  shapes = []

  def encode(observation):
    shapes.append(_nest(observation))
    value = environments.decision_of(observation, kind).astype(np.float32)
    return np.stack([value, -value, value**2, value + 1], axis=1)

  manifest = datasets.write_latents(folder, tmp_path, encode, fingerprint="a", batch_size=16)
  assert manifest.is_embedded and not manifest.observation_parts
  assert (manifest.observation_shape, manifest.observation_dtype) == ((4,), "float32")
  assert all(s == shapes[0] for s in shapes), "every batch has one size"
  transitions = 0
  for row in helpers.rows_of(helpers.sequences(tmp_path)):
    value = helpers.raw(row)[:, 0]
    helpers.check_actions(row, value, helpers.check_alignment(row, value * row.mask))
    transitions += row.mask[1:].sum()
  assert transitions == sum(map(fakes.num_decisions, _SEEDS))
  data = datasets.observations_dataset(tmp_path, batch_size=4, seed=0)
  assert isinstance(data.element_spec, Embedded) and isinstance(next(iter(data)), Embedded)
  with pytest.raises(ValueError, match="cannot be used together"):
    helpers.sequences([folder, tmp_path])


def test_collecting_and_encoding_resume(kind, folder, tmp_path):
  data, cache = tmp_path / "data", tmp_path / "cache"
  _collect(data, kind, range(4))
  datasets.cache_frames(data, cache)
  (data / "shard-00000.tfrecord").unlink()
  (data / ".shard-00002.tfrecord.tmp").write_bytes(b"of a killed writer")
  _collect(data, kind)
  assert helpers.contents(data) == helpers.contents(folder)
  done = []
  datasets.cache_frames(data, cache, on_progress=lambda *args: done.append(args))
  assert done == [(6, 6)]
  datasets.cache_frames(folder, tmp_path / "whole")
  assert helpers.contents(cache) == helpers.contents(tmp_path / "whole")


@pytest.mark.parametrize("cached", [False, True])
def test_damage_is_found_and_repaired(kind, folder, tmp_path, cached):
  copy = tmp_path / "copy"
  if cached:
    datasets.cache_frames(folder, copy)
  else:
    shutil.copytree(folder, copy)
  manifest = rollouts.load_manifest(copy)
  path = copy / manifest.shards[1].file
  content = bytearray(path.read_bytes())
  content[len(content) // 2] ^= 4
  path.write_bytes(content)
  with pytest.raises(CorruptShardError, match=path.name):
    helpers.rows_of(helpers.sequences(copy))
  (error,) = repair.repair(copy)
  assert error.path == path
  assert [info.seed for info in repair.verify(copy).episodes] == [0, 1, 4, 5]
  assert len(helpers.rows_of(datasets.episodes_dataset(copy))) == 4


def test_folders_of_other_observations_are_refused(kind, folder, tmp_path):
  other = "gray" if kind != "gray" else "mixed"
  with pytest.raises(ValueError, match="holds rollouts of environment"):
    _collect(folder, other)
  _collect(tmp_path, other, range(2))
  with pytest.raises(ValueError, match="cannot be used together: observation_"):
    helpers.sequences([folder, tmp_path])
  header = rollouts.load_manifest(tmp_path)
  environment = rollouts.load_manifest(folder).environment
  with pytest.raises(ValueError, match="holds rollouts with observation_"):
    rollouts.ShardWriter(folder, header._replace(environment=environment))


def test_an_episode_of_other_parts_is_refused(kind, folder, tmp_path):
  (episode, info), *_ = rollouts.read_episodes(folder)
  header = rollouts.load_manifest(folder)
  wrong = [
    {"camera": np.zeros((info.steps, 20, 24, 1), np.uint8)},
    {"camera": np.zeros((info.steps, 20, 24, 1), np.uint8), "pace": np.zeros((info.steps, 3))},
    np.zeros((info.steps, 4), np.float32),
    observations.map_arrays(lambda x: x[1:], episode.observation),
    observations.map_arrays(lambda x: x.astype(np.float64), episode.observation),
  ]
  for observation in wrong:
    changed = episode._replace(observation=observation)
    with pytest.raises(ValueError, match=r"^Episode of seed 0: observation [^\n]*\.$"):
      rollouts.write_dataset(tmp_path, [(changed, info)], header)


def test_categorical_actions_are_one_hot_on_disk(tmp_path):
  _collect(tmp_path, "vector", actor=_ScoreActor(), categorical=True)
  assert rollouts.load_manifest(tmp_path).action_size == 5
  for episode, info in rollouts.read_episodes(tmp_path):
    t = np.arange(info.steps - 1)
    expected = np.concatenate([np.eye(3)[t % 3], np.eye(2)[np.full_like(t, info.seed % 2)]], 1)
    np.testing.assert_array_equal(episode.action[:-1], expected)
    assert not episode.action[-1].any()
    np.testing.assert_allclose(episode.reward[:-1], 100 * info.seed + t + 1 + (t % 3 == 0))
  for row in helpers.rows_of(datasets.episodes_dataset(tmp_path)):
    assert not row.prev_action[0].any()
    assert (row.prev_action[1:].sum(axis=1) == 2 * row.mask[1:]).all()


@pytest.mark.parametrize(
  ("bad", "message"),
  [
    ("reward", "its reward is nan"),
    ("observation", "its observation 'speed' holds NaN"),
    ("return", "its info says episode_return = nan"),
    ("shape", r"its observation 'speed' is float32\[2\], not float32\[3\]"),
  ],
)
def test_what_is_not_finite_is_refused_by_seed_and_decision(tmp_path, bad, message):
  pattern = rf"^counting: at decision 2 of the episode of seed 1, {message}[^\n]*\.$"
  with pytest.raises(ValueError, match=pattern):
    _collect(tmp_path, "mixed", bad=bad)
  assert rollouts.load_manifest(tmp_path).episodes == ()


def test_actors_see_stacked_parts_in_workers_without_tensorflow():
  seen = []

  class Watched(fakes.CountingActor):
    def act(self, observation, is_first, seeds, infos):
      seen.append(_nest(observation))
      loaded = {name for info in infos for name in info["modules"] or ()}
      assert not loaded & {"tensorflow", "keras", "wm_tf.data.rollouts"}
      return super().act(observation, is_first, seeds, infos)

  with EnvPool(functools.partial(environments.KindEnv, kind="mixed"), 4) as pool:
    assert len(list(collect.run_episodes(pool, Watched(), range(4), keep_frames=False))) == 4
  assert seen[0] == {"camera": ((2, 20, 24, 1), "uint8"), "speed": ((2, 3), "float32")}
  assert all(shapes == seen[0] for shapes in seen)


def test_a_header_of_parts_with_awkward_names(tmp_path):
  names = ["a/b", "action", "seed", "observation", "ü", " ", ":", "\x00a"]
  parts = {name: observations.ArraySpec((2,), "float32") for name in names}
  header = Manifest(helpers.HEADER.environment, 1, (), "", observation_parts=parts)
  helpers.write_noise(tmp_path / "data", header=header)
  datasets.cache_frames(tmp_path / "data", tmp_path / "rows")
  for folder in ("data", "rows"):
    found = helpers.rows_of(datasets.episodes_dataset(tmp_path / folder))
    for seed, row in enumerate(found):
      episode, _ = helpers.noise_episode(seed, 4, header)
      assert list(row.observation) == sorted(names)
      assert helpers.equal(row, rows.align(episode))
