"""An environment of one's own: a maze seen from above, to be trained on as it is.

python -m trainers.quickstart --environment=examples.maze:Maze --workdir=runs/maze
"""

from __future__ import annotations

import gymnasium as gym
import numpy as np

_WALLS = np.array([list(row) for row in ("....#", ".##..", "....#", ".#...", "...#.")]) == "#"
_MOVES = ((-1, 0), (0, 1), (1, 0), (0, -1))  # Up, right, down, left.


class Maze(gym.Env):
  """A 5 x 5 maze with a goal in a random cell. The image shows the walls, the goal and the agent.

  Each step costs `step_cost`. Reaching the goal pays 1 and ends the episode; 50 steps end it too.
  """

  metadata = {"render_modes": ["rgb_array"], "render_fps": 4}  # noqa: RUF012
  observation_space = gym.spaces.Box(0, 255, (40, 40, 3), np.uint8)
  action_space = gym.spaces.Discrete(4)

  def __init__(self, step_cost: float = 0.02, render_mode: str | None = None):
    self.step_cost, self.render_mode = step_cost, render_mode

  def reset(self, *, seed=None, options=None):
    super().reset(seed=seed)
    cells = np.argwhere(~_WALLS)
    agent, goal = self.np_random.choice(len(cells), 2, replace=False)
    self._agent, self._goal = tuple(cells[agent]), tuple(cells[goal])
    self._count = 0
    return self.render(), {}

  def step(self, action):
    row, column = np.add(self._agent, _MOVES[action])
    if 0 <= row < 5 and 0 <= column < 5 and not _WALLS[row, column]:
      self._agent = row, column
    self._count += 1
    found = self._agent == self._goal
    return self.render(), float(found) - self.step_cost, found, self._count >= 50, {}

  def render(self):
    cells = np.where(_WALLS[..., np.newaxis], np.uint8(90), np.uint8(230)).repeat(3, axis=2)
    cells[self._goal] = (60, 160, 60)
    cells[self._agent] = (200, 60, 40)
    return cells.repeat(8, axis=0).repeat(8, axis=1)
