"""Environments by name, and functions that build them in this process and in workers.

A name is one of

    car_racing                   a registered name (`register_env`)
    gym:Pendulum-v1              a gymnasium id
    gym:my_package:Maze-v0       a gymnasium id, and the module that registers it
    dmc:cartpole_swingup         a task of the DeepMind Control Suite
    my_package.module:Factory    a callable that takes options and returns a gymnasium.Env

An environment that is not yet an `AdaptedEnv` is adapted (`wm_tf.envs.building`). It then takes the
options of `AdapterOptions` as well as its own. A factory may have these attributes:

    make_spec(**options) -> EnvSpec      the specification, without building the environment
    make_heuristic(**options)            a scripted policy
    RECIPE                               overrides of the configuration, by preset
    TRAINING_OPTIONS                     names of the options for training data that it takes
"""

from __future__ import annotations

import functools
import pickle
from collections.abc import Callable, Mapping

import numpy as np

from wm_tf.core import EnvSpec
from wm_tf.envs import building, gymnasium_ids
from wm_tf.envs.adapter import AdaptedEnv
from wm_tf.registry import Registry, UnknownNameError, load

_registry = Registry("environment")
_registry.register("car_racing", "wm_tf.envs.car_racing:CarRacing")
_registry.register("car_racing_3d", "wm_tf.envs.car_racing:CarRacing3D")


def register_env(name: str, factory: str | Callable) -> None:
  """Registers a name of an environment, for `make_env`.

  Args:
    name: the name, without a colon.
    factory: a callable that takes options and returns a `gymnasium.Env` or an `AdaptedEnv`; or
      another name: `"package.module:Factory"`, which is imported when needed, or `"gym:ID"`.

  Raises:
    ValueError: if the name is taken or contains a colon, or the factory is neither.
  """
  if ":" in name:
    raise ValueError(f"Environment name {name!r} contains a colon; choose another.")
  if not (":" in factory if isinstance(factory, str) else callable(factory)):
    raise ValueError(
      f"Environment {name!r}: its factory must be something to be called, or a string such as "
      f'"package.module:Factory", not {factory!r}.'
    )
  _registry.register(name, factory)


def env_names() -> tuple[str, ...]:
  """Returns the registered names, sorted."""
  return _registry.names()


def resolve(name: str) -> str | Callable:
  """Converts a name to a picklable form, for processes that lack its registration.

  Args:
    name: see the module.

  Returns:
    `"package.module:Factory"`, or a factory that is pickled by reference. `build_env` takes both.

  Raises:
    ValueError: if there is no such environment, or its factory cannot be sent to a worker.
  """
  target = _entry(name)
  if isinstance(target, str) and target.startswith(tuple(gymnasium_ids.FINDERS)):
    target = factory_of(target)
  _check_sendable(name, target)
  return target


def _entry(name: str) -> str | Callable:
  """Returns the factory that a name was registered with; a name with a colon itself."""
  if not isinstance(name, str):
    raise ValueError(f"An environment is given by name, not as {name!r}.")
  if ":" in name:
    return name
  try:
    return _registry.entry(name)
  except UnknownNameError as error:
    raise UnknownNameError(
      f"{error} A gymnasium id is written gym:{name}, a factory package.module:Factory."
    ) from None


def _check_sendable(name: str, target: str | Callable) -> None:
  try:
    sent = pickle.dumps(target)
  except (pickle.PicklingError, AttributeError, TypeError):
    sent = None
  # The main module of a worker differs from that of this process.
  if sent is None or b"__main__" in sent:
    raise ValueError(
      f"Environment {name!r} cannot be built in worker processes, because they cannot import "
      f"{target!r}; define it at the top level of a module of its own and name it "
      '"module:Factory" instead.'
    )


def factory_of(target: str | Callable) -> Callable:
  """Returns the factory of an environment.

  Args:
    target: a name, or a result of `resolve`.

  Returns:
    A callable that takes options and returns an environment.

  Raises:
    ValueError: if there is no such factory.
  """
  factory = target if callable(target) else _entry(target)
  if isinstance(factory, str):
    for prefix, find in gymnasium_ids.FINDERS.items():
      if factory.startswith(prefix):
        return find(factory.removeprefix(prefix))
    factory = load(factory)
  if not callable(factory):
    raise ValueError(f"Environment {target!r} is {factory!r}, not something to be called.")
  return factory


def make_env(name: str, **options) -> AdaptedEnv:
  """Builds an environment.

  Args:
    name: see the module.
    **options: fields of `AdapterOptions`, and the environment's own options.

  Returns:
    The environment.

  Raises:
    ValueError: if there is no such environment, an option is unknown, a package is missing, or the
      environment's spaces are not supported.
  """
  return build_env(name, name, **options)


def build_env(target: str | Callable, env_name: str, /, **options) -> AdaptedEnv:
  """Builds an environment from a result of `resolve`.

  Args:
    target: a name, or a result of `resolve`.
    env_name: becomes `spec_.name`.
    **options: see `make_env`.

  Returns:
    The environment.

  Raises:
    ValueError: see `make_env`.
  """
  return building.build(factory_of(target), env_name, options)


def env_factory(name: str, **options) -> functools.partial:
  """Makes a picklable function that builds an environment in a worker process.

  The function does not depend on registrations in that process.

  Args:
    name: see the module.
    **options: see `make_env`.

  Returns:
    A function without arguments that returns the environment. Its `keywords` are `options`.

  Raises:
    ValueError: see `resolve`.
  """
  return functools.partial(build_env, resolve(name), name, **options)


def env_spec(name: str, **options) -> EnvSpec:
  """Describes an environment; builds it only if necessary.

  Args:
    name: see the module.
    **options: see `make_env`.

  Returns:
    The `EnvSpec`, equal to `make_env(name, **options).spec_`.

  Raises:
    ValueError: see `make_env`.
  """
  return building.describe(factory_of(name), name, options)


def try_env(name: str, **options) -> EnvSpec:
  """Builds an environment and takes one step, to report errors before workers are started.

  Args:
    name: see the module.
    **options: see `make_env`.

  Returns:
    The environment's `EnvSpec`.

  Raises:
    ValueError: see `make_env`; or if an observation or reward is invalid.
  """
  env = make_env(name, **options)
  try:
    env.reset(seed=0)
    env.step(np.zeros(env.spec_.action_size, np.float32))
    return env.spec_
  finally:
    env.close()


def has_heuristic(name: str) -> bool:
  """Returns whether an environment has a scripted policy.

  Args:
    name: see the module.
  """
  return hasattr(factory_of(name), "make_heuristic")


def make_heuristic(name: str, **options):
  """Makes the scripted policy of an environment.

  Args:
    name: see the module.
    **options: options of the scripted policy.

  Returns:
    An object with `act(observation [B, ...], infos list[dict], rng) -> float32[B, A]`.

  Raises:
    ValueError: if there is no such environment, or it has no scripted policy.
  """
  factory = factory_of(name)
  if not hasattr(factory, "make_heuristic"):
    raise ValueError(f"Environment {name!r} has no scripted policy.")
  return building.call(factory.make_heuristic, f"The scripted policy of {name!r}", options)


def recipe(name: str) -> Mapping[str, tuple[str, ...]]:
  """Returns the settings tuned for an environment.

  Args:
    name: see the module.

  Returns:
    Overrides of the configuration, such as `"dynamics.num_mixtures=8"`, by preset; empty if nothing
    was tuned.
  """
  return getattr(factory_of(name), "RECIPE", {})


def training_options(name: str) -> frozenset[str]:
  """Returns the names of an environment's options for training data.

  These are `random_start` (episodes begin at random states) and `stop_after_idle_decisions`
  (episodes without progress are truncated). Returns with these options are not official.

  Args:
    name: see the module.

  Returns:
    The names of those that the environment takes.
  """
  return frozenset(getattr(factory_of(name), "TRAINING_OPTIONS", ()))
