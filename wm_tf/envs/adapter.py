"""Turns any gymnasium environment that shows pixels into what agents here see: `PixelEnv`."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np

from wm_tf.core import EnvSpec
from wm_tf.envs import frames


class PixelEnv(gym.Env):
  """A pixel environment as agents see it: cropped, resized, with action repeat and a common action.

  A new environment is a subclass whose constructor calls this one, and a `make_spec` so that the
  specification can be had without building the simulator:

      class Pong(PixelEnv):
        def __init__(self, **options):
          super().__init__(gym.make("ALE/Pong-v5"), self.make_spec(**options))

        @staticmethod
        def make_spec(**options): return EnvSpec(...)

  `frame`, `privileged` and `cut_short` are there to be overridden.

  `info` of `reset` and `step` holds, besides what the wrapped environment says:
    `frames`: environment frames since the reset, skipped ones included.
    `episode_return`: sum of the wrapped environment's rewards since the reset, skipped frames
      included: the official return once the episode is over.
    `privileged`: readings of the simulator, for scripted policies only; never shown to an agent.
  """

  def __init__(self, env: gym.Env, spec: EnvSpec):
    """Wraps `env`, whose steps must be official frames, one each.

    Args:
      env: the environment. It need not know a time limit; if it has one it counts as well.
      spec: what to make of it.

    Raises:
      ValueError: if a number in `spec` makes no sense.
    """
    _check_spec(spec)
    self.env = env
    self.spec_ = spec
    self.observation_space = gym.spaces.Box(0, 255, spec.observation.parts[0].shape, np.uint8)
    self.action_space = gym.spaces.Box(-1.0, 1.0, (spec.action_size,), np.float32)
    self._over = True
    self._frames = 0
    self._return = 0.0
    self._native = None

  def frame(self, observation: Any) -> np.ndarray:
    """The native frame `uint8[H, W, C]` of the wrapped environment's latest `observation`.

    Called once for every frame that is kept, so drawing can be left until here.
    """
    return observation

  def privileged(self) -> dict[str, Any]:
    """Readings of the simulator now, for scripted policies."""
    return {}

  def cut_short(self) -> bool:
    """Whether to truncate the episode after this decision; for options of training data."""
    return False

  def reset(self, *, seed: int | None = None, options: dict | None = None):
    """Starts an episode and passes `frames_to_skip` frames; returns `(uint8[h, w, C], info)`."""
    super().reset(seed=seed)
    observation, info = self.env.reset(seed=seed, options=options)
    self._frames, self._return, self._over = 0, 0.0, False
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
    """Takes `action` (`float32[A]`, nominally in [-1, 1]) for `action_repeat` frames.

    Returns:
      observation `uint8[h, w, C]`, reward (float, the sum over the frames), terminated, truncated,
      info.

    Raises:
      ValueError: if the action has another shape or is not finite.
      RuntimeError: if the episode is over, or none has begun.
    """
    if self._over:
      raise RuntimeError(f"{self.spec_.name}: no episode is under way; call reset() first.")
    action = self._checked(action)
    observation, reward, terminated, truncated, info = self._advance(
      self.spec_.action_space.to_env(action), self.spec_.action_repeat
    )
    truncated = truncated or (not terminated and self.cut_short())
    self._over = terminated or truncated
    return self._view(observation), reward, terminated, truncated, self._info(info)

  def render(self) -> np.ndarray | None:
    """The native frame behind the latest observation, or None before the first reset."""
    return self._native

  def close(self) -> None:
    self.env.close()

  def _checked(self, action) -> np.ndarray:
    action = np.asarray(action, np.float32)
    names = self.spec_.action_space.names
    if action.shape != (len(names),):
      raise ValueError(
        f"{self.spec_.name}: an action must have shape [{len(names)}] ({', '.join(names)}), "
        f"not {list(action.shape)}."
      )
    if not np.isfinite(action).all():
      raise ValueError(f"{self.spec_.name}: action {action.tolist()} is not finite.")
    return action

  def _advance(self, env_action, num_frames: int):
    """Steps up to `num_frames` frames, fewer if the episode ends; sums the reward."""
    total = 0.0
    for _ in range(num_frames):
      observation, reward, terminated, truncated, info = self.env.step(env_action)
      self._frames += 1
      total += float(reward)
      self._return += float(reward)
      truncated = bool(truncated) or self._frames >= self.spec_.max_steps
      if terminated or truncated:
        break
    return observation, total, bool(terminated), truncated, info

  def _view(self, observation) -> np.ndarray:
    self._native = self.frame(observation)
    part = self.spec_.observation.parts[0]
    if self._native.shape != tuple(part.native_shape):
      raise ValueError(
        f"{self.spec_.name}: native_shape is {tuple(part.native_shape)} in the EnvSpec, but "
        f"the environment shows frames of shape {self._native.shape}."
      )
    return frames.resize(self._native, part.crop, part.shape[:2])

  def _info(self, info: dict) -> dict:
    return {
      **info,
      "frames": self._frames,
      "episode_return": self._return,
      "privileged": self.privileged(),
    }


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
