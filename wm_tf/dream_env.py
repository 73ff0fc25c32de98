"""A learned world model as a gymnasium environment.

Dreams of a run or of an exported world model have a name; `wm_tf.runs.dreams` documents the
options:

    gymnasium.make("wm_tf/Dream-v0", workdir="runs/quickstart")
    gymnasium.make_vec("wm_tf/Dream-v0", num_envs=64, workdir="runs/quickstart")

An episode starts in a real state, terminates at random with the model's probability of termination,
and is truncated after `horizon` decisions.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import tensorflow as tf
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space

import wm_tf
from wm_tf.core import Nest, ObservationSpec
from wm_tf.dream import Dream as Dream
from wm_tf.dream_pictures import picture
from wm_tf.envs.spaces import agent_space

OBSERVATIONS = ("features", "observation", "pixels")
_FRAMES_PER_SECOND = 12
# Keys of `info`, and their values where no step was taken.
_INFO = {"imagined_reward": 0.0, "discount": 1.0, "disagreement": 0.0}


class _Rows:
  """B episodes of a dream that are played together, each with its own random numbers."""

  def __init__(self, dream: Dream, num: int, horizon: int, observation: str):
    images = dream.observation.images
    if observation not in OBSERVATIONS:
      raise ValueError(f"observation must be one of {OBSERVATIONS}, not {observation!r}.")
    if observation == "pixels" and len(images) != 1:
      raise ValueError(
        f"observation=pixels is for environments of one image; this one has {len(images)}. Use "
        "observation=observation."
      )
    try:
      self._horizon = operator.index(horizon)
    except TypeError:
      raise ValueError(f"horizon must be a whole number, not {horizon!r}.") from None
    if self._horizon < 1:
      raise ValueError(f"horizon must be positive, not {horizon}.")
    self._dream, self._mode = dream, observation
    self._state = self._decoded = None
    self._time = np.zeros(num, np.int32)
    self._start, self._seed = np.zeros(num, np.int32), np.zeros(num, np.int32)
    self.over = np.zeros(num, bool)

  def observation_space(self) -> gym.Space:
    """Returns the space of one observation."""
    if self._mode == "features":
      return gym.spaces.Box(-np.inf, np.inf, (self._dream.world_model.feature_size,), np.float32)
    if self._mode == "pixels":
      return agent_space(ObservationSpec((self._dream.observation.images[0]._replace(name=""),)))
    return agent_space(self._dream.observation)

  def _draw(self, generators: Sequence[np.random.Generator], which: np.ndarray) -> None:
    """Draws a start and a seed for the rows where `which` is true."""
    for row in np.flatnonzero(which):
      self._start[row] = generators[row].integers(self._dream.num_starts)
      self._seed[row] = generators[row].integers(2**31)

  def reset(self, generators: Sequence[np.random.Generator]) -> tuple[Nest, dict[str, np.ndarray]]:
    """Starts every episode; returns observations and infos, each `[B, ...]`."""
    wm_tf.check_not_forked()
    self._draw(generators, np.ones(len(generators), bool))
    state, features = self._dream.begin(tf.constant(self._start))
    self._check_finite("features", features.numpy(), np.ones(len(generators), bool))
    self._state, self._decoded = state, None
    self.over[:], self._time[:] = False, 0
    infos = {name: np.full(len(generators), value) for name, value in _INFO.items()}
    return self._observation(features), infos

  def step(self, encoded: np.ndarray, generators: Sequence[np.random.Generator]):
    """Takes a step in every row.

    A row whose episode ended in the previous step starts a new one, and its action is not used.

    Args:
      encoded: actions `float32[B, A]`, as the world model takes them.
      generators: B random number generators.

    Returns:
      Observations, rewards, terminated, truncated, infos; each `[B, ...]`.
    """
    over = self.over.copy()
    self._draw(generators, over)
    time = np.where(over, 0, self._time + 1).astype(np.int32)
    state, features, reward, terminated, details = self._dream.step(
      self._state,
      tf.constant(encoded),
      tf.constant(np.stack([self._seed, time], axis=1)),
      tf.constant(over),
      tf.constant(self._start),
    )
    features = features.numpy()
    infos = {name: value.numpy() for name, value in zip(_INFO, details, strict=True)}
    for name, values in infos.items():
      self._check_finite(name, values, ~over)
    self._check_finite("features", features, np.ones_like(over))
    infos = {name: np.where(over, _INFO[name], infos[name]).astype(np.float64) for name in infos}
    self._state, self._decoded, self._time = state, None, time
    reward = np.where(over, 0.0, reward.numpy()).astype(np.float64)
    terminated = terminated.numpy() & ~over
    truncated = (time >= self._horizon) & ~terminated
    self.over = terminated | truncated
    return self._observation(features), reward, terminated, truncated, infos

  def require_begun(self) -> None:
    """Checks that `reset` was called, and in this process."""
    wm_tf.check_not_forked()
    if self._state is None:
      raise RuntimeError("No dream has begun; call reset() first.")

  def encode(self, actions: Any) -> np.ndarray:
    """Converts actions `[B, ...]` to `float32[B, A]`; actions of rows that are over are ignored."""
    return self._dream.actions.encode(actions, ~self.over)

  def pictures(self) -> list[np.ndarray]:
    """Returns a picture of each row, `uint8[H, W, 3]`."""
    if self._state is None:
      raise RuntimeError("There is nothing to render yet; call reset() first.")
    wm_tf.check_not_forked()
    spec, values = self._dream.observation, self._dream.observation.unpack(self._decode())
    return [
      picture(spec.pack([value[row] for value in values]), spec) for row in range(len(self.over))
    ]

  def _decode(self) -> Nest:
    """Returns the decoded observations `[B, ...]`; they are kept until the next step."""
    if self._decoded is None:
      self._decoded = tf.nest.map_structure(lambda x: x.numpy(), self._dream.decode(self._state))
    return self._decoded

  def _observation(self, features: np.ndarray) -> Nest:
    if self._mode == "features":
      return np.array(features)
    decoded, spec = self._decode(), self._dream.observation
    if self._mode == "pixels":
      decoded = spec.unpack(decoded)[spec.parts.index(spec.images[0])]
    return tf.nest.map_structure(np.copy, decoded)

  def _check_finite(self, name: str, values: np.ndarray, used: np.ndarray) -> None:
    finite = np.isfinite(values.reshape(len(used), -1)).all(axis=1)
    if not finite[used].all():
      raise ValueError(
        f"The world model {self._dream.name} predicts NaN or infinity as {name}; train it again, "
        "or dream in another one."
      )


class DreamEnv(gym.Env):
  """An environment that dreams one episode at a time.

  `info` holds the step's `imagined_reward` (before the penalty), `discount` (1 - P(terminal)) and
  `disagreement`; after `reset()` these are 0, 1 and 0.
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
      dream: the dream; environments can share it.
      horizon: number of decisions after which an episode is truncated.
      observation: `features` (the input of the project's own policies, `float32[F]`), `observation`
        (decoded observations, as an agent sees them: an image `uint8[H, W, C]`, a vector
        `float32[D]`, or a dict of these), or `pixels`, the only image of the observation.
      render_mode: `rgb_array` or None.

    Raises:
      ValueError: if an argument is invalid.
    """
    self._rows = _Rows(dream, 1, horizon, observation)
    self.observation_space = self._rows.observation_space()
    self.action_space = dream.actions.space
    self.render_mode = _checked_mode(render_mode)

  def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
    """Starts an episode in a random start of the dream. See `gymnasium.Env.reset`."""
    super().reset(seed=_python_integer(seed))
    observation, infos = self._rows.reset([self.np_random])
    return _first_row(observation), {name: float(value[0]) for name, value in infos.items()}

  def step(self, action):
    """Takes a step in the dream. See `gymnasium.Env.step`."""
    self._rows.require_begun()
    if self._rows.over[0]:
      raise RuntimeError("The episode is over; call reset() first.")
    encoded = self._rows.encode([action])
    observation, reward, terminated, truncated, infos = self._rows.step(encoded, [self.np_random])
    info = {name: float(value[0]) for name, value in infos.items()}
    return _first_row(observation), float(reward[0]), bool(terminated[0]), bool(truncated[0]), info

  def render(self) -> np.ndarray | None:
    """Returns a picture of the state, `uint8[H, W, 3]`; None without `render_mode`.

    It is the first image of the decoded observation, or bars of its numbers if there is no image.
    """
    return self._rows.pictures()[0] if self.render_mode else None


class DreamVectorEnv(gym.vector.VectorEnv):
  """A vector environment of dreams, which takes all steps in one compiled call.

  Row i of an environment reset with seed s dreams the same as a `DreamEnv` reset with seed s + i. A
  row that is over starts a new episode in the next step, which ignores its action and gives no
  reward (`AutoresetMode.NEXT_STEP`). Infos are arrays, each with a mask of the same name after `_`,
  as in gymnasium's own vector environments.
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
    """Makes an environment.

    Args:
      dream, horizon, observation, render_mode: see `DreamEnv`.
      num_envs: number of rows.

    Raises:
      ValueError: if an argument is invalid.
    """
    if num_envs < 1:
      raise ValueError(f"num_envs must be positive, not {num_envs}.")
    self.num_envs = num_envs
    self._rows = _Rows(dream, num_envs, horizon, observation)
    self.single_observation_space = self._rows.observation_space()
    self.single_action_space = dream.actions.space
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
    """Starts an episode in every row.

    Args:
      seed: seed of the first row, from which the others count up; or one seed for each row.
      options: ignored.

    Returns:
      Observations and infos, each `[B, ...]`.

    Raises:
      ValueError: if there are seeds, but not one for each row.
      gymnasium.error.Error: if a seed is not an integer of at least 0.
    """
    del options
    before = self._generators or [None] * self.num_envs
    self._generators = [
      old if old is not None and s is None else seeding.np_random(_python_integer(s))[0]
      for s, old in zip(self._seeds(seed), before, strict=True)
    ]
    observation, infos = self._rows.reset(self._generators)
    return observation, self._with_masks(infos)

  def _seeds(self, seed: Any) -> list[Any]:
    """Returns the seed of each row."""
    if seed is None:
      return [None] * self.num_envs
    if not isinstance(seed, Sequence | np.ndarray):
      _, first = seeding.np_random(_python_integer(seed))  # Raises for an invalid seed.
      return [first + row for row in range(self.num_envs)]
    if len(seed) != self.num_envs:
      raise ValueError(f"{len(seed)} seeds were given for {self.num_envs} environments.")
    return list(seed)

  def step(self, actions):
    """Takes a step in every row. See `gymnasium.vector.VectorEnv.step`."""
    self._rows.require_begun()
    *results, infos = self._rows.step(self._rows.encode(actions), self._generators)
    return *results, self._with_masks(infos)

  def render(self) -> tuple[np.ndarray, ...] | None:
    """Returns a picture of each row, as `DreamEnv.render` does."""
    return tuple(self._rows.pictures()) if self.render_mode else None

  def _with_masks(self, infos: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return infos | {f"_{name}": np.ones(self.num_envs, bool) for name in infos}


def _first_row(nest: Nest) -> Nest:
  return tf.nest.map_structure(lambda x: x[0], nest)


def _python_integer(seed: Any) -> Any:
  """Converts a NumPy integer to the `int` that gymnasium takes; returns anything else as it is."""
  return int(seed) if isinstance(seed, np.integer) else seed


def _checked_mode(render_mode: str | None) -> str | None:
  if render_mode not in (None, "rgb_array"):
    raise ValueError(f"render_mode must be rgb_array or None, not {render_mode!r}.")
  return render_mode
