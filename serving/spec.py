"""The specification of a served model's environment: the outputs of the signature `spec`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np


class ObservationPart(NamedTuple):
  """One array of an environment's observation.

  Attributes:
    name: key in a dict of observations; empty if the observation is this array.
    input: name of the input of `act` for this part.
    kind: `image` or `vector`.
    dtype: dtype in the environment.
    shape: shape in the environment.
    agent_shape: shape for the agent: `(H, W, C)` or `(D,)`.
    path: keys of this part in the environment's nested observation.
    axes: axes of an image in the order height, width, channels; empty for a vector.
    low, high: scalar range of an image's pixels, None if they are uint8 from 0 to 255; or bounds
      `float32[D]` of a vector, possibly infinite, None for integers with `num_choices`.
    num_choices: number of values of each integer that the agent gets as a one-hot vector; empty
      for other parts.
    start: lowest value of each such integer.
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
    """Creates a part from its entry in the output `json` of the signature `spec`.

    Args:
      part: the JSON object.

    Returns:
      The part.
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
    """The shapes that `act` accepts for one observation.

    The first is the shape in the environment. An image has a second one, which has the agent's
    height and width in the axis order of the environment, unless both are equal.
    """
    if self.kind != "image":
      return (self.shape,)
    sized = list(self.shape)
    for axis, size in zip(self.axes[:2], self.agent_shape[:2], strict=True):
      sized[axis] = size
    return tuple(dict.fromkeys([self.shape, tuple(sized)]))


class Spec(NamedTuple):
  """The specification of the environment that a served model acts in.

  Attributes:
    name: short name of the environment, such as `car_racing`.
    env_id: gymnasium id.
    frame_size: `(height, width)` of the environment's frames, which `act` accepts; zeros if the
      observation is not one image.
    observation_size: `(height, width)` of the agent's frames, which `act` accepts too.
    action_repeat: number of environment frames for which each action is repeated.
    frames_to_skip: number of frames with `idle_action` before the first call.
    idle_action: an action of the environment; an int if the environment is discrete.
    max_steps: frames in a full episode, including skipped frames.
    action_names: names of the environment's action dimensions, or of its choices.
    action_low: `float32[A_env]`; the first choice if actions are choices.
    action_high: `float32[A_env]`; the last choice if actions are choices.
    discrete: whether an action is one integer.
    state_names: names of the state tensors, which the client sends with each call.
    details: the output `json`: everything that the export recorded.
    observation: the parts of an observation; None for an older export of an image model.
    action_kind: `continuous`, `discrete`, `multi_discrete` or `multi_binary`.
    action_shape: shape of the environment's action.
    action_dtype: dtype of the environment's action.
    make_id: first argument of `gymnasium.make`, including the module that registers the id.
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
    """Creates a specification from the outputs of the signature `spec`.

    Args:
      outputs: arrays `[B, ...]` by name, of which the first row is used. Outputs that older exports
        lack get defaults.

    Returns:
      The specification.
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
  """Returns bounds `float32[D]` of a vector; JSON has null for infinite ones."""
  if part["num_choices"]:
    return None
  bounds = part[name] or [None] * part["shape"][0]
  return np.array([unbounded if x is None else x for x in bounds], np.float32)


def _texts(names: np.ndarray) -> tuple[str, ...]:
  return tuple(name.decode() for name in names)
