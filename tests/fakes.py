"""Fakes shared by the tests. No TensorFlow: worker processes import this module."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import numpy as np

from wm_tf.core import ActionSpace, EnvSpec, image_observation


class CountingEnv:
  """A `PixelEnv` whose frames count its decisions: every pixel of frame t has the value t.

  Its episodes have `10 + seed % 7` decisions (or `num_decisions`), each of two frames after three
  that were skipped. The reward for an action is `100 * seed + t + action[0]`, where t is the
  value of the frame that it brings; skipped frames bring 1000. Episodes of an even seed terminate,
  the others are truncated.

  Args:
    num_decisions: of every episode.
    trouble: what happens at the third decision of an episode of seed `trouble_seed`: `"kill"`,
      `"hang"`, `"freeze"` (a stopped process) or `"raise"`.
    trouble_seed: see there.
    marker: a file: the trouble happens only while it does not exist, and makes it. None: always.
    seconds: that each decision takes.
    frame_noise: whether to add incompressible noise to the frames, all but the top left pixel.
  """

  def __init__(
    self,
    num_decisions: int | None = None,
    trouble: str | None = None,
    trouble_seed: int = 3,
    marker: str | None = None,
    seconds: float = 0.0,
    frame_noise: bool = False,
  ):
    self.spec_ = make_spec()
    self._num_decisions = num_decisions
    self._trouble, self._trouble_seed, self._marker = trouble, trouble_seed, marker
    self._seconds, self._frame_noise = seconds, frame_noise

  def reset(self, *, seed: int, options=None):
    self._seed, self._count, self._return = seed, 0, 1000.0
    return self._frame(), self._info()

  def step(self, action: np.ndarray):
    assert action.shape == (2,) and action.dtype == np.float32
    self._count += 1
    if self._count == 3 and self._seed == self._trouble_seed:
      self._make_trouble()
    time.sleep(self._seconds)
    reward = self._reward(action)
    self._return += reward
    over = self._count == (self._num_decisions or num_decisions(self._seed))
    terminated = over and self._seed % 2 == 0
    return self._frame(), reward, terminated, over and not terminated, self._info()

  def close(self):
    pass

  def _reward(self, action: np.ndarray) -> float:
    return 100.0 * self._seed + self._count + float(action[0])

  def _frame(self) -> np.ndarray:
    frame = np.full((64, 64, 3), self._count % 256, np.uint8)
    if self._frame_noise:
      rng = np.random.default_rng([self._seed, self._count])
      frame[1:] = rng.integers(0, 256, frame[1:].shape, np.uint8)
    return frame

  def _info(self) -> dict:
    return {
      "frames": 3 + 2 * self._count,
      "episode_return": self._return,
      "privileged": {"count": self._count},
      "modules": sorted(sys.modules) if self._count == 0 else None,
    }

  def _make_trouble(self) -> None:
    if self._marker is not None:
      if Path(self._marker).exists():
        return
      Path(self._marker).touch()
    if self._trouble == "kill":
      os.kill(os.getpid(), signal.SIGKILL)
    elif self._trouble == "freeze":
      os.kill(os.getpid(), signal.SIGSTOP)
    elif self._trouble == "hang":
      time.sleep(1000)
    elif self._trouble == "raise":
      raise ArithmeticError("the wheels came off")


class TargetEnv(CountingEnv):
  """A `CountingEnv` of three decisions that wants one action always, and pays by the seed.

  The reward is `100 * (seed % 7) - |action - TARGET|^2`: what an episode brings says nothing of
  the actions unless it is compared on equal seeds.
  """

  TARGET = np.array([0.5, -0.3])

  def __init__(self):
    super().__init__(num_decisions=3)

  def _reward(self, action):
    return 100.0 * (self._seed % 7) - float(np.square(action - self.TARGET).sum())


def num_decisions(seed: int) -> int:
  """Decisions in an episode of `CountingEnv`."""
  return 10 + seed % 7


def make_spec() -> EnvSpec:
  """The specification of `CountingEnv`."""
  return EnvSpec(
    name="counting",
    env_id="Counting-v0",
    observation=image_observation((64, 64, 3), (64, 64, 3)),
    action_space=ActionSpace(
      names=("steer", "pedal"),
      env_names=("steer", "pedal"),
      matrix=np.eye(2, dtype=np.float32),
      low=np.full(2, -1, np.float32),
      high=np.ones(2, np.float32),
    ),
    action_repeat=2,
    frames_to_skip=3,
    idle_action=np.zeros(2, np.float32),
    max_steps=1000,
  )


class CountingActor:
  """Its action says when it was chosen and for whom: `(seed % 10 / 10, decision / 100)`.

  The decisions are counted by itself, for each row.
  """

  def begin(self, rows: int) -> None:
    self._count = np.zeros(rows, np.int64)

  def act(self, observation, is_first, seeds, infos) -> np.ndarray:
    self._count = np.where(is_first, 0, self._count + 1)
    return np.stack([seeds % 10 / 10, self._count / 100], axis=1).astype(np.float32)
