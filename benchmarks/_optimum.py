"""The best return that there is on Pendulum-v1, by dynamic programming."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import gymnasium as gym
import numpy as np

_NUM_STEPS = 200
_ANGLES, _SPEEDS = np.linspace(-np.pi, np.pi, 181), np.linspace(-8.0, 8.0, 161)
_TORQUES, _FINE_TORQUES = np.linspace(-2.0, 2.0, 15), np.linspace(-2.0, 2.0, 41)


def pendulum_returns(seeds: Sequence[int]) -> list[float]:
  """Plays the policy that is best for the steps that remain.

  Its values are interpolated on a grid, so that a slightly better return is possible.

  Args:
    seeds: seed of each episode.

  Returns:
    The return of each episode.
  """
  values, found = _values(), []
  env = gym.make("Pendulum-v1")
  for seed in seeds:
    env.reset(seed=int(seed))
    total = 0.0
    for step in range(_NUM_STEPS):
      angle, speed = env.unwrapped.state
      cost, next_angle, next_speed = _dynamics(_wrapped(angle), speed, _FINE_TORQUES)
      after = _interpolated(values[_NUM_STEPS - step - 1], next_angle, next_speed)
      torque = _FINE_TORQUES[np.argmax(after - cost)]
      total += env.step(np.array([torque], np.float32))[1]
    found.append(float(total))
  env.close()
  return found


@functools.cache
def _values() -> list[np.ndarray]:
  """The best return of the last 0, 1, ..., 199 steps, `float[angles, speeds]` each."""
  angle, speed, torque = np.meshgrid(_ANGLES, _SPEEDS, _TORQUES, indexing="ij")
  cost, next_angle, next_speed = _dynamics(angle, speed, torque)
  values = [np.zeros((len(_ANGLES), len(_SPEEDS)))]
  for _ in range(_NUM_STEPS - 1):
    values.append((_interpolated(values[-1], next_angle, next_speed) - cost).max(-1))
  return values


def _dynamics(angle, speed, torque):
  """Returns the cost, the next angle and the next speed, as `gymnasium` computes them."""
  cost = angle**2 + 0.1 * speed**2 + 0.001 * torque**2
  next_speed = np.clip(speed + (15.0 * np.sin(angle) + 3.0 * torque) * 0.05, -8.0, 8.0)
  return cost, _wrapped(angle + next_speed * 0.05), next_speed


def _wrapped(angle):
  return (angle + np.pi) % (2.0 * np.pi) - np.pi


def _interpolated(values: np.ndarray, angle, speed) -> np.ndarray:
  i, x = _cell(angle, _ANGLES)
  j, y = _cell(speed, _SPEEDS)
  low = (1.0 - y) * values[i, j] + y * values[i, j + 1]
  return (1.0 - x) * low + x * ((1.0 - y) * values[i + 1, j] + y * values[i + 1, j + 1])


def _cell(x, grid):
  """Returns the index of the grid point below, and the share of the way to the next one."""
  place = (x - grid[0]) / (grid[1] - grid[0])
  index = np.clip(place.astype(int), 0, len(grid) - 2)
  return index, place - index
