"""Types that all other modules use, and the interface of policies.

The loop that they describe, for B environments in parallel:

    state = agent.initial_state(B)
    observation = env.reset()
    while not over:
      action, state = agent.act(observation, state, seed)
      observation, reward, ... = env.step(action)

Letters in shapes: B batch, T time, H horizon, N candidates, D search dimensions, A action size,
F features, Z latent size, K mixtures, M members of an ensemble, E episodes. Batch-major everywhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

Nest = Any  # An arbitrarily nested structure of tensors.

ACTION_KINDS = ("continuous", "discrete", "multi_discrete", "multi_binary")


class ActionSpace(NamedTuple):
  """Conversion of an agent's action `a` (`float32[A]`) to an action of the environment.

  A continuous agent's action lies in [-1, 1]; the environment's is
  `clip(a @ matrix + offset, low, high)`. A categorical one is a one-hot vector for each of G groups
  of choices, one after another (A is the sum of `num_choices`); the environment's is the index of
  each group's largest number plus `start`. If the environment takes integers, numbers are rounded
  (`rint`, ties to even). An exported graph converts actions from the same fields.

  Attributes:
    names: A names of the agent's own action dimensions, such as `("steer", "pedal")`.
    env_names: names of the environment's action dimensions (A_env of them); of the choices if
      discrete, of the G groups if multi-discrete or multi-binary.
    kind: one of `ACTION_KINDS`.
    matrix: `float32[A, A_env]`; continuous only.
    offset: `float32[A_env]`; continuous only; None for zeros.
    low: `float32[A_env]`, lower bound of the environment's action.
    high: `float32[A_env]`, upper bound of the environment's action.
    num_choices: choices of each of G groups; empty if continuous. One group if discrete, 2 choices
      in each group if multi-binary.
    start: the environment's number of each group's first choice; None for zeros.
    env_shape: shape of the environment's action; `(A_env,)` or `(G,)` if None, `()` if discrete.
    env_dtype: its dtype; float32, int64, or int8 (multi-binary) if None.
  """

  names: tuple[str, ...]
  env_names: tuple[str, ...]
  kind: str = "continuous"
  matrix: np.ndarray | None = None
  offset: np.ndarray | None = None
  low: np.ndarray | None = None
  high: np.ndarray | None = None
  num_choices: tuple[int, ...] = ()
  start: tuple[int, ...] | None = None
  env_shape: tuple[int, ...] | None = None
  env_dtype: str | None = None

  @property
  def size(self) -> int:
    """The size A of an agent's action."""
    return len(self.names)

  @property
  def is_categorical(self) -> bool:
    """Whether an action is a set of choices."""
    return self.kind != "continuous"

  @property
  def shape(self) -> tuple[int, ...]:
    """The shape of the environment's action."""
    if self.env_shape is not None:
      return tuple(self.env_shape)
    if self.kind == "discrete":
      return ()
    return (len(self.num_choices) if self.is_categorical else len(self.env_names),)

  @property
  def dtype(self) -> np.dtype:
    """The dtype of the environment's action."""
    defaults = {"continuous": "float32", "multi_binary": "int8"}
    return np.dtype(self.env_dtype or defaults.get(self.kind, "int64"))

  def canonical(self, action: np.ndarray) -> np.ndarray:
    """Returns the action as it is recorded: clipped to [-1, 1], or one-hot in each group.

    Args:
      action: `float32[..., A]`.

    Returns:
      `float32[..., A]`.
    """
    action = np.asarray(action, np.float32)
    if not self.is_categorical:
      return np.clip(action, -1.0, 1.0)
    groups = np.split(action, np.cumsum(self.num_choices)[:-1], axis=-1)
    one_hot = [np.eye(x.shape[-1], dtype=np.float32)[x.argmax(-1)] for x in groups]
    return np.concatenate(one_hot, axis=-1)

  def to_env(self, action: np.ndarray) -> np.ndarray | int:
    """Converts one action of an agent to the environment's.

    Args:
      action: `float32[A]`.

    Returns:
      An array of `shape` and `dtype`, or an int if the space is discrete.
    """
    action = np.asarray(action, np.float32)
    if self.is_categorical:
      groups = np.split(action, np.cumsum(self.num_choices)[:-1])
      chosen = np.array([group.argmax() for group in groups], np.int64)
      if self.start is not None:
        chosen += np.asarray(self.start, np.int64)
      return int(chosen[0]) if self.kind == "discrete" else self._shaped(chosen)
    found = action @ self.matrix
    if self.offset is not None:
      found = found + self.offset
    found = np.clip(found, self.low, self.high)
    return self._shaped(np.rint(found) if self.dtype.kind in "iu" else found)

  def _shaped(self, action: np.ndarray) -> np.ndarray:
    return action.reshape(self.shape).astype(self.dtype)


class ObservationPart(NamedTuple):
  """One array of an observation, in the form of the environment and in that of the agent.

  An image is converted for the agent in three steps: `transpose(axes)` with the trailing axes
  merged; `floor((x - low) * (255 / (high - low)) + 0.5)` in float64 if there are `low` and `high`;
  crop and exact area resize (`wm_tf.envs.frames.resize`). A vector is flattened and cast, or its
  integers become one-hot vectors.

  Attributes:
    name: its name, `[A-Za-z][A-Za-z0-9_]*`: the keys of `path` joined by `_`; empty if the
      observation is this array alone.
    kind: `image` (the agent sees `uint8[H, W, C]`) or `vector` (it sees `float32[D]`).
    shape: what the agent sees, `(H, W, C)` or `(D,)`.
    native_shape: the environment's own array, such as `(96, 96, 3)`; `()` for one number.
    native_dtype: its dtype.
    crop: image: `(top, left, height, width)` of the native image that is kept before resizing.
    axes: image: order in which the native axes are transposed to (height, width, channels...),
      trailing axes being merged into the channels; None if the native image is `[H, W, C]`.
    frame_channels: image: channels of one frame; fewer than C if frames are stacked, the newest
      last.
    low, high: `float32[D]`, range of a vector, may be infinite; or `float32[]`, range of an image's
      pixels, None if they are uint8 from 0 to 255.
    num_choices: vector: number of values of each integer that becomes a one-hot vector, one after
      another; empty for numbers that are kept.
    start: vector: the lowest value of each such integer; None for zeros.
    path: keys of nested Dicts, and indices of Tuples, that lead to the array in the environment's
      own observation; empty if it is the observation.
  """

  name: str
  kind: str
  shape: tuple[int, ...]
  native_shape: tuple[int, ...]
  native_dtype: str
  crop: tuple[int, int, int, int] | None = None
  axes: tuple[int, ...] | None = None
  frame_channels: int = 3
  low: np.ndarray | None = None
  high: np.ndarray | None = None
  num_choices: tuple[int, ...] = ()
  start: tuple[int, ...] | None = None
  path: tuple[str | int, ...] = ()

  @property
  def dtype(self) -> str:
    """The dtype of the array that the agent sees, `uint8` or `float32`."""
    return "uint8" if self.kind == "image" else "float32"


class ObservationSpec(NamedTuple):
  """What an agent observes: one array, or a dict of arrays by name.

  An observation of one part without a name is that array itself; any other is a dict.

  Attributes:
    parts: the parts, sorted by name.
  """

  parts: tuple[ObservationPart, ...]

  @property
  def is_array(self) -> bool:
    """Whether an observation is one array rather than a dict of arrays."""
    return len(self.parts) == 1 and not self.parts[0].name

  @property
  def images(self) -> tuple[ObservationPart, ...]:
    """The parts that are images."""
    return tuple(part for part in self.parts if part.kind == "image")

  @property
  def vectors(self) -> tuple[ObservationPart, ...]:
    """The parts that are vectors."""
    return tuple(part for part in self.parts if part.kind == "vector")

  def pack(self, values: Sequence[Any]) -> Nest:
    """Makes an observation of one value for each part.

    Args:
      values: values in the order of `parts`.

    Returns:
      The value itself if `is_array`, else a dict of values by name.
    """
    if self.is_array:
      (value,) = values
      return value
    return {part.name: value for part, value in zip(self.parts, values, strict=True)}

  def unpack(self, observation: Nest) -> list[Any]:
    """Returns the values of an observation's parts, in order; the inverse of `pack`. See `pack`."""
    return [observation] if self.is_array else [observation[part.name] for part in self.parts]


def image_observation(
  shape: tuple[int, int, int],
  native_shape: tuple[int, int, int],
  crop: tuple[int, int, int, int] | None = None,
) -> ObservationSpec:
  """Returns the specification of observations that are one image.

  Args:
    shape: `(H, W, C)` that the agent sees.
    native_shape: shape of the environment's own frame, uint8.
    crop: `(top, left, height, width)` that is kept of it; all of it if None.
  """
  crop = (0, 0, *native_shape[:2]) if crop is None else crop
  part = ObservationPart("", "image", shape, native_shape, "uint8", crop, None, shape[-1])
  return ObservationSpec((part,))


class EnvSpec(NamedTuple):
  """What an agent, or a client in another language, needs to know about an environment.

  Attributes:
    name: the name `make_env` takes.
    env_id: the gymnasium id it wraps.
    observation: see `ObservationSpec`.
    action_space: see `ActionSpace`.
    action_repeat: environment frames per decision.
    frames_to_skip: frames passed at the start of an episode with `idle_action`, before the first
      observation. Their reward counts in the official return.
    idle_action: the environment's own action that is sent during `frames_to_skip`.
    max_steps: frames (not decisions) after which an episode is truncated, skipped ones included.
    make_id: what `gymnasium.make` takes, with the module that registers it, such as
      `ale_py:ALE/Pong-v5`; None if that is `env_id`.
    make_kwargs: keyword arguments that `gymnasium.make` was given; None for none.
    rendered: whether the observation is the `rgb_array` frame that the environment renders.
  """

  name: str
  env_id: str
  observation: ObservationSpec
  action_space: ActionSpace
  action_repeat: int
  frames_to_skip: int
  idle_action: Any
  max_steps: int
  make_id: str | None = None
  make_kwargs: dict[str, Any] | None = None
  rendered: bool = False

  @property
  def action_size(self) -> int:
    """The size A of an agent's action."""
    return self.action_space.size

  @property
  def max_decisions(self) -> int:
    """Decisions in an episode that is truncated; the last one may repeat fewer frames."""
    return -(-(self.max_steps - self.frames_to_skip) // self.action_repeat)


class Episode(NamedTuple):
  """One episode as it is stored, in RLDS step alignment; NumPy arrays.

  Row `t` holds a frame, the action taken *at* that frame, and the reward received *for* that
  action. The last row has the final frame, a zero action and a zero reward.

  Attributes:
    observation: as an `ObservationSpec` says, with a leading T, such as `uint8[T, 64, 64, 3]`; a
      dict of such arrays if it has several parts.
    action: `float32[T, A]`, in [-1, 1] or one-hot.
    reward: `float32[T]`, summed over the repeated frames.
    is_first: `bool[T]`, true in row 0 only.
    is_last: `bool[T]`, true in the last row only.
    is_terminal: `bool[T]`, true in the last row if the environment terminated (not truncated).
  """

  observation: Nest
  action: np.ndarray
  reward: np.ndarray
  is_first: np.ndarray
  is_last: np.ndarray
  is_terminal: np.ndarray


class Embedded(NamedTuple):
  """Result of `WorldModel.embed`; in the two-stage family `loc` and `log_scale`, concatenated."""

  value: Any  # float32[..., E]


class Batch(NamedTuple):
  """Sequences in arrival alignment, made by `data/rows.py`.

  Column `t` holds a frame, the action that *led to* it, and the reward that *came with* it.

  Attributes:
    observation: as of an `Episode`, with leading B and T; or `Embedded`.
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
  `discount[:, t]` and `disagreement[:, t]` result from that action.
  """

  features: Any  # float32[B, H, F]
  action: Any  # float32[B, H, A]
  reward: Any  # float32[B, H]
  discount: Any  # float32[B, H]
  disagreement: Any  # float32[B, H]


class AgentState(NamedTuple):
  """The state of an agent between two decisions; `act` takes and returns it."""

  latent: Nest  # The world model's state.
  prev_action: Any  # float32[B, A]
  is_first: Any  # bool[B]; true until the first frame of an episode was observed.
  memory: Nest  # State of the policy: a plan, an RNN state, or ().


class EvalResult(NamedTuple):
  """Official, undiscounted returns of E full episodes.

  `length` counts environment frames; `seeds` are the seeds the episodes were reset with.
  """

  episode_return: np.ndarray  # float32[E]
  length: np.ndarray  # int32[E]
  seeds: np.ndarray  # int64[E]


class Policy(Protocol):
  """Chooses actions from a world model's state. `memory` is its own state; `()` if it has none."""

  def initial_memory(self, batch_size) -> Nest:
    """Returns the memory at the start of B episodes.

    Args:
      batch_size: B, an int or a scalar tensor.
    """

  def act(self, state: Nest, memory: Nest, seed, explore: bool = False) -> tuple[Any, Nest]:
    """Returns `(action float32[B, A], memory)`; actions are in [-1, 1] or one-hot groups.

    Args:
      state: the world model's state for B environments.
      memory: the result of the previous call, or `initial_memory(B)`.
      seed: `int32[2]`, or `int32[B, 2]` with one seed per row.
      explore: whether the policy may add exploration noise.
    """
