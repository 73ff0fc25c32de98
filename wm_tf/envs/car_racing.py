"""CarRacing-v3 with official physics, rewards and pixels."""

from __future__ import annotations

import math

import numpy as np

from wm_tf.core import ActionSpace, EnvSpec
from wm_tf.envs.adapter import PixelEnv
from wm_tf.envs.car_simulator import CarSimulator


class CarRacing(PixelEnv):
  """CarRacing-v3; actions are (steer, pedal)."""

  _names: tuple[str, ...] = ("steer", "pedal")
  _matrix = ((1, 0, 0), (0, 1, -1))
  _name = "car_racing"

  def __init__(
    self,
    action_repeat: int = 4,
    frames_to_skip: int = 50,
    max_steps: int = 1000,
    random_start: bool = False,
    stop_after_idle_decisions: int | None = None,
  ):
    super().__init__(
      CarSimulator(random_start), self.make_spec(action_repeat, frames_to_skip, max_steps)
    )
    self._patience = stop_after_idle_decisions
    self._idle, self._tiles = 0, 0

  @classmethod
  def make_spec(cls, action_repeat=4, frames_to_skip=50, max_steps=1000, **_) -> EnvSpec:
    return EnvSpec(
      name=cls._name,
      env_id="CarRacing-v3",
      observation_shape=(64, 64, 3),
      native_shape=(96, 96, 3),
      crop=(0, 0, 96, 96),
      action_space=ActionSpace(
        names=cls._names,
        env_names=("steer", "gas", "brake"),
        matrix=np.array(cls._matrix, np.float32),
        low=np.array([-1, 0, 0], np.float32),
        high=np.array([1, 1, 1], np.float32),
      ),
      action_repeat=action_repeat,
      frames_to_skip=frames_to_skip,
      idle_action=np.zeros(3, np.float32),
      max_steps=max_steps,
    )

  def reset(self, *, seed=None, options=None):
    result = super().reset(seed=seed, options=options)
    self._idle, self._tiles = 0, self.env.tile_visited_count
    return result

  def frame(self, observation):
    return self.env.draw()

  def privileged(self):
    return {"speed": math.hypot(*self.env.car.hull.linearVelocity)}

  def cut_short(self):
    visited = self.env.tile_visited_count
    self._idle = self._idle + 1 if visited == self._tiles else 0
    self._tiles = visited
    return self._patience is not None and self._idle >= self._patience


class CarRacing3D(CarRacing):
  """CarRacing-v3 with the simulator's own three actions: steer, gas, brake."""

  _name = "car_racing_3d"
  _names = ("steer", "gas", "brake")
  _matrix = ((1, 0, 0), (0, 1, 0), (0, 0, 1))
