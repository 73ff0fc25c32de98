"""A scripted driver for CarRacing that sees the pixels and the true speed."""

from __future__ import annotations

from typing import Any

import numpy as np

# Positions in the 64x64 frame. The car never moves in it, and the panel covers the bottom.
_CAR_ROW, _CAR_COLUMN, _PANEL_ROW = 48, 31.5, 56
# Length units of the track per pixel: 16.2 screen pixels to a unit, 1000x800 shown as 64x64.
_ACROSS, _ALONG = 1000 / 64 / 16.2, 800 / 64 / 16.2
_FIRST_ROW = _CAR_ROW - 4  # In front of the bonnet.
_HALF_WINDOW = 9  # Pixels; a little more than half the road's width.

_REACH, _REACH_PER_SPEED = 4.0, 0.25  # Distance of the target point: units, plus seconds.
_CAUTION = 0.3  # Factor by which a bend ahead lowers the target speed.
_EASE = 1.5  # Gas reduced per unit of steering, because the driven rear wheels slip in bends.
_THROTTLE = 0.1  # Pedal per unit of speed below the target speed.
_HARDEST_BRAKE = 0.6  # Wheels lock at 0.9.
_LOST_SPEED, _LOST_REACH, _LOST_EASE = 20.0, 12.0, 0.8
_CRAWL, _CRAWL_GAS = 10.0, 0.4  # Below this speed, the smallest gas for any steering.


def road_mask(observation: np.ndarray) -> np.ndarray:
  """Finds the road, which is mid grey.

  Args:
    observation: `uint8[B, 64, 64, 3]`.

  Returns:
    `bool[B, 64, 64]`, true on the road; the instrument panel is false.
  """
  red, green, blue = np.moveaxis(observation.astype(np.int16), -1, 0)
  grey = (np.abs(green - red) < 20) & (np.abs(green - blue) < 20)
  mask = grey & (green > 70) & (green < 140)
  mask[:, _PANEL_ROW:] = False
  return mask


class CarDriver:
  """Follows the middle of the road. A stateless policy over batches.

  The driver traces the middle of the road row by row, starting at the car. In each row it uses the
  road pixels near the middle of the previous row. It steers towards the point of this path that the
  car reaches in a quarter of a second, and slows down for bends. Off the road it drives slowly to
  the nearest road ahead.
  """

  def __init__(
    self,
    target_speed: float = 80.0,
    steering_gain: float = 0.7,
    separate_pedals: bool = False,
  ):
    """Initializes the driver.

    Args:
      target_speed: speed on a straight, in units per second. A lap of 1000 frames needs a mean of
        about 50; the car itself reaches 100.
      steering_gain: steering per radian between the car's heading and the target point.
      separate_pedals: whether actions are (steer, gas, brake) instead of (steer, pedal).

    Raises:
      ValueError: if `target_speed` or `steering_gain` is not positive.
    """
    if not (target_speed > 0 and steering_gain > 0):
      raise ValueError(
        f"target_speed ({target_speed}) and steering_gain ({steering_gain}) must be positive."
      )
    self.target_speed = target_speed
    self.steering_gain = steering_gain
    self.separate_pedals = separate_pedals

  def act(
    self,
    observation: np.ndarray,
    infos: list[dict[str, Any]],
    rng: np.random.Generator | None = None,
  ) -> np.ndarray:
    """Chooses the actions of B cars.

    Args:
      observation: `uint8[B, 64, 64, 3]`.
      infos: the `info` of each frame; `info["privileged"]["speed"]` is read.
      rng: not used; the driver is deterministic.

    Returns:
      `float32[B, 2]`, or `float32[B, 3]` with `separate_pedals`; in [-1, 1].

    Raises:
      ValueError: if an info lacks the true speed.
    """
    speed = self._speeds(infos)
    road = road_mask(observation)
    offset = self._path(road)
    angle, target = self._follow(offset, speed)
    lost = ~road[:, _CAR_ROW - 6 : _CAR_ROW + 4, 28:37].any(axis=(1, 2))
    angle = np.where(lost, self._way_back(road), angle)
    target = np.where(lost, np.minimum(target, _LOST_SPEED), target)

    steer = np.clip(self.steering_gain * angle, -1, 1)
    pedal = np.clip((target - speed) * _THROTTLE, -_HARDEST_BRAKE, 1)
    most = 1 - np.where(lost, _LOST_EASE, _EASE) * np.abs(steer)
    pedal = np.minimum(pedal, np.where(speed < _CRAWL, np.maximum(most, _CRAWL_GAS), most))
    pedals = [np.maximum(pedal, 0), np.maximum(-pedal, 0)] if self.separate_pedals else [pedal]
    return np.stack([steer, *pedals], axis=1).astype(np.float32)

  def _speeds(self, infos) -> np.ndarray:
    try:
      return np.array([info["privileged"]["speed"] for info in infos], np.float64)
    except KeyError as error:
      raise ValueError(
        f"The scripted driver needs info['privileged']['speed'] for every row; {error} is missing. "
        "Only environments made by make_env have it."
      ) from None

  def _path(self, road: np.ndarray) -> np.ndarray:
    """Returns how far to the right the road's middle is in each row ahead, `float64[B, R]`."""
    columns = np.arange(road.shape[2])
    center = np.full(len(road), _CAR_COLUMN)
    centers = []
    for row in range(_FIRST_ROW, -1, -1):
      near = road[:, row] & (np.abs(columns - center[:, None]) <= _HALF_WINDOW)
      count = near.sum(axis=1)
      center = np.where(count > 2, (near * columns).sum(axis=1) / np.maximum(count, 1), center)
      centers.append(center)
    return (np.stack(centers, axis=1) - _CAR_COLUMN) * _ACROSS

  def _follow(self, offset: np.ndarray, speed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the angle to the path's target point (radians to the right) and the target speed."""
    ahead = (_CAR_ROW - _FIRST_ROW + np.arange(offset.shape[1])) * _ALONG
    reach = np.searchsorted(ahead, _REACH + _REACH_PER_SPEED * speed, side="right") - 1
    reach = np.clip(reach, 0, len(ahead) - 1)
    angle = np.arctan2(offset[np.arange(len(offset)), reach], ahead[reach])
    bend = np.abs(np.diff(offset[:, ::4], axis=1)).max(axis=1) / (4 * _ALONG)
    return angle, self.target_speed / (1 + _CAUTION * bend)

  def _way_back(self, road: np.ndarray) -> np.ndarray:
    """Returns the angle (radians to the right) to the road pixel nearest to a point ahead."""
    ahead, right = np.meshgrid(
      (_CAR_ROW - np.arange(road.shape[1])) * _ALONG,
      (np.arange(road.shape[2]) - _CAR_COLUMN) * _ACROSS,
      indexing="ij",
    )
    distance = np.where(road, np.hypot(right, ahead - _LOST_REACH), np.inf)
    nearest = distance.reshape(len(road), -1).argmin(axis=1)
    return np.arctan2(right.ravel()[nearest], ahead.ravel()[nearest])
