"""An environment whose pixels are its step index, added through the public seam alone."""

import gymnasium as gym
import numpy as np

from wm_tf.core import ActionSpace, EnvSpec, image_observation
from wm_tf.envs.adapter import PixelEnv


class Counter(gym.Env):
  """Shows the number of steps since the reset; its reward is `step + sum(action) / 100`."""

  observation_space = gym.spaces.Box(0, 255, (10, 12, 3), np.uint8)

  def __init__(self, end=None, limit=None, discrete=False):
    self.end, self.limit, self.actions = end, limit, []
    self.action_space = gym.spaces.Discrete(3) if discrete else gym.spaces.Box(-2, 2, (2,))

  def _frame(self):
    frame = np.full((10, 12, 3), self.count, np.uint8)
    frame[8:] = 255  # A panel, which the crop leaves out.
    return frame

  def reset(self, *, seed=None, options=None):
    super().reset(seed=seed)
    self.count, self.actions = 0, []
    return self._frame(), {"started": True}

  def step(self, action):
    self.count += 1
    self.actions.append(action)
    reward = self.count + float(np.sum(action)) / 100
    over = self.end is not None and self.count >= self.end
    cut = self.limit is not None and self.count >= self.limit
    return self._frame(), reward, over, cut, {"count": self.count}


class ToyEnv(PixelEnv):
  """Two continuous actions (their difference and their sum), or with `discrete` three choices."""

  def __init__(self, end=None, limit=None, discrete=False, **options):
    super().__init__(Counter(end, limit, discrete), self.make_spec(discrete=discrete, **options))

  @staticmethod
  def make_spec(
    end=None, limit=None, discrete=False, action_repeat=4, frames_to_skip=5, max_steps=23
  ):
    names = ("left", "stay", "right")
    continuous = ActionSpace(
      names=("along", "across"),
      env_names=("a", "b"),
      matrix=np.array([[1, 1], [-1, 1]], np.float32),
      low=np.array([-1.5, -1.5], np.float32),
      high=np.array([1.5, 1.5], np.float32),
    )
    choices = ActionSpace(names, names, kind="discrete", num_choices=(3,))
    return EnvSpec(
      name="toy",
      env_id="Counter",
      observation=image_observation((64, 64, 3), (10, 12, 3), (0, 0, 8, 12)),
      action_space=choices if discrete else continuous,
      action_repeat=action_repeat,
      frames_to_skip=frames_to_skip,
      idle_action=1 if discrete else np.zeros(2, np.float32),
      max_steps=max_steps,
    )
