"""Small dataset folders for the tests of `wm_tf.data`, and what to compare them with."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import tensorflow as tf

from tests import fakes
from wm_tf.core import Batch, Embedded, Episode
from wm_tf.data import collect, datasets, observations, rollouts
from wm_tf.data.rollouts import EpisodeInfo, Manifest

HEADER = Manifest(
  environment={"name": "noise", "options": {}}, action_size=2, observation_shape=(64, 64, 3)
)


def noise_episode(seed: int, steps: int, header: Manifest = HEADER) -> tuple[Episode, EpisodeInfo]:
  """An episode of random numbers that do not compress, for a folder with this header."""
  rng = np.random.default_rng(seed)
  last = np.arange(steps) == steps - 1

  def noise(shape, dtype):
    if dtype == "uint8":
      return rng.integers(0, 256, (steps, *shape), np.uint8)
    return rng.standard_normal((steps, *shape)).astype(np.float32)

  arrays = {name: noise(*spec) for name, spec in header.arrays.items()}
  episode = Episode(
    observation=observations.pack(arrays),
    action=rng.uniform(-1, 1, (steps, header.action_size)).astype(np.float32) * ~last[:, None],
    reward=rng.standard_normal(steps).astype(np.float32) * ~last,
    is_first=np.arange(steps) == 0,
    is_last=last,
    is_terminal=last & (seed % 2 == 0),
  )
  return episode, EpisodeInfo(seed, f"noise{seed}", seed % 3, 0.1 * seed, 2 * steps + 1, steps)


def write_noise(
  folder: Path,
  num_episodes: int = 9,
  steps: int = 4,
  episodes_per_shard: int = 3,
  header: Manifest = HEADER,
) -> Manifest:
  """Writes episodes of seeds 0, 1, ...; see `noise_episode`."""
  episodes = (noise_episode(seed, steps, header) for seed in range(num_episodes))
  return rollouts.write_dataset(folder, episodes, header, episodes_per_shard=episodes_per_shard)


def collect_counting(folder: Path, seeds, env_options=None, **options) -> Manifest:
  """Collects episodes of `CountingEnv` played by `CountingActor`."""
  options = {"policy_name": "counting", "num_workers": 3, "episodes_per_shard": 4, **options}
  make_env_fn = functools.partial(fakes.CountingEnv, **(env_options or {}))
  return collect.collect(folder, make_env_fn, fakes.CountingActor(), seeds, **options)


def contents(folder: Path) -> dict[str, bytes]:
  """All files of a folder, hidden ones too."""
  return {path.name: path.read_bytes() for path in folder.iterdir()}


def encode(frames) -> np.ndarray:
  """Fake posteriors `float32[B, 4]`, different for different frames."""
  frames = np.asarray(frames, np.float32)
  return np.stack(
    [frames[:, 0, 0, 0], frames[:, 1, 1, 1], frames.mean((1, 2, 3)), -frames[:, 5, 5, 0]], 1
  )


def sequences(folders, length=5, batch_size=7, seed=1, **options) -> tf.data.Dataset:
  """`sequences_dataset` of all episodes, the last batch included."""
  options = {"split": "all", "drop_remainder": False, **options}
  return datasets.sequences_dataset(
    folders, sequence_length=length, batch_size=batch_size, seed=seed, **options
  )


def rows_of(data: tf.data.Dataset) -> list[Batch]:
  """The rows of a dataset of `Batch`, as NumPy `Batch`es `[T, ...]`."""
  rows = []
  for batch in data.as_numpy_iterator():
    rows += [tf.nest.map_structure(lambda x, i=i: x[i], batch) for i in range(len(batch.mask))]
  return rows


def equal(one, other) -> bool:
  """Whether two lists of nests of arrays are equal."""
  one, other = tf.nest.flatten(one), tf.nest.flatten(other)
  return len(one) == len(other) and all(map(np.array_equal, one, other))


def check_alignment(row: Batch, value: np.ndarray) -> int:
  """Checks a row of `CountingEnv` against its definition.

  Args:
    row: of `rows_of`.
    value: `[T]`, the decision that each observation shows.

  Returns:
    The seed of its episode, or -1 if the row is a first observation alone.
  """
  valid = row.mask
  assert valid[0] and not (~valid[:-1] & valid[1:]).any(), "padding comes last"
  np.testing.assert_array_equal(value[valid], value[0] + np.arange(valid.sum()))
  np.testing.assert_array_equal(row.is_first, valid & (value == 0))
  arrived = valid & ~row.is_first
  # Where nothing led to an observation, and on padding, there is nothing.
  assert not row.prev_action[~arrived].any() and not row.reward[~arrived].any()
  for array in tf.nest.flatten(row.observation):
    assert not array[~valid].any()
  # The reward that came with observation t is 100 seed + t + action.
  seeds = (row.reward - value - row.prev_action[:, 0]) / 100
  if not arrived.any():
    return -1
  seed = round(float(seeds[arrived][0]))
  np.testing.assert_allclose(seeds[arrived], seed, atol=1e-4)
  ended = valid & (value == fakes.num_decisions(seed)) & (seed % 2 == 0)
  np.testing.assert_array_equal(row.discount, np.where(ended, 0, 1))
  return seed


def check_actions(row: Batch, value: np.ndarray, seed: int) -> None:
  """Checks that the action that led to observation t was chosen at t - 1, by `CountingActor`."""
  arrived = row.mask & ~row.is_first
  np.testing.assert_allclose(row.prev_action[arrived, 1], (value[arrived] - 1) / 100)
  np.testing.assert_allclose(row.prev_action[arrived, 0], seed % 10 / 10 if seed >= 0 else 0)


def raw(row: Batch) -> np.ndarray:
  """The observation of a row of cached posteriors."""
  assert isinstance(row.observation, Embedded)
  return row.observation.value
