"""The input pipeline: alone, and its share of a training step.

    python -m benchmarks.pipeline [--rounds=5] [--episodes=8] [--output=pipeline.json]

Episodes are collected first (real frames, compressed as they are on disk). What a fit does before
its first step, decoding the frames into a cache, is timed once, and so are epochs without a cache.
Then, in turns: an epoch of the pipeline alone; training steps on one batch over and over; training
steps on the pipeline's batches, as `fit` takes them. The share is what the pipeline takes alone,
per step, of such a step: an upper bound, since it runs beside the step where there is a core to
spare. What a step takes longer for it is printed beside. CPU time is that of the whole process.
"""

from __future__ import annotations

import functools
import itertools
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks import _race as race_lib
from benchmarks import _tensorflow_tasks as ours
from wm_tf import rng
from wm_tf.data import datasets, rollouts
from wm_tf.data.collect import run_episodes
from wm_tf.data.env_pool import EnvPool
from wm_tf.envs import make_env
from wm_tf.policies.exploration import Brownian
from wm_tf.training.adam import FusedAdam
from wm_tf.training.steps import make_train_step

_BATCH, _LENGTH = 100, 32
_STEPS = {"vae": 6, "dynamics": 12}


def collect(folder: Path, num_episodes: int) -> None:
  """Collects real episodes."""
  with EnvPool(functools.partial(make_env, "car_racing"), 2) as pool:
    header = rollouts.Manifest(
      environment={"name": pool.spec.name, "options": {}},
      action_size=pool.spec.action_size,
      observation_shape=pool.spec.observation.parts[0].shape,
    )
    episodes = run_episodes(pool, Brownian(pool.spec.action_size), range(num_episodes))
    rollouts.write_dataset(folder, episodes, header, episodes_per_shard=4)


def write_latents(folder: Path, latents: Path, latent_size: int = 32) -> None:
  """Writes made-up posteriors for the frames of a folder."""
  generator = np.random.default_rng(0)

  def encode(frames):
    return generator.normal(size=(len(frames), 2 * latent_size)).astype(np.float32)

  datasets.write_latents(folder, latents, encode, fingerprint="made up")


def _measure(model, make_data, steps: int, rounds: int) -> dict:
  """Seconds per batch of the pipeline alone, and per step without and with it."""
  data = make_data(0)
  optimizer = FusedAdam(1e-4)
  optimizer.build(model.trainable_variables)
  train = make_train_step(model, optimizer, 100.0, rng.make_seed(0), data.element_spec)
  constant = next(iter(data))
  train(constant, 0)

  def pipeline(epoch):
    num_batches = 0

    def run():
      nonlocal num_batches
      num_batches = sum(1 for _ in make_data(epoch))

    cpu = time.process_time()
    elapsed = race_lib.timed(run)
    return elapsed / num_batches, (time.process_time() - cpu) / num_batches

  def step(batches):
    def run():
      for i, batch in enumerate(batches):
        float(train(batch, i)[0]["loss"])

    return race_lib.timed(run) / steps

  seconds = {"pipeline": [], "pipeline_cpu": [], "step": [], "step_with_pipeline": []}
  for i in range(rounds):
    elapsed, cpu = pipeline(i)
    seconds["pipeline"].append(elapsed)
    seconds["pipeline_cpu"].append(cpu)
    seconds["step"].append(step(itertools.repeat(constant, steps)))
    # From a full prefetch buffer on.
    batches = iter(make_data(i).repeat())
    next(batches)
    seconds["step_with_pipeline"].append(step(itertools.islice(batches, steps)))
  found = {f"{name}_ms": race_lib.quartiles(1e3 * np.array(v)) for name, v in seconds.items()}
  shares = np.divide(seconds["pipeline"], np.add(seconds["pipeline"], seconds["step"]))
  longer = np.divide(seconds["step_with_pipeline"], seconds["step"]) - 1
  return found | {
    "share_of_step": race_lib.quartiles(shares),
    "step_takes_longer_by": race_lib.quartiles(longer),
  }


def measure_decoding(folder: Path, cache: Path) -> dict[str, float]:
  """Milliseconds per batch: of decoding frames into a cache, once; and of an epoch without one."""
  datasets.cache_frames(folder, cache.with_name("warm"))  # The first decoding takes longer.
  started = time.monotonic()
  num_frames = sum(info.steps for info in datasets.cache_frames(folder, cache).episodes)
  once = time.monotonic() - started
  started = time.monotonic()
  data = datasets.observations_dataset(folder, batch_size=_BATCH, seed=0, split="all")
  num_batches = sum(1 for _ in data)
  each = time.monotonic() - started
  return {"once_ms": 1e5 * once / num_frames, "without_cache_ms": 1e3 * each / num_batches}


def main() -> None:
  made = race_lib.parser(__doc__, rounds=5)
  made.add_argument("--episodes", type=int, default=8)
  options = made.parse_args()
  results = {}
  with tempfile.TemporaryDirectory() as directory:
    folder, latents, cache = (Path(directory) / name for name in ("rollouts", "latents", "frames"))
    collect(folder, options.episodes)
    write_latents(folder, latents)
    found = results["decoding"] = measure_decoding(folder, cache)
    print(f"\nms per batch of {_BATCH}: {found['once_ms']:.2f} to decode frames into a cache, once")
    print(f"before the first epoch; {found['without_cache_ms']:.2f} in every epoch without a cache")
    common = dict(batch_size=_BATCH, seed=0, split="all")
    cases = {
      "vae": (
        ours.make_vae(),
        # The same shards several times: an epoch that is long enough to time.
        lambda epoch: datasets.observations_dataset([cache] * 2, epoch=epoch, **common),
      ),
      "dynamics": (
        ours.make_dynamics(),
        lambda epoch: datasets.sequences_dataset(
          [latents] * 40, epoch=epoch, sequence_length=_LENGTH, **common
        ),
      ),
    }
    for name, (model, make_data) in cases.items():
      found = results[name] = _measure(model, make_data, _STEPS[name], options.rounds)
      print(f"\n{name}, batch {_BATCH}: ms per batch (quartiles)")
      for key in ("pipeline_ms", "pipeline_cpu_ms", "step_ms", "step_with_pipeline_ms"):
        row = found[key]
        print(f"  {key:24} {row['median']:8.2f} ({row['q25']:.2f} to {row['q75']:.2f})")
      share, longer = found["share_of_step"]["median"], found["step_takes_longer_by"]["median"]
      print(f"  the pipeline is {share:.1%} of a step; a step takes {longer:+.1%} longer for it")
  race_lib.write(options.output, "python -m benchmarks.pipeline", results)


if __name__ == "__main__":
  main()
