"""The types and the two seams that everything else is written against: one page.

The loop they describe, for B environments side by side:

    state = agent.initial_state(B)
    observation = env.reset()
    while not over:
      action, state = agent.act(observation, state, seed)
      observation, reward, ... = env.step(action)

Letters in shapes: B batch, T time, H horizon, N candidates, D search dimensions, A action size,
F features, Z latent size, K mixtures, M members of an ensemble, E episodes. Batch-major everywhere.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import numpy as np

Nest = Any  # An arbitrarily nested structure of tensors, opaque to whoever only carries it.


class ActionSpace(NamedTuple):
  """How an agent's action `a` (`[A]`, in [-1, 1]) becomes an action of the environment itself.

  Continuous: `clip(a @ matrix, low, high)`. Discrete: `argmax(a)`, and `matrix` is the identity.
  Kept as plain numbers so that an exported graph can do exactly what the Python adapter does.

  Attributes:
    names: A names of the agent's own action dimensions, such as `("steer", "pedal")`.
    env_names: names of the environment's action dimensions (A_env of them), or of its choices.
    matrix: `float32[A, A_env]`.
    low: `float32[A_env]`, lower bound of the environment's action.
    high: `float32[A_env]`, upper bound of the environment's action.
    discrete: whether the environment takes one integer.
  """

  names: tuple[str, ...]
  env_names: tuple[str, ...]
  matrix: np.ndarray
  low: np.ndarray
  high: np.ndarray
  discrete: bool = False

  @property
  def size(self) -> int:
    return len(self.names)

  def to_env(self, action: np.ndarray) -> np.ndarray | int:
    """Maps `float32[A]` to the environment's action (`float32[A_env]`, or an int if discrete)."""
    action = np.asarray(action, np.float32)
    if self.discrete:
      return int(np.argmax(action))
    return np.clip(action @ self.matrix, self.low, self.high).astype(np.float32)


class EnvSpec(NamedTuple):
  """What an agent, or a client in another language, must know about an environment.

  Attributes:
    name: the name `make_env` takes.
    env_id: the gymnasium id it wraps.
    observation_shape: `(64, 64, 3)`, what the agent sees; uint8.
    native_shape: the environment's own frame, such as `(96, 96, 3)`; uint8.
    crop: `(top, left, height, width)` of the native frame that is kept before resizing.
    action_space: see `ActionSpace`.
    action_repeat: environment frames per decision.
    frames_to_skip: frames passed at the start of an episode with `idle_action`, before the first
      observation. Their reward counts in the official return.
    idle_action: `float32[A_env]` action (or an int) sent during `frames_to_skip`.
    max_steps: frames (not decisions) after which an episode is truncated, skipped ones included.
  """

  name: str
  env_id: str
  observation_shape: tuple[int, int, int]
  native_shape: tuple[int, int, int]
  crop: tuple[int, int, int, int]
  action_space: ActionSpace
  action_repeat: int
  frames_to_skip: int
  idle_action: Any
  max_steps: int

  @property
  def action_size(self) -> int:
    return self.action_space.size

  @property
  def max_decisions(self) -> int:
    """Decisions in an episode that nothing ends early; the last one may repeat fewer frames."""
    return -(-(self.max_steps - self.frames_to_skip) // self.action_repeat)


class Episode(NamedTuple):
  """One episode as it lies on disk, in RLDS step alignment; NumPy arrays.

  Row `t` holds a frame, the action taken *at* that frame, and the reward received *for* that
  action. The last row carries the final frame with a zero action and a zero reward.

  Attributes:
    observation: `uint8[T, 64, 64, 3]`.
    action: `float32[T, A]`, in [-1, 1].
    reward: `float32[T]`, summed over the repeated frames.
    is_first: `bool[T]`, true in row 0 only.
    is_last: `bool[T]`, true in the last row only.
    is_terminal: `bool[T]`, true in the last row if the environment terminated (not truncated).
  """

  observation: np.ndarray
  action: np.ndarray
  reward: np.ndarray
  is_first: np.ndarray
  is_last: np.ndarray
  is_terminal: np.ndarray


class Batch(NamedTuple):
  """Sequences in arrival alignment, made in one place (`data/rows.py`).

  Column `t` holds a frame, the action that *led to* it, and the reward that *came with* it.

  Attributes:
    observation: `uint8[B, T, 64, 64, 3]` frames, or `float32[B, T, 2 Z]` cached posteriors
      (`loc` and `log_scale`, concatenated).
    prev_action: `float32[B, T, A]`; zero where `is_first`.
    reward: `float32[B, T]`; zero where `is_first`.
    discount: `float32[B, T]`; 0 where the episode terminated on arriving here, else 1.
    is_first: `bool[B, T]`.
    mask: `bool[B, T]`; false on padding.
  """

  observation: Any
  prev_action: Any
  reward: Any
  discount: Any
  is_first: Any
  mask: Any


class Prediction(NamedTuple):
  """One imagined step. `discount` is 1 - P(terminal); `disagreement` is 0 without an ensemble."""

  state: Nest
  reward: Any  # float32[B]
  discount: Any  # float32[B]
  disagreement: Any  # float32[B]


class Imagined(NamedTuple):
  """An imagined rollout of H steps.

  `features[:, t]` are those of the state in which `action[:, t]` is chosen; `reward[:, t]`,
  `discount[:, t]` and `disagreement[:, t]` are what that action brings.
  """

  features: Any  # float32[B, H, F]
  action: Any  # float32[B, H, A]
  reward: Any  # float32[B, H]
  discount: Any  # float32[B, H]
  disagreement: Any  # float32[B, H]


class AgentState(NamedTuple):
  """All that an agent remembers between two decisions; it goes in and comes out of `act`."""

  latent: Nest  # The world model's state.
  prev_action: Any  # float32[B, A]
  is_first: Any  # bool[B]; true until the first frame of an episode has been seen.
  memory: Nest  # The policy's own: a plan, an RNN state, or ().


class EvalResult(NamedTuple):
  """Official, undiscounted returns of E full episodes.

  `length` counts environment frames; `seeds` are the seeds the episodes were reset with.
  """

  episode_return: np.ndarray  # float32[E]
  length: np.ndarray  # int32[E]
  seeds: np.ndarray  # int64[E]


class Policy(Protocol):
  """Chooses actions from a world model's state.

  `memory` is the policy's own state: `()` for a linear controller, the plan for a planner.
  """

  def initial_memory(self, batch_size) -> Nest:
    """Returns memory for `batch_size` fresh episodes."""

  def act(self, state: Nest, memory: Nest, seed, explore: bool = False) -> tuple[Any, Nest]:
    """Returns `(action float32[B, A] in [-1, 1], memory)`.

    Args:
      state: the world model's state for B environments.
      memory: what the previous call returned, or `initial_memory(B)`.
      seed: `int32[2]`, or `int32[B, 2]` with one seed per row.
      explore: whether the policy may add exploration of its own.
    """
