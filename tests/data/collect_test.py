import functools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from tests import fakes
from tests.data import helpers
from wm_tf.data import collect, repair, rollouts
from wm_tf.data.env_pool import EnvPool, WorkerError

_ROOT = Path(__file__).parents[2]


def _checksums(folder):
  return [shard.sha256 for shard in repair.verify(folder).shards]


def _play(pool, seeds, actor=None, **options):
  return list(collect.run_episodes(pool, actor or fakes.CountingActor(), seeds, **options))


@pytest.fixture(scope="module")
def pool():
  with EnvPool(fakes.CountingEnv, 3) as pool:
    yield pool


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
  """Ten episodes, collected undisturbed."""
  folder = tmp_path_factory.mktemp("reference")
  helpers.collect_counting(folder, range(10))
  return folder


def test_workers_have_no_tensorflow(pool):
  pool.drain()
  pool.reset(0, 1)
  ((row, reply),) = pool.poll()
  assert row == 0
  loaded = {name.split(".")[0] for name in reply.info["modules"]}
  assert "numpy" in loaded
  assert not loaded & {"tensorflow", "keras", "tensorflow_probability", "pytest"}


def test_episodes_are_as_played(pool):
  played = {info.seed: (episode, info) for episode, info in _play(pool, range(10))}
  assert sorted(played) == list(range(10))
  for seed, (episode, info) in played.items():
    steps = fakes.num_decisions(seed) + 1
    count = np.arange(steps)
    assert (info.steps, info.frames) == (steps, 3 + 2 * (steps - 1))
    np.testing.assert_array_equal(
      episode.observation, np.zeros((64, 64, 3)) + count[:, None, None, None]
    )
    expected = np.stack([np.full(steps, seed / 10), count / 100], axis=1)
    np.testing.assert_array_equal(episode.action[:-1], expected[:-1].astype(np.float32))
    np.testing.assert_allclose(episode.reward[:-1], 100 * seed + count[1:] + seed / 10, rtol=1e-6)
    assert info.episode_return == pytest.approx(1000 + episode.reward.sum(dtype=np.float64))
    assert not episode.action[-1].any() and episode.reward[-1] == 0
    np.testing.assert_array_equal(episode.is_first, count == 0)
    np.testing.assert_array_equal(episode.is_last, count == steps - 1)
    np.testing.assert_array_equal(episode.is_terminal, (count == steps - 1) & (seed % 2 == 0))


def test_an_episode_does_not_depend_on_the_others(pool):
  everything = {info.seed: episode for episode, info in _play(pool, range(10))}
  ((alone, _),) = _play(pool, [7])
  for one, other in zip(alone, everything[7], strict=True):
    np.testing.assert_array_equal(one, other)


def test_the_actor_always_sees_full_batches(pool):
  seen = set()

  class Watched(fakes.CountingActor):
    def act(self, observation, is_first, seeds, infos):
      seen.add((observation.shape, str(observation.dtype), len(is_first), len(infos)))
      assert seeds.dtype == np.int64 and all(info["frames"] >= 3 for info in infos)
      return super().act(observation, is_first, seeds, infos)

  _play(pool, range(7), Watched())
  assert seen == {((2, 64, 64, 3), "uint8", 2, 2)}  # Three rows in two groups.


def test_frames_need_not_be_kept(pool):
  played = _play(pool, range(4), keep_frames=False)
  assert [episode for episode, _ in played] == [None] * 4
  assert {info.seed: info.frames for _, info in played} == {
    seed: 3 + 2 * fakes.num_decisions(seed) for seed in range(4)
  }


def test_max_decisions(pool):
  for episode, info in _play(pool, [4], max_decisions=5):
    assert info.steps == 6 and info.frames == 13
    assert episode.is_last[-1] and not episode.is_terminal.any()


def test_progress_and_names(pool):
  seen = []
  played = _play(
    pool,
    range(5),
    done=[2],
    policy_name=lambda seed: f"policy{seed}",
    iteration=3,
    on_progress=lambda *args: seen.append(args),
  )
  assert seen == [(i + 1, 4, info) for i, (_, info) in enumerate(played)]
  assert {info.seed for _, info in played} == {0, 1, 3, 4}
  assert all(i.policy == f"policy{i.seed}" and i.iteration == 3 for _, i in played)


def test_a_pool_can_be_used_again_after_an_abandoned_run(pool):
  episodes = collect.run_episodes(pool, fakes.CountingActor(), range(6))
  next(episodes)
  episodes.close()
  assert len(_play(pool, range(3))) == 3


@pytest.mark.parametrize("bad", [np.nan, "shape"])
def test_bad_actions_are_named(pool, bad):
  class Bad(fakes.CountingActor):
    def act(self, *args):
      action = super().act(*args)
      return action[:, :1] if bad == "shape" else action * bad

  with pytest.raises(ValueError, match=r"Bad\.act .* seeds \[0, 1\].* finite .*\[2, 2\]"):
    _play(pool, range(2), Bad())


def test_repeated_seeds_are_refused(pool):
  with pytest.raises(ValueError, match="distinct"):
    _play(pool, [1, 2, 1])


@pytest.mark.parametrize(
  ("trouble", "timeout", "message"),
  [
    ("kill", 60.0, "by signal 9"),
    ("raise", 60.0, "the wheels came off"),
    ("hang", 2.0, "_make_trouble"),
    ("freeze", 2.0, "did not answer in time"),
  ],
)
def test_a_worker_that_fails_is_replaced(tmp_path, reference, caplog, trouble, timeout, message):
  options = {"trouble": trouble, "marker": str(tmp_path / "marker")}
  helpers.collect_counting(tmp_path / "data", range(10), options, timeout=timeout)
  (record,) = caplog.records
  assert "seed 3 begins again" in record.getMessage() and message in record.getMessage()
  assert _checksums(tmp_path / "data") == _checksums(reference)


def test_a_worker_whose_successor_dies_as_it_starts_is_replaced(tmp_path, reference, monkeypatch):
  wait, started = EnvPool._wait, []

  def dying(self, worker):
    started.append(worker.pid)
    if len(started) == 4:  # After the three of the pool.
      os.kill(worker.pid, signal.SIGKILL)
    return wait(self, worker)

  monkeypatch.setattr(EnvPool, "_wait", dying)
  options = {"trouble": "kill", "marker": str(tmp_path / "marker")}
  helpers.collect_counting(tmp_path / "data", range(10), options)
  assert len(started) == 5
  assert _checksums(tmp_path / "data") == _checksums(reference)


def test_workers_that_keep_failing_are_an_error(tmp_path):
  options = {"trouble": "raise"}
  with pytest.raises(WorkerError, match=r"(?s)seed 3 failed 3 times.*the wheels came off"):
    helpers.collect_counting(tmp_path, range(10), options)


def test_an_environment_that_cannot_be_built_is_an_error():
  with pytest.raises(WorkerError, match="unexpected keyword argument 'color'"):
    EnvPool(functools.partial(fakes.CountingEnv, color=1), 2)


def test_a_factory_that_cannot_be_sent_is_an_error():
  with pytest.raises(TypeError, match="importable module"):
    EnvPool(lambda: fakes.CountingEnv(), 1)


def test_no_episode_runs_far_ahead(tmp_path):
  """While seed 0 hangs for two seconds, the other rows have time for all that they may do."""
  make_env_fn = functools.partial(
    fakes.CountingEnv, trouble="hang", trouble_seed=0, marker=str(tmp_path / "marker")
  )
  with EnvPool(make_env_fn, 3, timeout=2.0) as pool:
    order = [info.seed for _, info in _play(pool, range(20), max_ahead=4)]
  assert sorted(order) == list(range(20))
  assert sorted(order[: order.index(0)]) == [1, 2]  # Seed 3 has the row of seed 0.
  for i, seed in enumerate(order):
    assert seed < min(set(range(20)) - set(order[:i])) + 4


def test_seeds_there_already_are_not_played(tmp_path, reference):
  folder = tmp_path / "data"
  helpers.collect_counting(folder, range(4))
  helpers.collect_counting(folder, range(10))
  assert helpers.contents(folder) == helpers.contents(reference)
  never = functools.partial(pytest.fail, "An environment was built.")
  manifest = collect.collect(
    folder, never, fakes.CountingActor(), range(10), policy_name="counting"
  )
  assert len(manifest.episodes) == 10


def test_a_dropped_shard_is_collected_again(tmp_path, reference):
  helpers.collect_counting(tmp_path, range(10))
  lost = rollouts.load_manifest(tmp_path).shards[1]
  os.truncate(tmp_path / lost.file, 50)
  with pytest.raises(rollouts.CorruptShardError):
    helpers.collect_counting(tmp_path, range(10))
  repair.repair(tmp_path)
  helpers.collect_counting(tmp_path, range(10))
  assert sorted(_checksums(tmp_path)) == sorted(_checksums(reference))


def test_a_shard_that_was_removed_is_played_again_in_its_place(tmp_path, reference):
  helpers.collect_counting(tmp_path, range(10))
  for number in (0, 2):
    (tmp_path / f"shard-0000{number}.tfrecord").unlink()
  with pytest.raises(rollouts.CorruptShardError, match=r"shard-00000.* missing"):
    helpers.collect_counting(tmp_path, range(5, 10))  # Not of these seeds.
  helpers.collect_counting(tmp_path, range(10))
  assert helpers.contents(tmp_path) == helpers.contents(reference)


def test_short_episodes_are_not_kept(tmp_path):
  manifest = helpers.collect_counting(tmp_path, range(10), min_decisions=12)
  assert manifest.skipped == (0, 1, 7, 8)
  assert [info.seed for info in manifest.episodes] == [2, 3, 4, 5, 6, 9]
  assert helpers.collect_counting(tmp_path, range(10), min_decisions=12) == manifest


@pytest.mark.parametrize("num_seeds", [2, 4])
def test_what_is_there_must_be_the_same(tmp_path, num_seeds):
  helpers.collect_counting(tmp_path, range(2))
  with pytest.raises(ValueError, match="environment"):
    helpers.collect_counting(tmp_path, range(num_seeds), {"num_decisions": 3})
  with pytest.raises(ValueError, match=r"seed 0 by .*'counting', 0\), not \('other', 0\)"):
    helpers.collect_counting(tmp_path, range(num_seeds), policy_name="other")
  with pytest.raises(ValueError, match=r"not \('counting', 1\)"):
    helpers.collect_counting(tmp_path, range(num_seeds), iteration=1)


_COLLECTOR = """
import sys
import tensorflow  # In the parent's main module, where workers must not meet it.
from tests.data import helpers
helpers.collect_counting(sys.argv[1], range(24), {"seconds": 0.01, "frame_noise": True})
"""


def _start_collector(folder):
  return subprocess.Popen([sys.executable, "-c", _COLLECTOR, str(folder)], cwd=_ROOT)


def _num_shards(folder):
  try:
    return len(json.loads((folder / "manifest.json").read_text())["shards"])
  except FileNotFoundError:
    return 0


def test_a_killed_collector_goes_on_as_if_nothing_had_happened(tmp_path):
  killed, whole = tmp_path / "killed", tmp_path / "whole"
  process = _start_collector(killed)
  while _num_shards(killed) < 2:
    assert process.poll() is None
    time.sleep(0.01)
  process.send_signal(signal.SIGKILL)
  process.wait()
  assert _num_shards(killed) < 6
  repair.verify(killed)
  assert _start_collector(killed).wait() == 0
  helpers.collect_counting(whole, range(24), {"seconds": 0.0, "frame_noise": True})
  found, expected = helpers.contents(killed), helpers.contents(whole)
  manifests = [json.loads(content.pop("manifest.json")) for content in (found, expected)]
  assert found == expected
  for manifest in manifests:  # The options differ; nothing else does.
    del manifest["environment"]["options"]["seconds"], manifest["sha256"]
  assert manifests[0] == manifests[1]


def test_no_worker_outlives_a_killed_parent():
  script = (
    "import time, tests.fakes as f; from wm_tf.data.env_pool import EnvPool;"
    "pool = EnvPool(f.CountingEnv, 2); print(*pool.pids, flush=True); time.sleep(60)"
  )
  process = subprocess.Popen(
    [sys.executable, "-c", script], cwd=_ROOT, stdout=subprocess.PIPE, text=True
  )
  pids = [int(pid) for pid in process.stdout.readline().split()]
  assert len(pids) == 2 and all(_runs(pid) for pid in pids)
  process.kill()
  process.communicate()
  deadline = time.monotonic() + 20
  while any(_runs(pid) for pid in pids):
    assert time.monotonic() < deadline, f"{pids} are still there."
    time.sleep(0.05)


def _runs(pid):
  try:
    return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
  except (FileNotFoundError, ProcessLookupError):
    return False
