"""Small dataset folders for the tests of `wm_tf.data`."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np

from tests import fakes
from wm_tf.core import Episode
from wm_tf.data import collect, rollouts
from wm_tf.data.rollouts import EpisodeInfo, Manifest

HEADER = Manifest(
  environment={"name": "noise", "options": {}}, action_size=2, observation_shape=(64, 64, 3)
)


def noise_episode(seed: int, steps: int) -> tuple[Episode, EpisodeInfo]:
  """An episode of random numbers that do not compress."""
  rng = np.random.default_rng(seed)
  last = np.arange(steps) == steps - 1
  episode = Episode(
    observation=rng.integers(0, 256, (steps, 64, 64, 3), np.uint8),
    action=rng.uniform(-1, 1, (steps, 2)).astype(np.float32) * ~last[:, None],
    reward=rng.standard_normal(steps).astype(np.float32) * ~last,
    is_first=np.arange(steps) == 0,
    is_last=last,
    is_terminal=last & (seed % 2 == 0),
  )
  return episode, EpisodeInfo(seed, f"noise{seed}", seed % 3, 0.1 * seed, 2 * steps + 1, steps)


def write_noise(
  folder: Path, num_episodes: int = 9, steps: int = 4, episodes_per_shard: int = 3
) -> Manifest:
  """Writes episodes of seeds 0, 1, ...; see `noise_episode`."""
  episodes = (noise_episode(seed, steps) for seed in range(num_episodes))
  return rollouts.write_dataset(folder, episodes, HEADER, episodes_per_shard=episodes_per_shard)


def collect_counting(folder: Path, seeds, env_options=None, **options) -> Manifest:
  """Collects episodes of `CountingEnv` played by `CountingActor`."""
  options = {"policy_name": "counting", "num_workers": 3, "episodes_per_shard": 4, **options}
  make_env_fn = functools.partial(fakes.CountingEnv, **(env_options or {}))
  return collect.collect(folder, make_env_fn, fakes.CountingActor(), seeds, **options)


def contents(folder: Path) -> dict[str, bytes]:
  """All files of a folder, hidden ones too."""
  return {path.name: path.read_bytes() for path in folder.iterdir()}
