"""The DeepMind Control Suite as gymnasium environments: `dmc:cartpole_swingup` and others.

Importing this module registers every task of the suite with gymnasium, as `dmc/DOMAIN_TASK`. An
episode has 1000 steps. Observations are the task's own numbers in one vector; with
`observation=render` they are frames, which need a renderer: EGL, OSMesa or a display.

References:
  Tassa et al. 2018, "DeepMind Control Suite", arXiv:1801.00690.
"""

from __future__ import annotations

import os
from typing import Any
from unittest import mock

import gymnasium as gym
import numpy as np

from wm_tf.envs.mujoco_renderer import MujocoRenderer

# `MujocoRenderer` renders; a renderer in this process could crash XLA.
with mock.patch.dict(os.environ, MUJOCO_GL="disabled"):
  import mujoco
  from dm_control import suite

_NUM_STEPS = 1000  # Time limits and control steps of the suite are chosen for it.


class DeepMindControl(gym.Env):
  """A task of the DeepMind Control Suite.

  Attributes:
    control: the environment of `dm_control`.
  """

  metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012 (As gymnasium declares it.)

  def __init__(
    self,
    domain: str,
    task: str,
    render_mode: str | None = None,
    height: int = 64,
    width: int = 64,
    camera: int = 0,
  ):
    """Builds the task.

    Args:
      domain: name of the domain, such as `cartpole`.
      task: name of the task, such as `swingup`.
      render_mode: `rgb_array`, or None for no rendering.
      height: height of rendered frames in pixels.
      width: width of rendered frames in pixels.
      camera: number of the camera.
    """
    self.control = suite.load(domain, task)
    self.render_mode = render_mode
    self._renderer = MujocoRenderer(height, width, camera)
    self._rendered = False  # Whether the renderer has the model of this episode.
    spec, size = self.control.action_spec(), self._size()
    self.action_space = gym.spaces.Box(
      spec.minimum.astype(np.float32), spec.maximum.astype(np.float32), dtype=np.float32
    )
    self.observation_space = gym.spaces.Box(-np.inf, np.inf, (size,), np.float32)
    self.metadata = self.metadata | {
      "render_fps": max(1, round(1.0 / self.control.control_timestep()))
    }

  def _size(self) -> int:
    return sum(int(np.prod(part.shape)) for part in self.control.observation_spec().values())

  def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
    """Starts an episode. See `gymnasium.Env.reset`."""
    super().reset(seed=seed)
    if seed is not None:
      self.control.task.random.seed(np.random.SeedSequence(seed).generate_state(4))
    self._rendered = False  # Some tasks move their targets, which are parts of the model.
    return self._observation(self.control.reset()), {}

  def step(self, action):
    """Takes one control step. See `gymnasium.Env.step`."""
    found = self.control.step(np.asarray(action, np.float64))
    terminated = found.last() and found.discount == 0.0
    truncated = found.last() and not terminated
    return self._observation(found), float(found.reward), terminated, truncated, {}

  def render(self):
    """Returns a frame `uint8[height, width, 3]`; None without a render mode.

    Raises:
      DependencyNotInstalled: if this machine cannot render.
    """
    if self.render_mode is None:
      return None
    model, data = self.control.physics.model.ptr, self.control.physics.data.ptr
    buffer = np.empty(0 if self._rendered else mujoco.mj_sizeModel(model), np.uint8)
    if not self._rendered:
      mujoco.mj_saveModel(model, None, buffer)
    wanted = mujoco.mjtState.mjSTATE_INTEGRATION
    state = np.empty(mujoco.mj_stateSize(model, wanted))
    mujoco.mj_getState(model, data, state, wanted)
    frame = self._renderer.render(buffer.tobytes(), state)
    self._rendered = True
    return frame

  def close(self):
    """Frees the simulation and the renderer. See `gymnasium.Env.close`."""
    self._renderer.close()
    self.control.close()

  @staticmethod
  def _observation(found) -> np.ndarray:
    parts = [np.ravel(part) for part in found.observation.values()]
    return np.concatenate(parts).astype(np.float32)


def task_names() -> tuple[str, ...]:
  """Returns the names of all tasks, such as `cartpole_swingup`."""
  return tuple(f"{domain}_{task}" for domain, task in suite.ALL_TASKS)


for _domain, _task in suite.ALL_TASKS:
  gym.register(
    f"dmc/{_domain}_{_task}",
    entry_point="wm_tf.envs.dmc:DeepMindControl",
    kwargs={"domain": _domain, "task": _task},
    max_episode_steps=_NUM_STEPS,
  )
