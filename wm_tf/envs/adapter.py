"""Adapts gymnasium environments to agents: `AdaptedEnv`, and `PixelEnv` for a single image.

This module does not use TensorFlow.
"""

from __future__ import annotations

import math
from typing import Any

import gymnasium as gym
import numpy as np

from wm_tf.core import EnvSpec, Nest
from wm_tf.envs import conversion, spaces
from wm_tf.envs.options import is_integer

_MAX_SEED = 2**63 - 1  # Records on disk store seeds as int64.


class AdaptedEnv(gym.Env):
  """An environment with converted observations, action repeat and a common form of actions.

  The agent's action is `float32[A]`: in [-1, 1], or one-hot vectors, see `ActionSpace`. The agent
  observes one array or a dict of arrays, see `ObservationSpec`.

  `make_env` adapts any gymnasium environment. To adapt one by hand, write a subclass whose
  constructor calls this one. `native`, `privileged` and `cut_short` may be overridden.

  The `info` of `reset` and `step` adds these keys to that of the wrapped environment:
    `frames`: environment steps since the reset, including skipped ones.
    `episode_return`: sum of the wrapped environment's rewards since the reset, including skipped
      steps; the official return once the episode is over.
    `privileged`: readings of the simulator, for scripted policies only; agents do not see them.

  Attributes:
    env: the wrapped environment.
    spec_: the `EnvSpec` that describes how it is adapted.
    spec: gymnasium's specification; `spec.make()` builds the same environment.
  """

  def __init__(self, env: gym.Env, spec: EnvSpec):
    """Wraps an environment.

    Args:
      env: the environment; one step must be one official frame. Its own time limit applies too.
      spec: how to adapt it.

    Raises:
      ValueError: if a number in `spec` is invalid.
    """
    _check_spec(spec)
    self.env = env
    self.spec_ = spec
    self.observation_space = spaces.agent_space(spec.observation)
    self.action_space = spaces.agent_action_space(spec.action_space)
    self.render_mode = self._render_mode()
    self.metadata = {
      **env.metadata,
      "render_modes": [] if self.render_mode is None else [self.render_mode],
      "render_fps": (env.metadata.get("render_fps") or 30) / spec.action_repeat,
    }
    self._over = True
    self._closed = False
    self._seed = None
    self._frames = 0
    self._return = 0.0
    self._native = None

  def native(self, observation: Any) -> Any:
    """Converts an observation to the native observation that `spec_` describes.

    It is called once for each observation of the agent, so expensive drawing belongs here.

    Args:
      observation: the latest observation of the wrapped environment.

    Returns:
      `observation` itself, unless a subclass overrides this method.
    """
    return observation

  def privileged(self) -> dict[str, Any]:
    """Returns current readings of the simulator by name, for scripted policies."""
    return {}

  def cut_short(self) -> bool:
    """Returns whether to truncate the episode after this decision."""
    return False

  def reset(self, *, seed: int | None = None, options: dict | None = None):
    """Starts an episode and takes `frames_to_skip` idle steps.

    Args:
      seed: determines the episode; None for a random one.
      options: passed to the wrapped environment's `reset`.

    Returns:
      `(observation, info)`.

    Raises:
      ValueError: if the seed is not a whole number in [0, 2**63), or the observation does not match
        the environment's space.
      RuntimeError: if the episode ends within the skipped steps.
    """
    seed = self._checked_seed(seed)
    super().reset(seed=seed)
    observation, info = self.env.reset(seed=seed, options=options)
    self._seed, self._frames, self._return, self._over = seed, 0, 0.0, False
    if self.spec_.frames_to_skip:
      observation, _, terminated, truncated, info = self._advance(
        self.spec_.idle_action, self.spec_.frames_to_skip
      )
      if terminated or truncated:
        raise RuntimeError(
          f"{self.spec_.name}: the episode of seed {seed} ended within its first "
          f"{self._frames} frames, all of them skipped; lower frames_to_skip."
        )
    return self._view(observation), self._info(info)

  def step(self, action: np.ndarray):
    """Takes an action for `action_repeat` steps, or until the episode ends.

    Args:
      action: `float32[A]`, nominally in [-1, 1] or one-hot.

    Returns:
      `(observation, reward, terminated, truncated, info)`; the reward is the sum over the steps.

    Raises:
      ValueError: if the action has another shape or is not finite, if the reward is not finite, or
        if the observation does not match the environment's space.
      RuntimeError: if the episode is over, or none has begun.
    """
    if self._over:
      raise RuntimeError(f"{self.spec_.name}: no episode is under way; call reset() first.")
    action = self._checked_action(action)
    observation, reward, terminated, truncated, info = self._advance(
      self.spec_.action_space.to_env(action), self.spec_.action_repeat
    )
    truncated = truncated or (not terminated and self.cut_short())
    self._over = terminated or truncated
    return self._view(observation), reward, terminated, truncated, self._info(info)

  def render(self) -> np.ndarray | None:
    """Returns a picture of the environment's current state.

    Returns:
      `uint8[H, W, 3]`, a copy of the result of the wrapped environment's `render`. If that has no
      render mode, the first image of the observation. None if there is no image either, or before
      the first reset.
    """
    if self._native is None:
      return None
    if self.env.render_mode is not None:
      frame = self.env.render()
      return np.array(frame) if isinstance(frame, np.ndarray) else frame
    return self._picture()

  def close(self) -> None:
    """Closes the wrapped environment; later calls do nothing."""
    if not self._closed:
      self._closed = True
      self.env.close()

  def _render_mode(self) -> str | None:
    if self.env.render_mode is not None:
      return self.env.render_mode
    return "rgb_array" if self.spec_.observation.images else None

  def _picture(self) -> np.ndarray | None:
    images = self.spec_.observation.images
    return conversion.picture(images[0], self._native) if images else None

  def _checked_seed(self, seed) -> int | None:
    if seed is None:
      return None
    if not is_integer(seed) or not 0 <= seed <= _MAX_SEED:
      raise ValueError(
        f"{self.spec_.name}: a seed must be a whole number of at least 0 and below 2**63, "
        f"not {seed!r}."
      )
    return int(seed)

  def _checked_action(self, action) -> np.ndarray:
    action = np.asarray(action, np.float32)
    names = self.spec_.action_space.names
    if action.shape != (len(names),):
      shown = ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
      raise ValueError(
        f"{self.spec_.name}: an action must have shape [{len(names)}] ({shown}), "
        f"not {list(action.shape)}."
      )
    if not np.isfinite(action).all():
      raise ValueError(f"{self.spec_.name}: action {action.tolist()} is not finite.")
    return action

  def _checked_reward(self, reward) -> float:
    try:
      number = float(reward)
    except (TypeError, ValueError):
      number = math.nan
    if not math.isfinite(number):
      raise ValueError(
        f"{self.spec_.name}: the environment's reward is {reward!r} at frame {self._frames} of the "
        f"episode of seed {self._seed}; it must be a finite number."
      )
    return number

  def _advance(self, env_action, num_frames: int):
    """Takes up to `num_frames` steps, fewer if the episode ends, and sums the reward."""
    total = 0.0
    for _ in range(num_frames):
      observation, reward, terminated, truncated, info = self.env.step(env_action)
      self._frames += 1
      reward = self._checked_reward(reward)
      total += reward
      self._return += reward
      truncated = bool(truncated) or self._frames >= self.spec_.max_steps
      if terminated or truncated:
        break
    return observation, total, bool(terminated), truncated, info

  def _view(self, observation) -> Nest:
    self._native = self.native(observation)
    try:
      return conversion.to_agent(self.spec_.observation, self._native)
    except ValueError as error:
      raise ValueError(
        f"{self.spec_.name}: at frame {self._frames} of the episode of seed {self._seed}, {error}"
      ) from None

  def _info(self, info: dict) -> dict:
    return {
      **info,
      "frames": self._frames,
      "episode_return": self._return,
      "privileged": self.privileged(),
    }


class RenderedEnv(AdaptedEnv):
  """An environment whose observations are the frames of its `render`; see `observation=render`."""

  def native(self, observation: Any) -> np.ndarray:
    """Renders the environment. See `AdaptedEnv.native`."""
    return self.env.render()

  def render(self) -> np.ndarray | None:
    """Returns a copy of the native frame, `uint8[H, W, 3]`; None before the first reset."""
    return None if self._native is None else self._picture()


class PixelEnv(AdaptedEnv):
  """An environment whose observation is one image, adapted by hand.

  To add an environment, write a subclass whose constructor calls this one. Its `make_spec` returns
  the specification without building the simulator:

      class Pong(PixelEnv):
        def __init__(self, **options):
          super().__init__(gym.make("ALE/Pong-v5"), self.make_spec(**options))

        @staticmethod
        def make_spec(**options): return EnvSpec(...)

  `frame`, `privileged` and `cut_short` may be overridden. `render` returns the native frame.
  """

  def frame(self, observation: Any) -> np.ndarray:
    """Returns the native frame of an observation.

    It is called once for each frame that the agent sees, so expensive drawing belongs here.

    Args:
      observation: the latest observation of the wrapped environment.

    Returns:
      `uint8[H, W, C]`; `observation` itself, unless a subclass overrides this method.
    """
    return observation

  def native(self, observation: Any) -> np.ndarray:
    """Returns the result of `frame`. See `AdaptedEnv.native`."""
    return self.frame(observation)

  def render(self) -> np.ndarray | None:
    """Returns a copy of the latest native frame, `uint8[H, W, 3]`; None before the first reset."""
    return None if self._native is None else self._picture()

  def _render_mode(self) -> str:
    return "rgb_array"


def _check_spec(spec: EnvSpec) -> None:
  if spec.action_repeat < 1:
    raise ValueError(f"{spec.name}: action_repeat must be at least 1, not {spec.action_repeat}.")
  if not 0 <= spec.frames_to_skip < spec.max_steps:
    raise ValueError(
      f"{spec.name}: frames_to_skip ({spec.frames_to_skip}) must be at least 0 and less than "
      f"max_steps ({spec.max_steps})."
    )
  space, size = spec.action_space, len(spec.action_space.env_names)
  if not space.is_categorical and np.shape(space.matrix) != (space.size, size):
    raise ValueError(
      f"{spec.name}: the action matrix must have shape [{space.size}, {size}] (agent's actions, "
      f"environment's actions), not {list(np.shape(space.matrix))}."
    )
