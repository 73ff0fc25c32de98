"""The dream as gymnasium environments: a learned world model for anyone's reinforcement learning.

By name, of a run or of an exported world model (`trainers/dreams.py` says what more can be given):

    gymnasium.make("wm_tf/Dream-v0", workdir="runs/quickstart")
    gymnasium.make_vec("wm_tf/Dream-v0", num_envs=64, workdir="runs/quickstart")

An episode begins in a real state, ends where the model draws a termination, and is truncated after
`horizon` decisions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import tensorflow as tf
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space

from wm_tf import rng
from wm_tf.core import Nest
from wm_tf.models.world_model import WorldModel, to_uint8

OBSERVATIONS = ("features", "pixels")
_FRAMES_PER_SECOND = 12


class Dream:
  """What the environments are made of: compiled functions, and no state. Any number may share it.

  Attributes:
    world_model: any.
    num_starts: how many states there are to begin in.
  """

  def __init__(
    self,
    world_model: WorldModel,
    starts: Nest,
    *,
    temperature: float = 1.0,
    disagreement_penalty: float = 0.0,
    jit_compile: bool = True,
  ):
    """Makes ready to dream.

    Args:
      world_model: any.
      starts: real states, each burnt in on what was before it: a nest of `[S, ...]`.
      temperature: of the dream.
      disagreement_penalty: what a unit of disagreement beyond the usual takes from the reward.
      jit_compile: whether steps are compiled by XLA.
    """
    self.world_model = world_model
    self.num_starts = len(tf.nest.flatten(starts)[0])
    pick = lambda rows: tf.nest.map_structure(lambda x: tf.gather(x, rows), starts)

    def begin(rows):
      state = pick(rows)
      return state, world_model.features(state)

    def step(state, action, seed, over, rows):
      imagine_seed, end_seed = rng.split(seed, 2)
      found = world_model.imagine(state, action, imagine_seed, temperature)
      mask = lambda x: tf.reshape(over, [-1] + [1] * (x.shape.rank - 1))
      state = tf.nest.map_structure(
        lambda new, old: tf.where(mask(old), new, old), pick(rows), found.state
      )
      ended = rng.uniform(tf.shape(over), end_seed) >= found.discount
      reward = found.reward - disagreement_penalty * world_model.unfamiliarity(found.disagreement)
      return state, world_model.features(state), reward, ended, found[1:]

    def frames(state):
      return to_uint8(world_model.decode(state))

    # `begin(rows int32[B]) -> (state, features)`, `frames(state) -> uint8[B, 64, 64, 3]`.
    self.begin = tf.function(begin)
    self.frames = tf.function(frames)  # Not by XLA, under which convolutions are slow.
    # `step(state, action, seed int32[B, 2], over bool[B], rows int32[B])`: where `over`, the row
    # begins anew in start `rows` instead. Answers the state, its features, the reward less the
    # penalty, whether the model ended it, and `(reward, discount, disagreement)`.
    self.step = tf.function(step, jit_compile=jit_compile)


class _Rows:
  """B episodes of a dream side by side, each with random numbers of its own."""

  def __init__(self, dream: Dream, num: int, horizon: int, observation: str):
    if observation not in OBSERVATIONS:
      raise ValueError(f"observation must be one of {OBSERVATIONS}, not {observation!r}.")
    if horizon < 1:
      raise ValueError(f"horizon must be positive, not {horizon}.")
    self._dream, self._horizon, self._pixels = dream, horizon, observation == "pixels"
    self._action_shape = num, dream.world_model.action_size
    self._state = None
    self._over = np.zeros(num, bool)
    self._time = np.zeros(num, np.int32)
    self._row, self._seed = np.zeros(num, np.int32), np.zeros(num, np.int32)

  def observation_space(self) -> gym.spaces.Box:
    if self._pixels:
      return gym.spaces.Box(0, 255, (64, 64, 3), np.uint8)
    return gym.spaces.Box(-np.inf, np.inf, (self._dream.world_model.feature_size,), np.float32)

  def action_space(self) -> gym.spaces.Box:
    return gym.spaces.Box(-1.0, 1.0, self._action_shape[1:], np.float32)

  def _draw(self, generators, which) -> None:
    """Draws a start and a seed for the rows of which `which` is true."""
    for row in np.flatnonzero(which):
      self._row[row] = generators[row].integers(self._dream.num_starts)
      self._seed[row] = generators[row].integers(2**31)

  def reset(self, generators: Sequence[np.random.Generator]) -> np.ndarray:
    self._draw(generators, np.ones(len(generators), bool))
    self._state, features = self._dream.begin(tf.constant(self._row))
    self._over[:], self._time[:] = False, 0
    return self._seen(features)

  def step(self, action, generators):
    """Returns observations, rewards, terminated, truncated, infos; `[B, ...]` each.

    A row whose episode ended in the step before begins anew, and its action is not used.
    """
    if self._state is None:
      raise RuntimeError("No dream is under way; call reset() first.")
    action = np.asarray(action, np.float32)
    if action.shape != self._action_shape:
      raise ValueError(
        f"Actions must have shape {list(self._action_shape)}, not {list(action.shape)}."
      )
    if not np.isfinite(action[~self._over]).all():
      raise ValueError(f"Some actions are not finite: {action.tolist()}.")
    over = self._over.copy()
    self._draw(generators, over)
    self._time = np.where(over, 0, self._time + 1).astype(np.int32)
    action = np.where(over[:, np.newaxis], 0.0, np.clip(action, -1.0, 1.0)).astype(np.float32)
    self._state, features, reward, ended, details = self._dream.step(
      self._state,
      tf.constant(action),
      tf.constant(np.stack([self._seed, self._time], axis=1)),
      tf.constant(over),
      tf.constant(self._row),
    )
    terminated = ended.numpy() & ~over
    truncated = (self._time >= self._horizon) & ~terminated
    self._over = terminated | truncated
    names = ("imagined_reward", "discount", "disagreement")
    infos = {name: np.where(over, 0.0, x.numpy()) for name, x in zip(names, details, strict=True)}
    reward = np.where(over, 0.0, reward.numpy()).astype(np.float64)
    return self._seen(features), reward, terminated, truncated, infos

  @property
  def over(self) -> np.ndarray:
    return self._over

  def frames(self) -> np.ndarray:
    if self._state is None:
      raise RuntimeError("There is nothing to render yet; call reset() first.")
    return self._dream.frames(self._state).numpy()

  def _seen(self, features: tf.Tensor) -> np.ndarray:
    return self.frames() if self._pixels else features.numpy()


class DreamEnv(gym.Env):
  """One dream at a time.

  `info` holds `imagined_reward` (before the penalty), `discount` (1 - P(terminal)) and
  `disagreement` of the step.
  """

  metadata = {"render_modes": ["rgb_array"], "render_fps": _FRAMES_PER_SECOND}  # noqa: RUF012

  def __init__(
    self,
    dream: Dream,
    *,
    horizon: int = 250,
    observation: str = "features",
    render_mode: str | None = None,
  ):
    """Makes an environment.

    Args:
      dream: what is dreamed, which environments may share.
      horizon: decisions after which an episode is truncated.
      observation: `features` (what the project's own controllers see, `float32[F]`), or `pixels`,
        the decoded frame `uint8[64, 64, 3]`.
      render_mode: `rgb_array` or None.

    Raises:
      ValueError: if an argument makes no sense.
    """
    self._rows = _Rows(dream, 1, horizon, observation)
    self.observation_space = self._rows.observation_space()
    self.action_space = self._rows.action_space()
    self.render_mode = _checked_mode(render_mode)

  def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
    super().reset(seed=seed)
    return self._rows.reset([self.np_random])[0], {}

  def step(self, action):
    if self._rows.over[0]:
      raise RuntimeError("The episode is over; call reset() first.")
    observation, reward, terminated, truncated, infos = self._rows.step(
      np.asarray(action)[np.newaxis], [self.np_random]
    )
    info = {name: float(value[0]) for name, value in infos.items()}
    return observation[0], float(reward[0]), bool(terminated[0]), bool(truncated[0]), info

  def render(self) -> np.ndarray | None:
    """The decoded frame, `uint8[64, 64, 3]`."""
    return self._rows.frames()[0] if self.render_mode else None


class DreamVectorEnv(gym.vector.VectorEnv):
  """Many dreams, of which all take a step in one compiled call.

  Row i of an environment reset with seed s dreams what a `DreamEnv` reset with s + i does. Rows
  that are over begin anew in the next step, which ignores their actions and rewards nothing
  (`AutoresetMode.NEXT_STEP`).
  """

  metadata = {  # noqa: RUF012
    "render_modes": ["rgb_array"],
    "render_fps": _FRAMES_PER_SECOND,
    "autoreset_mode": AutoresetMode.NEXT_STEP,
  }

  def __init__(
    self,
    dream: Dream,
    num_envs: int = 1,
    *,
    horizon: int = 250,
    observation: str = "features",
    render_mode: str | None = None,
  ):
    """Makes `num_envs` of them; the other arguments are those of `DreamEnv`."""
    if num_envs < 1:
      raise ValueError(f"num_envs must be positive, not {num_envs}.")
    self.num_envs = num_envs
    self._rows = _Rows(dream, num_envs, horizon, observation)
    self.single_observation_space = self._rows.observation_space()
    self.single_action_space = self._rows.action_space()
    self.observation_space = batch_space(self.single_observation_space, num_envs)
    self.action_space = batch_space(self.single_action_space, num_envs)
    self.render_mode = _checked_mode(render_mode)
    self._generators: list[np.random.Generator] | None = None

  def reset(
    self,
    *,
    seed: int | Sequence[int | None] | None = None,
    options: dict[str, Any] | None = None,
  ):
    """Begins every episode anew; `seed` is the first row's (the next one's is one more), or a list.

    Raises:
      ValueError: if a list of seeds has another length than there are rows.
    """
    if isinstance(seed, int | np.integer):
      seed = [int(seed) + row for row in range(self.num_envs)]
    elif seed is None:
      seed = [None] * self.num_envs
    if len(seed) != self.num_envs:
      raise ValueError(f"{len(seed)} seeds were given for {self.num_envs} environments.")
    before = self._generators or [None] * self.num_envs
    self._generators = [
      old if old is not None and s is None else seeding.np_random(s)[0]
      for s, old in zip(seed, before, strict=True)
    ]
    return self._rows.reset(self._generators), {}

  def step(self, actions):
    if self._generators is None:
      raise RuntimeError("No dream is under way; call reset() first.")
    began = self._rows.over.copy()
    observation, reward, terminated, truncated, infos = self._rows.step(actions, self._generators)
    # As gymnasium has them: "_name" says of which rows "name" is.
    infos |= {f"_{name}": ~began for name in tuple(infos)}
    return observation, reward, terminated, truncated, infos

  def render(self) -> tuple[np.ndarray, ...] | None:
    """The decoded frames, each `uint8[64, 64, 3]`."""
    return tuple(self._rows.frames()) if self.render_mode else None


def _checked_mode(render_mode: str | None) -> str | None:
  if render_mode not in (None, "rgb_array"):
    raise ValueError(f"render_mode must be rgb_array or None, not {render_mode!r}.")
  return render_mode
