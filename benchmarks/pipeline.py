"""The input pipeline: alone, and its share of a training step.

    python -m benchmarks.pipeline [--rounds=5] [--episodes=8] [--output=pipeline.json]

Episodes are collected first (real frames, compressed as they are on disk). Then, in turns: an epoch
of the pipeline alone; training steps on one batch over and over; training steps on the pipeline's
batches, as `fit` takes them. The share is what the pipeline takes alone, per step, of such a step:
an upper bound, since it runs beside the step where there is a core to spare. What a step takes
longer for it is printed beside.
"""

from __future__ import annotations

import functools
import itertools
import tempfile
from pathlib import Path

import numpy as np

from benchmarks import _race as race_lib
from benchmarks import _tensorflow_tasks as ours
from wm_tf import rng
from wm_tf.controllers.exploration import Brownian
from wm_tf.data import datasets, rollouts
from wm_tf.data.collect import run_episodes
from wm_tf.data.env_pool import EnvPool
from wm_tf.envs import make_env
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
      observation_shape=pool.spec.observation_shape,
    )
    episodes = run_episodes(pool, Brownian(pool.spec.action_size), range(num_episodes))
    rollouts.write_dataset(folder, episodes, header, episodes_per_shard=4)


def write_latents(folder: Path, latents: Path, latent_size: int = 32) -> None:
  """Writes made-up posteriors for the frames of a folder."""
  generator = np.random.default_rng(0)
  encode = lambda frames: generator.normal(size=(len(frames), 2 * latent_size)).astype(np.float32)
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

    return race_lib.timed(run) / num_batches

  def step(batches):
    def run():
      for i, batch in enumerate(batches):
        float(train(batch, i)[0]["loss"])

    return race_lib.timed(run) / steps

  seconds = {"pipeline": [], "step": [], "step_with_pipeline": []}
  for i in range(rounds):
    seconds["pipeline"].append(pipeline(i))
    seconds["step"].append(step(itertools.repeat(constant, steps)))
    # From a full prefetch buffer on: its first batch costs the filling of a shuffle buffer.
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


def main() -> None:
  made = race_lib.parser(__doc__, rounds=5)
  made.add_argument("--episodes", type=int, default=8)
  options = made.parse_args()
  results = {}
  with tempfile.TemporaryDirectory() as directory:
    folder, latents = Path(directory) / "rollouts", Path(directory) / "latents"
    collect(folder, options.episodes)
    write_latents(folder, latents)
    common = dict(batch_size=_BATCH, seed=0, split="all")
    cases = {
      "vae": (
        ours.make_vae(),
        # The same shards several times: an epoch that is long enough to time.
        lambda epoch: datasets.frames_dataset([folder] * 2, epoch=epoch, **common),
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
      for key in ("pipeline_ms", "step_ms", "step_with_pipeline_ms"):
        row = found[key]
        print(f"  {key:24} {row['median']:8.2f} ({row['q25']:.2f} to {row['q75']:.2f})")
      share, longer = found["share_of_step"]["median"], found["step_takes_longer_by"]["median"]
      print(f"  the pipeline is {share:.1%} of a step; a step takes {longer:+.1%} longer for it")
  race_lib.write(options.output, "python -m benchmarks.pipeline", results)


if __name__ == "__main__":
  main()
