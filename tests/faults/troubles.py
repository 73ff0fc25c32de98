"""Locks, workers that hang, clocks that jump, numbers that are none."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import random
import shutil
import signal
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from unittest import mock

import numpy as np

from tests.data import helpers
from tests.faults.suite import Suite, Task
from tests.training import small_run
from wm_tf.config import make_config
from wm_tf.core import Batch
from wm_tf.data import collect, datasets, repair, rollouts, rows
from wm_tf.data.env_pool import EnvPool
from wm_tf.envs import make_env
from wm_tf.policies import exploration

_TIMEOUT = 3.0
_HELD_OUT = make_config("debug").collect.held_out


def two_processes(suite: Suite) -> None:
  """The second is refused with the pid of the first; a dead owner's lock is nobody's."""
  workdir = suite.copy(None, "shared")
  flags = ("--override=collect.num_episodes=40",)
  first = suite.start("collect", workdir, *flags)
  _wait_until(lambda: (workdir / "run.json").exists() or first.exited)
  for name in ("collect", "train_vae", "check"):
    output = suite.run(name, workdir, *(flags if name != "check" else ()), expected=1)
    suite.expect(
      f"is in use by process {first.process.pid}." in output, f"{name} beside another: {output}"
    )
  first.kill()
  suite.no_survivors(first, "collect")
  owner = int((workdir / ".lock").read_text())
  suite.expect(owner == first.process.pid, f"the lock names {owner}, not the one that died")
  second = suite.start("check", workdir)
  suite.expect("in use" not in second.output and second.wait() == 0, second.output)
  (workdir / ".lock").write_text("not a number")
  suite.expect(suite.start("check", workdir).wait() == 0, "a damaged lock keeps the owner out")
  suite.say("two processes: refused with the pid; the lock of a dead one is taken over")


def workers_in_trouble(suite: Suite) -> None:
  for trouble in ("hang", "freeze", "kill", "raise"):
    _worker_in_trouble(suite, trouble)
  _stopped_workers(suite)


def _worker_in_trouble(suite: Suite, trouble: str) -> None:
  """A worker sleeps for ever, is stopped, dies, or fails, once: its episode is played again."""
  folder, marker = suite.copy(None, f"trouble_{trouble}"), suite.folder / f"marker_{trouble}"
  marker.unlink(missing_ok=True)
  options = {"trouble": trouble, "marker": str(marker)}
  sound = suite.folder / "trouble_none"
  if not sound.exists():
    helpers.collect_counting(sound, range(8))
  started = time.monotonic()
  helpers.collect_counting(folder, range(8), options, timeout=_TIMEOUT)
  seconds = time.monotonic() - started

  def checksums(path):
    return [shard.sha256 for shard in repair.verify(path).shards]

  suite.count("workers in trouble")
  suite.expect(checksums(folder) == checksums(sound), f"a worker's {trouble} changed the data")
  suite.say(f"a worker's {trouble}: replaced, the same data, {seconds:.1f} s")


def _stopped_workers(suite: Suite) -> None:
  """Real environments, whose processes are stopped or killed at random moments."""
  sound, folder = suite.copy(None, "cars"), suite.copy(None, "cars_stopped")
  seeds = range(4)
  options = dict(policy_name="brownian", num_workers=2, episodes_per_shard=2, max_decisions=100)
  factory = functools.partial(make_env, "car_racing")
  collect.collect(sound, factory, exploration.Brownian(2), seeds, **options)

  pools: list[EnvPool] = []
  stop = threading.Event()
  chance = random.Random(suite.random.random())
  hits = []

  class Watched(EnvPool):
    def __init__(self, *args, **kwargs):
      # One that is stopped while it starts would otherwise be waited for for two minutes.
      super().__init__(*args, start_timeout=20.0, **kwargs)
      pools.append(self)

  def disturb():
    while len(hits) < 3 and not stop.wait(chance.uniform(0.2, 0.8)):
      number = chance.choice([signal.SIGSTOP, signal.SIGKILL])
      if pids := pools[0].pids if pools else []:
        with contextlib.suppress(ProcessLookupError):
          os.kill(chance.choice(pids), number)
          hits.append(number.name)

  thread = threading.Thread(target=disturb)
  thread.start()
  try:
    with mock.patch.object(collect, "EnvPool", Watched):
      collect.collect(folder, factory, exploration.Brownian(2), seeds, timeout=_TIMEOUT, **options)
  finally:
    stop.set()
    thread.join()
  suite.count("workers stopped or killed", len(hits))
  suite.expect(hits, "no worker was hit: it was over too soon")
  equal = [s.sha256 for s in repair.verify(folder).shards] == [
    s.sha256 for s in repair.verify(sound).shards
  ]
  suite.expect(equal, f"workers that got {hits}: other data")
  suite.say(f"workers of a real collection got {', '.join(hits) or 'nothing'}: the same data")


def clock_jumps(suite: Suite) -> None:
  """The clock of the day jumps by hours at each look; nothing may depend on it."""
  chance = random.Random(suite.random.random())
  real = time.time

  def jumping():
    return real() + chance.uniform(-1e5, 1e5)

  digests = []
  for name, patch in (("steady", contextlib.nullcontext()), ("jumping", None)):
    folder = suite.copy(None, f"clock_{name}")
    with patch or mock.patch("time.time", jumping):
      helpers.collect_counting(folder / "data", range(6), timeout=_TIMEOUT)
      result = small_run.run(folder / "fit", model=small_run.TinyModel())
    suite.expect(0 <= result.seconds < 600, f"{result.seconds} s by a clock that jumps")
    data = [shard.sha256 for shard in repair.verify(folder / "data").shards]
    digests.append((data, (folder / "fit/weights.npz").read_bytes()))
  suite.expect(digests[0] == digests[1], "a clock that jumps changes results")
  suite.say("a clock that jumps by days: the same data and weights, no wait, no timeout")


def planted_nan(suite: Suite) -> None:
  for where in ("two frames", "a frame of each episode", "every frame"):
    _plant_nan(suite, where)


def _plant_nan(suite: Suite, where: str) -> None:
  """NaN among the latents: steps are skipped and counted, or it is said where the NaN is."""
  flags = ("--override=dynamics_fit.first.max_bad_steps=3",)
  workdir = suite.copy(suite.stage("train_dynamics").after, "nan")
  shutil.rmtree(workdir / "dynamics")
  suite.describe(workdir, *flags)
  folders = sorted((workdir / "latents/000").iterdir())
  learned = datasets.select_episodes(folders, "train", held_out_fraction=_HELD_OUT)
  chosen = suite.random.choice(learned).seed
  frames = {
    # Two, since an epoch leaves out a sequence that is over.
    "two frames": lambda info: [i * info.steps // 3 for i in (1, 2) if info.seed == chosen],
    "a frame of each episode": lambda info: [info.steps // 2],
    "every frame": lambda info: range(info.steps),
  }
  for folder in folders:
    _plant(folder, frames[where])
  suite.count("planted NaN")
  trainer = suite.start("train_dynamics", workdir, *flags)
  if trainer.wait():
    _, _, error = trainer.output.rpartition("error: ")
    names = ["fields of the batch: observation", "held-out data", str(workdir / "latents/000")]
    clear = suite.is_clear(trainer.output, names) and where != "two frames"
    if suite.expect(clear, f"NaN in {where}: {trainer.output[-3000:]}"):
      suite.say(f"NaN in {where}: {error.splitlines()[0]}")
    return
  skipped = json.loads((workdir / "dynamics/000/fit.json").read_text())["skipped_steps"]
  suite.expect(skipped > 0, "NaN was learned from, or not met")
  with np.load(workdir / "dynamics/000/weights.npz") as weights:
    bad = [name for name in weights.files if not np.isfinite(weights[name]).all()]
  suite.expect(not bad, f"NaN has got into {bad}")
  suite.say(f"NaN in {where}: {skipped} steps skipped and counted")


def _plant(folder: Path, frames_fn: Callable[[rollouts.EpisodeInfo], Sequence[int]]) -> None:
  """Puts a NaN into some frames of each episode, as if the encoder had: checksums and all."""
  manifest = rollouts.load_manifest(folder)
  row, shards = rows.row_type(manifest), []
  for shard in manifest.shards:
    episodes, found = [], np.fromfile(folder / shard.file, row)
    for info in shard.episodes:
      episode, found = found[: info.steps], found[info.steps :]
      episode["observation"][list(frames_fn(info)), 0] = np.nan
      episodes.append(Batch(*(episode[name] for name in Batch._fields[:-1]), mask=None))
    shards.append(rows.write_shard(folder / shard.file, episodes, manifest, shard))
  rollouts.save_manifest(folder, manifest._replace(shards=tuple(shards)))


def _wait_until(condition, timeout: float = 120.0) -> None:
  end = time.monotonic() + timeout
  while not condition():
    if time.monotonic() > end:
      raise TimeoutError("It did not get that far.")
    time.sleep(0.02)


TASKS = {
  "two_processes": Task(two_processes, 5, after=None),
  "workers": Task(workers_in_trouble, 20, after=None),
  "clock": Task(clock_jumps, 5, after=None),
  "nan": Task(planted_nan, 15),
}
