"""The official CarRacing-v3 simulator with deferred, faster drawing of the same pixels."""

from __future__ import annotations

import functools
import itertools

import numpy as np
from gymnasium.envs.box2d import car_racing as official
from gymnasium.envs.box2d.car_racing import gfxdraw, pygame

_WIDTH, _HEIGHT = official.WINDOW_W, official.WINDOW_H
# Rows of the instrument panel at the bottom of the picture. No gauge extends above it: a wheel
# would have to turn at 400 rad/s, and friction limits wheels to about 306 rad/s even on grass.
_PANEL = _HEIGHT // 8
# Gymnasium 1.2 truncates the score that is shown, 1.4 rounds it.
_TRUNCATES = "%04i" in official.CarRacing._render.__code__.co_consts
_FARTHEST = np.hypot(_WIDTH / 2, 0.75 * _HEIGHT) + 4  # Pixels from the car to the farthest corner.


def _grass_squares() -> np.ndarray:
  """Returns `float64[100, 4, 2]`: corners of the light grass squares, in the official order."""
  dim, corners = official.GRASS_DIM, ((1, 0), (0, 0), (0, 1), (1, 1))
  return np.array(
    [
      [(dim * x + dim * right, dim * y + dim * up) for right, up in corners]
      for x, y in itertools.product(range(-20, 20, 2), repeat=2)
    ]
  )


@functools.lru_cache(maxsize=2048)
def _lettering(text: str) -> pygame.Surface:
  """Returns an image of the score, cached because a Font crashes after `pygame.quit()`."""
  pygame.font.init()
  font = pygame.font.Font(pygame.font.get_default_font(), 42)
  return font.render(text, True, (255, 255, 255), (0, 0, 0))


class CarSimulator(official.CarRacing):
  """Gymnasium's CarRacing whose `step` and `reset` draw nothing; `draw` returns the frame.

  Physics, rewards and terminations are the official code. `draw` returns the same bytes as the
  official `step`, with the same SDL calls in the same order. It is faster because it

  - transforms all polygons at once, and draws only those that can touch the picture;
  - shrinks the picture horizontally before flipping it, which moves a tenth of the bytes;
  - caches its surfaces and the lettering.
  """

  def __init__(self, random_start: bool = False):
    """Builds the simulator.

    Args:
      random_start: whether to start on a random tile of the seed's track instead of the first.
        For training data only: the returns are not official.
    """
    super().__init__(render_mode=None, verbose=False, continuous=True)
    self._random_start = random_start
    self._scene = pygame.Surface((_WIDTH, _HEIGHT))  # Upside down, as officially.
    self._visible = self._scene.subsurface((0, _PANEL, _WIDTH, _HEIGHT - _PANEL))
    self._dashboard = pygame.Surface((_WIDTH, _HEIGHT))
    self._panel = self._dashboard.subsurface((0, _HEIGHT - _PANEL, _WIDTH, _PANEL))
    self._narrow = pygame.Surface((official.STATE_W, _HEIGHT - _PANEL))
    self._tall = pygame.Surface((official.STATE_W, _HEIGHT))
    self._tall_panel = self._tall.subsurface((0, _HEIGHT - _PANEL, official.STATE_W, _PANEL))
    self._small = pygame.Surface((official.STATE_W, official.STATE_H))
    self._grass = _grass_squares()
    self._corners = np.zeros((2, 4, 0))

  def _create_track(self) -> bool:
    if not super()._create_track():
      return False
    road = np.array([polygon for polygon, _ in self.road_poly], np.float64)
    # Coordinate first, polygon last, so that the code below runs over contiguous rows.
    self._corners = np.ascontiguousarray(np.concatenate([self._grass, road]).transpose(2, 1, 0))
    if self._random_start:  # The car starts on `track[0]`; nothing else depends on the order.
      start = int(self.np_random.integers(len(self.track)))
      self.track = self.track[start:] + self.track[:start]
    return True

  def _render(self, mode: str) -> None:
    """Stores the score to draw. The official `step` calls this where it renders the frame."""
    self._shown_reward = self.reward  # `step` subtracts the cost of the frame after drawing.

  def draw(self) -> np.ndarray:
    """Returns the current official observation, `uint8[96, 96, 3]`."""
    self._draw_scene()
    self._draw_panel()
    shrink = pygame.transform.smoothscale
    shrink(self._visible, self._narrow.get_size(), self._narrow)
    self._tall.blit(pygame.transform.flip(self._narrow, False, True), (0, 0))
    shrink(self._panel, self._tall_panel.get_size(), self._tall_panel)
    shrink(self._tall, self._small.get_size(), self._small)
    return np.ascontiguousarray(pygame.surfarray.pixels3d(self._small).transpose(1, 0, 2))

  def _draw_scene(self) -> None:
    position, angle = self.car.hull.position, -self.car.hull.angle
    near, far = 0.1 * official.SCALE, official.ZOOM * official.SCALE
    zoom = near * max(1 - self.t, 0) + far * min(self.t, 1)
    scroll = pygame.math.Vector2(-position[0] * zoom, -position[1] * zoom).rotate_rad(angle)
    shift = (_WIDTH / 2 + scroll[0], _HEIGHT / 4 + scroll[1])
    self.surf = self._scene
    if max(map(abs, position)) * zoom + _FARTHEST < official.PLAYFIELD * zoom:
      self._scene.fill(self.bg_color)
    else:  # The edge of the field is visible.
      self._scene.fill(0)
      bound = official.PLAYFIELD
      field = [(bound, bound), (bound, -bound), (-bound, -bound), (-bound, bound)]
      self._draw_colored_polygon(self._scene, field, self.bg_color, zoom, shift, angle, clip=False)
    self._draw_polygons(zoom, shift, angle)
    self.car.draw(self._scene, zoom, shift, angle, False)

  def _draw_polygons(self, zoom: float, shift: tuple[float, float], angle: float) -> None:
    """Draws grass and road as `_draw_colored_polygon` does, where they touch the picture."""
    # pygame's sine and cosine and its order of operations give the same coordinates.
    cos, sin = pygame.math.Vector2(1, 0).rotate_rad(angle)
    x, y = self._corners
    pixels = np.empty(self._corners.shape, np.int16)
    pixels[0] = (cos * x - sin * y) * zoom + shift[0]  # Truncated, as pygame does.
    pixels[1] = (sin * x + cos * y) * zoom + shift[1]
    low, high = pixels.min(axis=1), pixels.max(axis=1)
    # Antialiased edges extend by one pixel. Rows under the panel do not matter.
    seen = np.flatnonzero(
      (high[0] >= -2) & (low[0] <= _WIDTH + 1) & (high[1] >= _PANEL - 2) & (low[1] <= _HEIGHT + 1)
    )
    polygons = pixels[:, :, seen].transpose(2, 1, 0).tolist()
    for i, points in zip((seen - len(self._grass)).tolist(), polygons, strict=True):
      # The color of a road tile in `road_poly` changes once the car has visited it.
      color = tuple(map(int, self.road_poly[i][1] if i >= 0 else self.grass_color))
      gfxdraw.aapolygon(self._scene, points, color)
      gfxdraw.filled_polygon(self._scene, points, color)

  def _draw_panel(self) -> None:
    self.surf = self._dashboard
    self._render_indicators(_WIDTH, _HEIGHT)
    reward = self._shown_reward
    score = _lettering(f"{int(reward):04}" if _TRUNCATES else f"{reward:04.0f}")
    place = score.get_rect()
    place.center = (60, _HEIGHT - _HEIGHT * 2.5 / 40.0)
    self._dashboard.blit(score, place)
