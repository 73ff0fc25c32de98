"""Finds and builds environments by gymnasium id, such as `gym:Pendulum-v1`.

Names such as `dmc:cartpole_swingup` are short for the ids that `wm_tf.envs.dmc` registers.
"""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import re
from collections.abc import Callable
from typing import NamedTuple

import gymnasium as gym
from gymnasium.envs.registration import EnvSpec, load_env_creator

from wm_tf.registry import UnknownNameError, nearest

PREFIX = "gym:"
DMC_PREFIX = "dmc:"


class _Provider(NamedTuple):
  """A package that registers ids when it is imported."""

  prefixes: tuple[str, ...]
  module: str
  requirement: str

  @property
  def remedy(self) -> str:
    return f"install it: pip install '{self.requirement}'"


_PROVIDERS = (
  _Provider(("ALE/",), "ale_py", "ale-py"),
  _Provider(("Vizdoom",), "vizdoom.gymnasium_wrapper", "vizdoom"),
  _Provider(("MiniGrid-", "BabyAI-"), "minigrid", "minigrid"),
  _Provider(("dm_control/",), "shimmy", "shimmy[dm-control]"),
)


@dataclasses.dataclass(frozen=True, repr=False)
class GymnasiumFactory:
  """Builds the environment of a gymnasium id.

  It holds gymnasium's specification, so it also works in a process where the id is not registered.

  Attributes:
    registered: gymnasium's specification.
    module: the module that registers the id when it is imported; None if it is not known.
  """

  registered: EnvSpec
  module: str | None = None

  @property
  def make_id(self) -> str:
    """The id that `gymnasium.make` takes in any process, with its module."""
    return f"{self.module}:{self.registered.id}" if self.module else self.registered.id

  def __repr__(self) -> str:
    return f"the entry point {self.registered.entry_point!r} of {self.registered.id!r}"

  def __call__(self, **options) -> gym.Env:
    """Calls `gymnasium.make`.

    Args:
      **options: keyword arguments of the environment's constructor.

    Returns:
      The environment.
    """
    return gym.make(self.registered, disable_env_checker=True, **options)

  def creator(self) -> Callable:
    """Returns the function or class that gymnasium calls to build the environment."""
    entry = self.registered.entry_point
    return load_env_creator(entry) if isinstance(entry, str) else entry


def find(gym_id: str) -> GymnasiumFactory:
  """Finds a gymnasium id and imports the package that registers it if that is known.

  Args:
    gym_id: `ID`, or `module:ID` with the module that registers it. An id without a version means
      the newest version.

  Returns:
    The factory.

  Raises:
    ValueError: if there is no such id or module; the message names the nearest ids or the package
      to install.
  """
  module, _, bare_id = gym_id.rpartition(":")
  if module:
    _import(module, gym_id, "install its package, or run from the folder that it is in.")
  found = _lookup(bare_id)
  for provider in _PROVIDERS if found is None else ():
    if bare_id.startswith(provider.prefixes):
      gym.register_envs(_import(provider.module, gym_id, provider.remedy))
      found = _lookup(bare_id)
  if found is None:
    for provider in _PROVIDERS:  # Some packages register ids without a prefix.
      if importlib.util.find_spec(provider.module.partition(".")[0]) is not None:
        gym.register_envs(_import(provider.module, gym_id, provider.remedy))
    found = _lookup(bare_id)
  if found is None:
    hint = nearest(bare_id, gym.registry)
    if hint.startswith("known are"):
      hint = "gymnasium.pprint_registry() lists all."
    raise UnknownNameError(
      f"Unknown gymnasium id {bare_id!r}; {hint} If a package registers it, name that as well: "
      f"{PREFIX}package:{bare_id}."
    )
  return GymnasiumFactory(found, module or _registering_module(found))


def find_dmc(task: str) -> GymnasiumFactory:
  """Finds a task of the DeepMind Control Suite.

  Args:
    task: its domain and name, such as `cartpole_swingup`.

  Returns:
    The factory.

  Raises:
    ValueError: if there is no such task, or the suite is not installed.
  """
  try:
    from wm_tf.envs import dmc
  except ImportError as error:
    raise ValueError(
      f"{DMC_PREFIX}{task} needs the DeepMind Control Suite, which cannot be imported ({error}); "
      "install it: pip install 'wm_tf[dmc]'"
    ) from error
  if task not in dmc.task_names():
    hint = nearest(task, dmc.task_names())
    raise UnknownNameError(f"Unknown task {task!r} of the DeepMind Control Suite; {hint}")
  return GymnasiumFactory(gym.registry[f"dmc/{task}"], dmc.__name__)


# What finds the environment that a name's prefix is followed by.
FINDERS = {PREFIX: find, DMC_PREFIX: find_dmc}


def _registering_module(spec: EnvSpec) -> str | None:
  """Returns the module of `_PROVIDERS` that registers an id, found by its environment's package."""
  package = re.split("[.:]", str(spec.entry_point))[0]
  modules = (provider.module for provider in _PROVIDERS)
  return next((module for module in modules if module.partition(".")[0] == package), None)


def _lookup(gym_id: str) -> EnvSpec | None:
  if gym_id in gym.registry:
    return gym.registry[gym_id]
  versions = [
    spec
    for spec in gym.registry.values()
    if spec.version is not None and gym_id == spec.id.removesuffix(f"-v{spec.version}")
  ]
  return max(versions, key=lambda spec: spec.version, default=None)


def _import(module: str, gym_id: str, remedy: str):
  try:
    return importlib.import_module(module)
  except ImportError as error:
    raise ValueError(
      f"{PREFIX}{gym_id} needs the module {module!r}, which cannot be imported ({error}); {remedy}"
    ) from error


def reward_threshold(env_id: str) -> float | None:
  """Returns the return at which gymnasium considers an environment solved; None if undefined.

  Args:
    env_id: a gymnasium id; any other name gives None.
  """
  try:
    return gym.spec(env_id).reward_threshold
  except (gym.error.Error, ModuleNotFoundError, ValueError):
    return None
