"""Environments by name. No TensorFlow in here.

A factory is anything that, called with options, returns a `PixelEnv`; usually a subclass of it. Two
optional attributes say more: `make_spec(**options) -> EnvSpec`, which saves building the simulator,
and `make_heuristic(**options)`, a scripted policy.

A name can also be `"package.module:Factory"`, which needs no registration and so works in a freshly
spawned worker process too.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable

from wm_tf.core import EnvSpec

_factories: dict[str, str | Callable] = {
  "car_racing": "wm_tf.envs.car_racing:CarRacing",
  "car_racing_3d": "wm_tf.envs.car_racing:CarRacing3D",
}


def register_env(name: str, factory: str | Callable) -> None:
  """Makes `make_env(name)` call `factory`, itself or as `"package.module:Factory"` (imported late).

  Raises:
    ValueError: if the name is taken, or contains a colon.
  """
  if ":" in name or _factories.get(name, factory) != factory:
    raise ValueError(f"Environment name {name!r} is taken or contains a colon; choose another.")
  _factories[name] = factory


def env_names() -> tuple[str, ...]:
  """The registered names, sorted."""
  return tuple(sorted(_factories))


def make_env(name: str, **options):
  """Builds the environment `name`; `options` go to its factory.

  Raises:
    ValueError: if there is no such environment.
  """
  return _factory(name)(**options)


def env_spec(name: str, **options) -> EnvSpec:
  """The `EnvSpec` that `make_env(name, **options).spec_` would have."""
  factory = _factory(name)
  if hasattr(factory, "make_spec"):
    return factory.make_spec(**options)
  env = factory(**options)
  try:
    return env.spec_
  finally:
    env.close()


def make_heuristic(name: str, **options):
  """The scripted policy of environment `name`.

  Returns:
    An object with `act(observation uint8[B, 64, 64, 3], infos list[dict], rng) -> float32[B, A]`.

  Raises:
    ValueError: if there is no such environment, or it has no scripted policy.
  """
  factory = _factory(name)
  if not hasattr(factory, "make_heuristic"):
    raise ValueError(f"Environment {name!r} has no scripted policy.")
  return factory.make_heuristic(**options)


def _factory(name: str) -> Callable:
  factory = name if ":" in name else _factories.get(name)
  if factory is None:
    near = difflib.get_close_matches(name, _factories) or env_names()
    raise ValueError(f"Unknown environment {name!r}; did you mean {' or '.join(near)}?")
  if isinstance(factory, str):
    module, _, attribute = factory.partition(":")
    factory = getattr(importlib.import_module(module), attribute)
  return factory
