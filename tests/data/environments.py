"""Environments for workers, which import no TensorFlow: of every kind, and troublesome ones."""

from __future__ import annotations

import os
import signal

import gymnasium as gym
import numpy as np

from tests import fakes
from tests.envs import toys
from wm_tf.core import ActionSpace, ObservationPart, ObservationSpec, image_observation

KINDS = ("image", "gray", "vector", "mixed", "one_part")
NUM_CHOICES = (3, 2)


class KindEnv(fakes.CountingEnv):
  """A `CountingEnv` whose observations and actions are of a chosen kind.

  Every pixel of an image at decision t is t; a vector is `[t, -t, seed]`. The reward of a
  categorical action is `100 * seed + t + action[0]`, as of a continuous one.

  Args:
    kind: one of `KINDS`: `uint8[64, 64, 3]`, `uint8[20, 24, 1]`, `float32[3]`, a dict of the last
      two, or a dict of a vector alone.
    categorical: whether actions are of two groups of choices, of sizes `NUM_CHOICES`.
    bad: what is wrong at decision 2 of seed 1: `reward`, `observation` or `return` is NaN, or the
      vector has another `shape`.
    **options: of `CountingEnv`.
  """

  def __init__(self, kind="image", categorical=False, bad="", **options):
    super().__init__(**options)
    self._kind, self._bad = kind, bad
    self.spec_ = self.spec_._replace(observation=observation_spec(kind))
    if categorical:
      names = tuple(f"choice{i}" for i in range(sum(NUM_CHOICES)))
      space = ActionSpace(names, ("arm", "leg"), "multi_discrete", num_choices=NUM_CHOICES)
      self.spec_ = self.spec_._replace(action_space=space)

  def step(self, action):
    assert action.shape == (self.spec_.action_size,) and action.dtype == np.float32
    observation, reward, *others, info = super().step(np.asarray(action[:2]))
    if self._count == 2 and self._seed == 1:
      reward = np.nan if self._bad == "reward" else reward
      info |= {"episode_return": np.nan} if self._bad == "return" else {}
    return observation, reward, *others, info

  def _frame(self):
    gray = np.full((20, 24, 1), self._count, np.uint8)
    vector = np.array([self._count, -self._count, self._seed], np.float32)
    if self._bad == "observation" and self._count == 2 and self._seed == 1:
      vector[1] = np.nan
    if self._bad == "shape" and self._count == 2 and self._seed == 1:
      vector = vector[:2]
    return {
      "image": super()._frame(),
      "gray": gray,
      "vector": vector,
      "mixed": {"speed": vector, "camera": gray},  # Not in the order of their names.
      "one_part": {"speed": vector},
    }[self._kind]


def observation_spec(kind: str) -> ObservationSpec:
  """The `ObservationSpec` of a `KindEnv`."""
  if kind == "image":
    return image_observation((64, 64, 3), (64, 64, 3))
  if kind == "gray":
    return image_observation((20, 24, 1), (20, 24, 1))
  vector = ObservationPart("", "vector", (3,), (3,), "float32")
  if kind == "vector":
    return ObservationSpec((vector,))
  vector = vector._replace(name="speed")
  if kind == "one_part":
    return ObservationSpec((vector,))
  camera = image_observation((20, 24, 1), (20, 24, 1)).parts[0]._replace(name="camera")
  return ObservationSpec((camera, vector))


def decision_of(observation, kind: str) -> np.ndarray:
  """The decision t that observations `[..., ]` of a `KindEnv` show: `int[...]`."""
  if kind in ("image", "gray"):
    return observation[..., 0, 0, 0].astype(int)
  if kind == "vector":
    return observation[..., 0].astype(int)
  found = observation["speed"][..., 0].astype(int)
  if kind == "mixed":
    np.testing.assert_array_equal(observation["camera"][..., 0, 0, 0], found)
  return found


class Unrepeatable(toys.SurvivalEnv):
  """An environment whose episodes a seed does not decide."""

  def begin(self):
    self.place = float(np.random.default_rng().uniform(-0.3, 0.3))


class Dying(gym.Wrapper):
  """An environment whose process dies at a certain step of every episode."""

  def __init__(self):
    super().__init__(toys.SurvivalEnv())

  def step(self, action):
    if self.unwrapped.count == 3:
      os.kill(os.getpid(), signal.SIGKILL)
    return super().step(action)
