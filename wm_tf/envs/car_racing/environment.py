"""CarRacing-v3 for agents, with the official physics, rewards and pixels."""

from __future__ import annotations

import dataclasses
import inspect
import math
from typing import Any, ClassVar

import numpy as np

from wm_tf.core import ActionSpace, EnvSpec, image_observation
from wm_tf.envs.adapter import PixelEnv
from wm_tf.envs.car_racing.driver import CarDriver
from wm_tf.envs.car_racing.recipe import RECIPE
from wm_tf.envs.car_racing.simulator import CarSimulator


@dataclasses.dataclass(frozen=True)
class CarRacingOptions:
  """Options of `car_racing` and `car_racing_3d`.

  Attributes:
    action_repeat: frames per decision.
    frames_to_skip: frames at the start without gas or steering, while the camera zooms in.
    max_steps: frames after which an episode is truncated; 1000 officially.
    random_start: start on a random tile of the seed's track. For training data only: the returns
      are not official.
    stop_after_idle_decisions: truncate an episode after this number of decisions without a new
      tile; 0 or None for never. For training data only.
  """

  action_repeat: int = 4
  frames_to_skip: int = 50
  max_steps: int = 1000
  random_start: bool = False
  stop_after_idle_decisions: int | None = None

  def __post_init__(self):
    patience = self.stop_after_idle_decisions
    if patience is not None and patience < 0:
      raise ValueError(f"stop_after_idle_decisions must be at least 0, not {patience}.")


class CarRacing(PixelEnv):
  """CarRacing-v3 with the action (steer, pedal).

  Steering ranges from -1 (left) to 1 (right). A positive pedal is gas and a negative one the brake;
  using both at once never helps. Observations show the whole 96x96 frame, including the panel with
  speed, wheels and steering.

  `info` also has `lap_finished` (set by the official simulator at the end of an episode).
  `privileged` has `speed` (units per second), `yaw_rate` (radians per second, left positive),
  `tiles_visited` and `tiles`, the number of tiles of the track.
  """

  __signature__ = inspect.signature(CarRacingOptions)
  RECIPE: ClassVar[dict[str, tuple[str, ...]]] = RECIPE
  TRAINING_OPTIONS: ClassVar[frozenset[str]] = frozenset(
    {"random_start", "stop_after_idle_decisions"}
  )
  NAME: ClassVar[str] = "car_racing"
  ACTION_NAMES: ClassVar[tuple[str, ...]] = ("steer", "pedal")
  ACTION_MATRIX: ClassVar[tuple[tuple[int, ...], ...]] = ((1, 0, 0), (0, 1, -1))

  def __init__(self, **options):
    """Builds the simulator.

    Args:
      **options: fields of `CarRacingOptions`.

    Raises:
      ValueError: if an option is invalid.
    """
    chosen = CarRacingOptions(**options)
    super().__init__(CarSimulator(chosen.random_start), self.make_spec(**options))
    self._patience = chosen.stop_after_idle_decisions or math.inf
    self._tiles_before, self._idle_decisions = 0, 0

  @classmethod
  def make_spec(cls, **options) -> EnvSpec:
    """Makes the specification without building the simulator.

    Args:
      **options: fields of `CarRacingOptions`.

    Returns:
      The `spec_` that the constructor sets for the same options.
    """
    chosen = CarRacingOptions(**options)
    return EnvSpec(
      name=cls.NAME,
      env_id="CarRacing-v3",
      observation=image_observation((64, 64, 3), (96, 96, 3)),
      action_space=ActionSpace(
        names=cls.ACTION_NAMES,
        env_names=("steer", "gas", "brake"),
        matrix=np.array(cls.ACTION_MATRIX, np.float32),
        low=np.array([-1, 0, 0], np.float32),
        high=np.array([1, 1, 1], np.float32),
      ),
      action_repeat=chosen.action_repeat,
      frames_to_skip=chosen.frames_to_skip,
      idle_action=np.zeros(3, np.float32),
      max_steps=chosen.max_steps,
    )

  @classmethod
  def make_heuristic(cls, **options) -> CarDriver:
    """Makes the scripted driver.

    Args:
      **options: arguments of `CarDriver`.

    Returns:
      The driver.
    """
    return CarDriver(**options)

  def frame(self, observation: None) -> np.ndarray:
    """Draws the current frame, `uint8[96, 96, 3]`. See `PixelEnv.frame`."""
    return self.env.draw()

  def privileged(self) -> dict[str, Any]:
    """Returns the speed, the yaw rate and the progress. See `AdaptedEnv.privileged`."""
    hull = self.env.car.hull
    return {
      "speed": math.hypot(*hull.linearVelocity),
      "yaw_rate": hull.angularVelocity,
      "tiles_visited": self.env.tile_visited_count,
      "tiles": len(self.env.track),
    }

  def reset(self, *, seed: int | None = None, options: dict | None = None):
    """Starts an episode. See `AdaptedEnv.reset`."""
    result = super().reset(seed=seed, options=options)
    self._tiles_before, self._idle_decisions = self.env.tile_visited_count, 0
    return result

  def cut_short(self) -> bool:
    """Returns whether the car was idle for too long. See `AdaptedEnv.cut_short`."""
    tiles = self.env.tile_visited_count
    self._idle_decisions = self._idle_decisions + 1 if tiles == self._tiles_before else 0
    self._tiles_before = tiles
    return self._idle_decisions >= self._patience


class CarRacing3D(CarRacing):
  """CarRacing-v3 with the simulator's own actions: steer, gas and brake.

  Each is in [-1, 1]; gas or brake below 0 counts as 0.
  """

  NAME = "car_racing_3d"
  ACTION_NAMES = ("steer", "gas", "brake")
  ACTION_MATRIX = ((1, 0, 0), (0, 1, 0), (0, 0, 1))

  @classmethod
  def make_heuristic(cls, **options) -> CarDriver:
    """Returns the driver with separate pedals. See `CarRacing.make_heuristic`."""
    return CarDriver(**{"separate_pedals": True, **options})
