"""Small environments of every kind, as a user writes them: plain `gymnasium.Env`.

Their names for `make_env` are `tests.envs.toys:DictEnv` and so on. Episodes are short, steps take
microseconds, a seed decides everything, and each can be learned: what to do is to be seen.
"""

from __future__ import annotations

import gymnasium as gym
import numpy as np
from gymnasium import spaces


class _Toy(gym.Env):
  """An episode of `length` steps; subclasses say what is seen, and what an action brings."""

  def __init__(self, length: int = 20):
    self.length = length

  def reset(self, *, seed=None, options=None):
    super().reset(seed=seed)
    self.count = 0
    self.begin()
    return self.observe(), {}

  def step(self, action):
    assert self.action_space.contains(action), f"{action!r} is not in {self.action_space}"
    self.count += 1
    reward, terminated = self.play(action)
    return self.observe(), reward, terminated, self.count >= self.length, {}

  def begin(self) -> None:
    """Draws what is new in an episode."""

  def observe(self):
    """What is seen now."""
    raise NotImplementedError

  def play(self, action) -> tuple[float, bool]:
    """Takes an action; returns the reward and whether the episode terminates."""
    raise NotImplementedError


class DictEnv(_Toy):
  """A point on a line is pushed to a target: the image shows the target, the vector the point."""

  observation_space = spaces.Dict(
    {
      "image": spaces.Box(0, 255, (12, 16, 3), np.uint8),
      "point": spaces.Box(np.array([-1, -0.5]), np.array([1, 0.5]), dtype=np.float64),
    }
  )
  action_space = spaces.Box(-1.0, 1.0, (1,), np.float32)

  def begin(self):
    self.column = int(self.np_random.integers(16))
    self.position, self.velocity = float(self.np_random.uniform(-1, 1)), 0.0

  def observe(self):
    image = np.zeros((12, 16, 3), np.uint8)
    image[:, self.column] = (255, 128, 0)
    return {"image": image, "point": np.array([self.position, self.velocity])}

  def play(self, action):
    self.velocity = float(np.clip(0.5 * self.velocity + 0.25 * action[0], -0.5, 0.5))
    self.position = float(np.clip(self.position + self.velocity, -1, 1))
    return -abs(self.position - (self.column - 7.5) / 7.5), False


class MultiDiscreteEnv(_Toy):
  """Two choices, of 3 and of 4, that are to copy the two that are shown; 1 for each that does."""

  observation_space = spaces.MultiDiscrete([3, 4])
  action_space = spaces.MultiDiscrete([3, 4], start=[0, 1])

  def begin(self):
    self.shown = self.np_random.integers([3, 4])

  def observe(self):
    return self.shown.astype(np.int64)

  def play(self, action):
    reward = float((action - [0, 1] == self.shown).sum())
    self.shown = self.np_random.integers([3, 4])
    return reward, False


class GrayEnv(_Toy):
  """A gray image whose left, middle or right third is lit: choose that one."""

  observation_space = spaces.Box(0, 255, (20, 24), np.uint8)
  action_space = spaces.Discrete(3)

  def begin(self):
    self.lit = int(self.np_random.integers(3))

  def observe(self):
    image = np.full((20, 24), 20, np.uint8)
    image[:, 8 * self.lit : 8 * self.lit + 8] = 230
    return image

  def play(self, action):
    reward = float(action == self.lit)
    self.lit = int(self.np_random.integers(3))
    return reward, False


class AsymmetricEnv(_Toy):
  """Two numbers of unlike ranges that are to be near what is shown."""

  LOW, HIGH = np.array([-1.0, 0.0], np.float32), np.array([3.0, 0.5], np.float32)
  observation_space = spaces.Box(LOW, HIGH)
  action_space = spaces.Box(LOW, HIGH)

  def begin(self):
    self.shown = self.np_random.uniform(self.LOW, self.HIGH).astype(np.float32)

  def observe(self):
    return self.shown

  def play(self, action):
    reward = -float(np.abs((action - self.shown) / (self.HIGH - self.LOW)).sum())
    self.shown = self.np_random.uniform(self.LOW, self.HIGH).astype(np.float32)
    return reward, False


class SurvivalEnv(_Toy):
  """1 for every step that a drifting point stays within the bounds; it can be held at the middle.

  Observes its place alone; `observation=render` shows a picture of it.
  """

  metadata = {"render_modes": ["rgb_array"], "render_fps": 20}  # noqa: RUF012
  observation_space = spaces.Box(-np.inf, np.inf, (1,), np.float32)
  action_space = spaces.Discrete(2)

  def __init__(self, length: int = 60, render_mode: str | None = None):
    super().__init__(length)
    self.render_mode = render_mode

  def begin(self):
    self.place = float(self.np_random.uniform(-0.3, 0.3))

  def observe(self):
    return np.array([self.place], np.float32)

  def play(self, action):
    noise = float(self.np_random.normal(0, 0.02))
    self.place = 1.1 * self.place + (0.15 if action else -0.15) + noise
    return 1.0, abs(self.place) > 1

  def render(self):
    picture = np.zeros((40, 60, 3), np.uint8)
    column = int(np.clip(30 + 28 * self.place, 0, 57))
    picture[:, column : column + 3] = (0, 255, 0)
    return picture


class MultiBinaryEnv(_Toy):
  """Three switches that are to be set as shown; a third of a point for each."""

  observation_space = spaces.MultiBinary(3)
  action_space = spaces.MultiBinary(3)

  def begin(self):
    self.shown = self.np_random.integers(2, size=3)

  def observe(self):
    return self.shown.astype(np.int8)

  def play(self, action):
    reward = float((action == self.shown).mean())
    self.shown = self.np_random.integers(2, size=3)
    return reward, False


NAMES = tuple(
  f"tests.envs.toys:{cls.__name__}"
  for cls in (DictEnv, MultiDiscreteEnv, GrayEnv, AsymmetricEnv, SurvivalEnv, MultiBinaryEnv)
)
