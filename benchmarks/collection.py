"""Collection on CarRacing-v3 against gymnasium's AsyncVectorEnv as it comes; then decoding.

    python -m benchmarks.collection [--workers=2] [--rounds=3] [--output=collection.json]

Both sides play whole episodes of 1000 physics frames with the same correlated noise as actions, and
take turns. Ours draws every fourth frame (the pixels are gymnasium's own), shrinks it to 64 x 64,
and writes it to disk; gymnasium's draws every frame and the result is thrown away.
"""

from __future__ import annotations

import functools
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks import _race as race_lib
from wm_tf.data import datasets, rollouts
from wm_tf.data.collect import run_episodes
from wm_tf.data.env_pool import EnvPool
from wm_tf.envs import make_env
from wm_tf.policies.exploration import Brownian

_FRAMES = 1000  # Of an episode, unless the car leaves the field.


class Rate(NamedTuple):
  """Physics frames per second, and per second of CPU time (which other programs do not slow)."""

  wall: float
  cpu: float


def _cpu_seconds(pids: list[int]) -> float:
  """CPU time of this process and others so far."""
  ticks = 0
  for pid in pids:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    ticks += int(fields[11]) + int(fields[12])
  return time.process_time() + ticks / os.sysconf("SC_CLK_TCK")


def measure_ours(pool: EnvPool, folder: Path, seeds: range) -> Rate:
  """Collects an episode for each seed."""
  header = rollouts.Manifest(
    environment={"name": pool.spec.name, "options": {}},
    action_size=pool.spec.action_size,
    observation_shape=pool.spec.observation.parts[0].shape,
  )
  begun, cpu = time.perf_counter(), _cpu_seconds(pool.pids)
  episodes = run_episodes(pool, Brownian(pool.spec.action_size), seeds)
  manifest = rollouts.write_dataset(folder, episodes, header, episodes_per_shard=4)
  elapsed, cpu = time.perf_counter() - begun, _cpu_seconds(pool.pids) - cpu
  frames = sum(info.frames for info in manifest.episodes if info.seed in seeds)
  return Rate(frames / elapsed, frames / cpu)


def measure_gymnasium(envs, spec, seed: int) -> Rate:
  """Plays an episode in each of `envs`."""
  actor = Brownian(spec.action_size)
  actor.begin(envs.num_envs)
  seeds = seed + np.arange(envs.num_envs)
  pids = [process.pid for process in envs.processes]
  begun, cpu = time.perf_counter(), _cpu_seconds(pids)
  envs.reset(seed=seeds.tolist())
  for frame in range(_FRAMES):
    action = actor.act(None, np.full(envs.num_envs, frame == 0), seeds, [])
    envs.step(np.stack([spec.action_space.to_env(a) for a in action]))
  elapsed, cpu = time.perf_counter() - begun, _cpu_seconds(pids) - cpu
  return Rate(_FRAMES * envs.num_envs / elapsed, _FRAMES * envs.num_envs / cpu)


def measure_decoding(folder: Path) -> Iterator[tuple[str, float]]:
  """Yields (what is read, frames per second), each over an epoch of many times the data."""
  latents = folder.with_name("latents")

  def encode(frames):
    return np.zeros((len(frames), 64), np.float32)

  datasets.write_latents(folder, latents, encode, fingerprint="zeros")
  sequences = functools.partial(datasets.sequences_dataset, sequence_length=32)
  makers: dict[str, tuple[Callable, Path, int]] = {
    "frames": (datasets.observations_dataset, folder, 1),
    "sequences of 32 frames": (sequences, folder, 31),
    "sequences of 32 latents": (sequences, latents, 31),
  }
  for name, (make, source, frames_each) in makers.items():
    data = make([source] * 10, batch_size=32, seed=0, split="all")
    begun = time.perf_counter()
    num_batches = sum(1 for _ in data)
    yield name, num_batches * 32 * frames_each / (time.perf_counter() - begun)


def _compare(ours: list[Rate], theirs: list[Rate]) -> str:
  ratio = np.median(np.divide(ours, theirs), axis=0)
  ours, theirs = Rate(*np.median(ours, axis=0)), Rate(*np.median(theirs, axis=0))
  return (
    f"ours {ours.wall:,.0f} physics frames/s ({ours.cpu:,.0f} per CPU-second), AsyncVectorEnv "
    f"{theirs.wall:,.0f} ({theirs.cpu:,.0f}), ratio {ratio[0]:.1f} ({ratio[1]:.1f})"
  )


def _standings(sides: dict[str, list[Rate]]) -> dict:
  """The rates of both sides and the ratio, ready for JSON."""
  ours = next(iter(sides.values()))
  found = {}
  for name, rates in sides.items():
    found[name] = race_lib.quartiles([rate.wall for rate in rates])
    found[name]["per_cpu_second"] = race_lib.quartiles([rate.cpu for rate in rates])
    if rates is not ours:
      ratios = np.divide(ours, rates)
      found[name]["ours_is_times"] = race_lib.quartiles(ratios[:, 0])
      found[name]["ours_is_times_per_cpu_second"] = race_lib.quartiles(ratios[:, 1])
  return {
    "unit": "physics frames/s",
    "contenders": found,
    "best_alternative": race_lib.best_alternative(found),
  }


def main() -> None:
  parser = race_lib.parser(__doc__, rounds=3)
  parser.add_argument("--workers", type=int, default=2)
  options = parser.parse_args()

  import gymnasium

  make_car = functools.partial(gymnasium.make, "CarRacing-v3")
  ours, theirs = [], []
  with tempfile.TemporaryDirectory() as directory:
    folder = Path(directory) / "rollouts"
    envs = gymnasium.vector.AsyncVectorEnv([make_car] * options.workers)
    with EnvPool(functools.partial(make_env, "car_racing"), options.workers) as pool:
      for i in range(options.rounds):
        num_episodes = 4 * options.workers  # Faster, so more of them, for as long a measurement.
        seeds = range(i * num_episodes, (i + 1) * num_episodes)
        ours.append(measure_ours(pool, folder, seeds))
        theirs.append(measure_gymnasium(envs, pool.spec, seeds.start))
        print(f"round {i + 1}: {_compare(ours[-1:], theirs[-1:])}", flush=True)
    envs.close()
    print(f"\n{options.workers} workers, median of {options.rounds}: {_compare(ours, theirs)}")
    print("at least 1,000 physics frames/s are expected of 2 cores that do nothing else\n")
    size = sum(shard.bytes for shard in rollouts.load_manifest(folder).shards)
    steps = sum(info.steps for info in rollouts.load_manifest(folder).episodes)
    print(f"on disk: {size / steps:,.0f} bytes a frame of {64 * 64 * 3:,}")
    decoding = dict(measure_decoding(folder))
  for name, rate in decoding.items():
    print(f"decoding {name}: {rate:,.0f} frames/s")
  found = _standings({"ours": ours, "gymnasium's AsyncVectorEnv": theirs})
  found |= {"workers": options.workers, "bytes_per_frame": round(size / steps)}
  found["decoded_frames_per_second"] = {name: round(rate) for name, rate in decoding.items()}
  race_lib.write(options.output, "python -m benchmarks.collection", found)


if __name__ == "__main__":
  main()
