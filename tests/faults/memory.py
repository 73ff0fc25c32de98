"""Ten times the data in the same memory: the trainers' peaks, on frames that are made up."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from tests.data import helpers
from tests.faults.suite import Suite, Task, numbers_after
from wm_tf.data import rollouts

# More than any buffer holds, so that all of them are full with the data once already.
_EPISODES, _STEPS = 84, 100
_TIMES = 10
_ROOM = 1.10
_FLAGS = (
  f"--override=collect.num_episodes={_EPISODES * _TIMES}",
  "--override=collect.random_start=0",
  "--override=vae_fit.batch_size=100",
  "--override=dynamics_fit.batch_size=32",
  "--override=num_iterations=0",
)


def _run(suite: Suite) -> None:
  """Fits a VAE, encodes, fits the dynamics, trains a controller, on 1x and 10x the frames."""
  peaks: dict[int, dict[str, float]] = {}
  source = suite.copy(None, "frames")
  helpers.write_noise(source, num_episodes=_EPISODES, steps=_STEPS, episodes_per_shard=4)
  for times in (1, _TIMES):
    workdir = suite.copy(None, f"data_{times}x")
    _repeat(source, workdir / "data/000", times)
    suite.describe(workdir, *_FLAGS)
    peaks[times] = {}
    for name in ("train_vae", "train_dynamics", "train_controller"):
      output = suite.run(name, workdir, *_FLAGS)
      (peaks[times][name],) = numbers_after(output, r"(?m)^peak memory: (\d+) MB$") or [0.0]
    shutil.rmtree(workdir)
  for name, once in peaks[1].items():
    many = peaks[_TIMES][name]
    suite.expect(once > 0, f"{name} did not say how much memory it took")
    text = f"{name}: {once:.0f} MB with 1x the data, {many:.0f} MB with {_TIMES}x"
    if suite.expect(many <= _ROOM * once, text):
      suite.say(text)


def _repeat(source: Path, target: Path, times: int) -> None:
  """A dataset folder whose shards are those of another one, several times; links, not copies."""
  manifest = rollouts.load_manifest(source)
  target.mkdir(parents=True)
  shards = []
  for i in range(times):
    for shard in manifest.shards:
      name = f"shard-{len(shards):05d}.tfrecord"
      os.link(source / shard.file, target / name)
      # Seeds of their own; the records keep theirs, which no reader compares while it trains.
      episodes = tuple(info._replace(seed=info.seed + i * _EPISODES) for info in shard.episodes)
      shards.append(shard._replace(file=name, episodes=episodes))
  rollouts.save_manifest(target, manifest._replace(shards=tuple(shards)))


TASKS = {"10x": Task(_run, 90, after=None)}
