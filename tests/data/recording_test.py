"""What the writer accepts, the reader accepts; anything else is refused in one line."""

import json
import pathlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import fakes
from tests.data import helpers
from wm_tf.data import collect, datasets, recording, repair, rollouts
from wm_tf.data.env_pool import EnvPool
from wm_tf.data.manifest import EpisodeInfo

_settings = settings(max_examples=30, deadline=None, database=None)
_INTEGERS = st.one_of(
  st.integers(-3, 5),
  st.integers(2**63 - 2, 2**64),
  st.sampled_from([np.int64(7), np.int32(3), np.uint8(200), np.uint64(2**63), np.int8(-1)]),
  st.sampled_from([1.0, 1.5, np.float32(2), "3", None, True]),
)
_RETURNS = st.one_of(
  st.floats(),
  st.integers(-(10**9), 10**9),
  st.sampled_from([np.float64(1e300), np.float32(2), None]),
)
_OPTIONS = st.recursive(
  st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=4),
    st.sampled_from([np.float32(0.5), np.int64(3), np.bool_(True), np.str_("a"), np.arange(3)]),
    st.sampled_from([pathlib.Path("a/b"), b"bytes", {1, 2}, len, np.array([None]), 1j]),
  ),
  lambda parts: st.one_of(
    st.lists(parts, max_size=3),
    st.tuples(parts, parts),
    st.dictionaries(st.text(max_size=3), parts, max_size=3),
  ),
  max_leaves=6,
)


@given(seed=_INTEGERS, iteration=_INTEGERS, frames=_INTEGERS, skipped=_INTEGERS, value=_RETURNS)
@_settings
def test_facts_are_read_back_or_refused(tmp_path_factory, seed, iteration, frames, skipped, value):
  folder = tmp_path_factory.mktemp("facts", numbered=True)
  episode, _ = helpers.noise_episode(0, 2)
  info = EpisodeInfo(seed, "noise", iteration, value, frames, np.int64(2))
  with rollouts.ShardWriter(folder, helpers.HEADER) as writer:
    try:
      writer.skip(skipped)
    except ValueError as error:
      assert "\n" not in str(error) and "must be" in str(error)
    try:
      writer.add(episode, info)
    except ValueError as error:
      assert "\n" not in str(error) and "must be" in str(error)
  manifest = repair.verify(folder)
  found = [info for _, info in rollouts.read_episodes(folder)]
  assert tuple(found) == manifest.episodes == writer.manifest.episodes
  for one in found:
    assert (one.seed, one.iteration, one.frames) == (seed, iteration, frames)
    assert all(type(number) is int for number in (one.seed, one.iteration, one.frames, one.steps))
    assert one.episode_return == np.float32(value)
  assert manifest.skipped in ((), (skipped,))


@pytest.mark.parametrize(
  ("field", "value"),
  [("seed", -1), ("seed", 2**63), ("iteration", -1), ("frames", -4), ("frames", 1.5), ("steps", 0),
   ("policy", None), ("policy", "\ud800"), ("episode_return", float("nan")),
   ("episode_return", 1e39), ("episode_return", "much")],
)  # fmt: skip
def test_a_fact_that_cannot_be_read_back_is_named(tmp_path, field, value):
  episode, info = helpers.noise_episode(5, 2)
  with pytest.raises(ValueError, match=rf"^Episode of seed .*: {field} is [^\n]*must be"):
    rollouts.write_dataset(tmp_path, [(episode, info._replace(**{field: value}))], helpers.HEADER)
  assert repair.verify(tmp_path).episodes == ()


@given(options=st.dictionaries(st.text(max_size=3), _OPTIONS, max_size=3))
@_settings
def test_options_are_read_back_or_refused(tmp_path_factory, options):
  folder = tmp_path_factory.mktemp("options", numbered=True)
  try:
    recorded = recording.recorded_options(options)
  except ValueError as error:
    assert str(error).startswith("Option ") and "cannot be recorded" in str(error)
    return
  header = helpers.HEADER._replace(environment={"name": "noise", "options": recorded})
  helpers.write_noise(folder, num_episodes=1, steps=2, header=header)
  assert rollouts.load_manifest(folder).environment["options"] == recorded
  assert recording.recorded_options(options) == recorded
  helpers.write_noise(folder, num_episodes=1, steps=2, header=header)  # Found to be the same.


def test_numpy_options_and_tuples_are_plain_in_the_manifest(tmp_path):
  options = {"num_decisions": np.int64(3), "seconds": np.float64(0.0)}
  for _ in range(2):  # The second call finds the folder to be of the same environment.
    helpers.collect_counting(tmp_path, [np.int64(1), np.uint8(2)], options)
  content = json.loads((tmp_path / "manifest.json").read_text())
  assert content["environment"]["options"] == {"num_decisions": 3, "seconds": 0.0}
  assert recording.recorded_options({"a": (1, np.float32(2))}) == {"a": [1, 2.0]}


@pytest.mark.parametrize("value", [len, {1}, b"a", float("nan"), [float("nan")], 1j])
def test_an_option_that_cannot_be_recorded_is_named(tmp_path, value):
  with pytest.raises(ValueError, match=r"^Option 'seconds' of the environment cannot be recorded"):
    helpers.collect_counting(tmp_path, range(2), {"seconds": value})
  assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("seed", [-1, 1.5, "1", 2**63, np.int32(-7)])
def test_seeds_are_refused_before_anything_is_played(tmp_path, seed):
  with pytest.raises(ValueError, match=r"A seed of an episode is .* must be an integer from 0"):
    helpers.collect_counting(tmp_path / "data", [0, seed])
  assert not (tmp_path / "data").exists()


def test_a_bad_iteration_is_refused_before_anything_is_played(tmp_path):
  with pytest.raises(ValueError, match="iteration is -1; it must be an integer from 0"):
    helpers.collect_counting(tmp_path / "data", range(2), iteration=-1)
  assert not (tmp_path / "data").exists()


def test_a_header_that_cannot_be_read_back_is_refused(tmp_path):
  changes = [
    {"action_size": 0},
    {"observation_shape": (64, -1)},
    {"observation_dtype": "float64"},
    {"environment": {"name": "noise"}},
    {"observation_parts": {"": ((3,), "uint8")}},
  ]
  for change in changes:
    with pytest.raises((ValueError, AttributeError)):
      rollouts.ShardWriter(tmp_path / "data", helpers.HEADER._replace(**change))
  assert not (tmp_path / "data").exists()
  numpy_header = helpers.HEADER._replace(
    action_size=np.int64(2), observation_shape=[np.int64(64), 64, 3]
  )
  helpers.write_noise(tmp_path / "data", num_episodes=1, header=numpy_header)
  assert rollouts.load_manifest(tmp_path / "data").observation_shape == (64, 64, 3)


def test_a_home_folder_in_a_path(tmp_path, monkeypatch):
  monkeypatch.setenv("HOME", str(tmp_path))
  helpers.collect_counting("~/data", range(2))
  assert (tmp_path / "data" / "manifest.json").exists()
  datasets.cache_frames("~/data", "~/frames")
  datasets.write_latents("~/data", "~/latents", helpers.encode, fingerprint="a")
  for name in ("data", "frames", "latents"):
    assert len(helpers.rows_of(datasets.episodes_dataset(f"~/{name}"))) == 2
    assert len(repair.verify(f"~/{name}").episodes) == 2
    assert repair.repair(f"~/{name}") == []
  assert len(list(rollouts.read_episodes("~/data"))) == 2


def test_negative_seeds_are_refused_without_a_folder_too():
  with (
    EnvPool(fakes.CountingEnv, 1) as pool,
    pytest.raises(ValueError, match="must be an integer from 0"),
  ):
    next(collect.run_episodes(pool, fakes.CountingActor(), [-3]))
