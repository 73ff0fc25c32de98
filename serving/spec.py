"""A served model's description of its environment, read from the output of the signature `spec`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np


class ObservationPart(NamedTuple):
  """One array of an environment's observation.

  Attributes:
    name: its name in a dict of observations; empty if the observation is this array.
    input: the name of the input of `act` that takes it.
    kind: `image` or `vector`.
    dtype: the dtype in the environment.
    shape: the shape in the environment.
    agent_shape: the shape that the agent sees: `(H, W, C)` or `(D,)`.
    path: the keys that lead to the array in the environment's observation.
    axes: for an image, the axes of `shape` in the order height, width, channels; empty for a
      vector.
    low, high: for an image, the range of its pixels, None if they are uint8 from 0 to 255; for a
      vector, `float32[D]` bounds, which may be infinite, None if it has `num_choices`.
    num_choices: for integers that the agent sees as one-hot vectors, the number of values of each.
    start: the lowest value of each such integer.
  """

  name: str
  input: str
  kind: str
  dtype: np.dtype
  shape: tuple[int, ...]
  agent_shape: tuple[int, ...]
  path: tuple[str | int, ...] = ()
  axes: tuple[int, ...] = ()
  low: Any = None
  high: Any = None
  num_choices: tuple[int, ...] = ()
  start: tuple[int, ...] = ()

  @classmethod
  def from_json(cls, part: Mapping[str, Any]) -> ObservationPart:
    """Makes a part from its entry in the output `json` of the signature `spec`.

    Args:
      part: the parsed JSON object.

    Returns:
      The part, with infinite bounds where the JSON has null.
    """
    shape, is_image = tuple(part["native_shape"]), part["kind"] == "image"
    num_choices = tuple(part["num_choices"])
    return cls(
      name=part["name"],
      input=part["input"],
      kind=part["kind"],
      dtype=np.dtype(part["native_dtype"]),
      shape=shape,
      agent_shape=tuple(part["shape"]),
      path=tuple(part["path"]),
      axes=tuple(part["axes"] or range(len(shape))) if is_image else (),
      low=part["low"] if is_image else _bound(part, "low", -np.inf),
      high=part["high"] if is_image else _bound(part, "high", np.inf),
      num_choices=num_choices,
      start=tuple(part["start"] or [0] * len(num_choices)),
    )

  @property
  def shapes(self) -> tuple[tuple[int, ...], ...]:
    """The shapes of one observation that `act` accepts, without the batch dimension.

    The first is the environment's own shape. An image may have a second one, with the environment's
    axes and the height and width that the agent sees.
    """
    if self.kind != "image":
      return (self.shape,)
    sized = list(self.shape)
    for axis, size in zip(self.axes[:2], self.agent_shape[:2], strict=True):
      sized[axis] = size
    return tuple(dict.fromkeys([self.shape, tuple(sized)]))


class Spec(NamedTuple):
  """The description of the environment that a served model acts in.

  Attributes:
    name: the environment's short name, such as `car_racing`.
    env_id: the gymnasium id.
    frame_size: `(height, width)` of the environment's frames, which `act` accepts; zeros if the
      observation is not one image.
    observation_size: `(height, width)` of the agent's frames, which `act` accepts too.
    action_repeat: the number of environment frames for which each action is held.
    frames_to_skip: the number of frames to pass with `idle_action` before the first call.
    idle_action: the environment's idle action; an int if the environment is discrete.
    max_steps: the number of frames in a full episode, including skipped ones.
    action_names: the names of the environment's action dimensions, or of its choices.
    action_low: `float32[A_env]`, the lowest action; for a discrete environment the first choice.
    action_high: `float32[A_env]`, the highest action; for a discrete environment the last choice.
    discrete: whether an action is one integer.
    state_names: the names of the state tensors that `act` takes and returns.
    details: everything else that the export recorded.
    observation: the parts of an observation; None for an older export of an image model.
    action_kind: `continuous`, `discrete`, `multi_discrete` or `multi_binary`.
    action_shape: the shape of the environment's action.
    action_dtype: the dtype of the environment's action.
    make_id: the id for `gymnasium.make`, with the module that registers it.
    make_kwargs: keyword arguments for `gymnasium.make`.
    rendered: whether the observation is the `rgb_array` frame that the environment renders.
  """

  name: str
  env_id: str
  frame_size: tuple[int, int]
  observation_size: tuple[int, int]
  action_repeat: int
  frames_to_skip: int
  idle_action: Any
  max_steps: int
  action_names: tuple[str, ...]
  action_low: np.ndarray
  action_high: np.ndarray
  discrete: bool
  state_names: tuple[str, ...]
  details: dict[str, Any]
  observation: tuple[ObservationPart, ...] | None
  action_kind: str
  action_shape: tuple[int, ...]
  action_dtype: np.dtype
  make_id: str
  make_kwargs: dict[str, Any]
  rendered: bool

  @classmethod
  def from_outputs(cls, outputs: Mapping[str, np.ndarray]) -> Spec:
    """Makes a description from the outputs of the signature `spec`.

    Args:
      outputs: arrays `[B, ...]` by name, of which the first rows are used. Older exports have fewer
        outputs.

    Returns:
      The description, with defaults for missing outputs.
    """
    raw = {name: rows[0] for name, rows in outputs.items()}
    details = json.loads(raw["json"])
    discrete = bool(raw["discrete"])
    parts = details.get("observation")
    env_id = raw["env_id"].decode()
    shape = () if discrete else raw["action_low"].shape
    return cls(
      name=raw["name"].decode(),
      env_id=env_id,
      frame_size=tuple(raw["frame_size"].tolist()),
      observation_size=tuple(raw["observation_size"].tolist()),
      action_repeat=int(raw["action_repeat"]),
      frames_to_skip=int(raw["frames_to_skip"]),
      idle_action=int(raw["idle_action"]) if discrete else raw["idle_action"],
      max_steps=int(raw["max_steps"]),
      action_names=_texts(raw["action_names"]),
      action_low=raw["action_low"],
      action_high=raw["action_high"],
      discrete=discrete,
      state_names=_texts(raw["state_names"]),
      details=details,
      observation=tuple(map(ObservationPart.from_json, parts)) if parts else None,
      action_kind=raw.get("action_kind", b"discrete" if discrete else b"continuous").decode(),
      action_shape=tuple(np.asarray(raw.get("action_shape", shape)).tolist()),
      action_dtype=np.dtype(raw.get("action_dtype", b"int64" if discrete else b"float32").decode()),
      make_id=details.get("make_id") or env_id,
      make_kwargs=details.get("make_kwargs") or {},
      rendered=bool(raw.get("rendered", False)),
    )


def _bound(part: Mapping[str, Any], name: str, unbounded: float) -> np.ndarray | None:
  """Returns the `float32[D]` bounds of a vector; JSON has null for infinite ones."""
  if part["num_choices"]:
    return None
  bounds = part[name] or [None] * part["shape"][0]
  return np.array([unbounded if x is None else x for x in bounds], np.float32)


def _texts(names: np.ndarray) -> tuple[str, ...]:
  return tuple(name.decode() for name in names)
