"""Checks and converts what is recorded with episodes, so that it can always be read back."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from wm_tf.core import EnvSpec
from wm_tf.data.manifest import EpisodeInfo, Manifest
from wm_tf.data.observations import ArraySpec, unpack
from wm_tf.files import to_json


def new_manifest(spec: EnvSpec, options: Mapping[str, Any]) -> Manifest:
  """Returns the manifest of a folder without episodes.

  Args:
    spec: the environment's specification.
    options: the options that the environment was built with.

  Raises:
    ValueError: if an option cannot be recorded.
  """
  environment = {"name": spec.name, "options": recorded_options(options)}
  manifest = Manifest(environment, spec.action_size)
  arrays = array_specs(spec)
  if spec.observation.is_array:
    shape, dtype = arrays[""]
    return manifest._replace(observation_shape=shape, observation_dtype=dtype)
  return manifest._replace(observation_dtype="", observation_parts=arrays)


def array_specs(spec: EnvSpec) -> dict[str, ArraySpec]:
  """Returns the shape and dtype of each array of an environment's observations, sorted by name.

  Args:
    spec: the environment's specification.
  """
  parts = [ArraySpec(tuple(part.shape), part.dtype) for part in spec.observation.parts]
  return {"": parts[0]} if spec.observation.is_array else unpack(spec.observation.pack(parts))


def recorded_options(options: Mapping[str, Any]) -> dict[str, Any]:
  """Returns the options of an environment as a manifest records them.

  Args:
    options: the options by name.

  Raises:
    ValueError: if an option cannot be recorded.
  """
  found = {}
  for name, value in options.items():
    try:
      found[name] = to_json(value)
      json.loads(json.dumps(found[name]), parse_constant=_refuse_nan)
    except ValueError as error:
      raise ValueError(
        f"Option {name!r} of the environment cannot be recorded with its rollouts ({error}); use "
        "numbers, strings, booleans, lists and mappings."
      ) from error
  return found


def _refuse_nan(constant: str) -> float:
  if constant == "NaN":
    raise ValueError("NaN is not equal to itself")
  return float(constant)


def recorded_info(info: EpisodeInfo) -> EpisodeInfo:
  """Returns an episode's information as a record and a manifest store it.

  Integers become `int`, and the return is rounded to float32.

  Args:
    info: the episode's information.

  Raises:
    ValueError: if a value could not be read back.
  """
  try:
    with np.errstate(over="ignore"):
      value = float(np.float32(info.episode_return))
  except (TypeError, ValueError):
    value = math.nan
  if not math.isfinite(value):
    raise ValueError(
      f"Episode of seed {info.seed}: episode_return is {info.episode_return!r}; it must be a "
      "finite number."
    )
  try:
    policy = info.policy.encode().decode()
  except (AttributeError, UnicodeError):
    raise ValueError(
      f"Episode of seed {info.seed}: policy is {info.policy!r}; it must be text."
    ) from None
  counts = {
    name: natural(getattr(info, name), f"Episode of seed {info.seed}: {name}")
    for name in ("seed", "iteration", "frames", "steps")
  }
  if not counts["steps"]:
    raise ValueError(f"Episode of seed {info.seed}: steps is 0; it must be at least 1.")
  return info._replace(policy=policy, episode_return=value, **counts)


def natural(value: Any, name: str) -> int:
  """Returns an integer from 0 to 2^63 - 1 as an `int`.

  Args:
    value: an `int` or a NumPy integer.
    name: the value's name in the error message.

  Raises:
    ValueError: if `value` is not such an integer.
  """
  is_integer = isinstance(value, int | np.integer)
  if not is_integer or not 0 <= value < 2**63:
    raise ValueError(f"{name} is {value!r}; it must be an integer from 0 to 2**63 - 1.")
  return int(value)


def distinct_seeds(seeds: Iterable[int]) -> list[int]:
  """Returns the seeds of episodes as a list of `int`.

  Args:
    seeds: distinct integers from 0 to 2^63 - 1.

  Raises:
    ValueError: if a seed is not such an integer, or is repeated.
  """
  seeds = [natural(seed, "A seed of an episode") for seed in seeds]
  if len(set(seeds)) != len(seeds):
    repeated = next(seed for seed in seeds if seeds.count(seed) > 1)
    raise ValueError(f"The seeds of a collection must be distinct; {repeated} is repeated.")
  return seeds
