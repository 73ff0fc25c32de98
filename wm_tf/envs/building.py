"""Builds environments: calls their factories, and adapts environments of gymnasium."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.envs.registration import EnvSpec as GymnasiumSpec

from wm_tf.core import EnvSpec
from wm_tf.envs import spaces
from wm_tf.envs.adapter import AdaptedEnv, RenderedEnv
from wm_tf.envs.gymnasium_ids import GymnasiumFactory
from wm_tf.envs.options import OPTION_NAMES, AdapterOptions
from wm_tf.registry import nearest

_DEFAULT_MAX_STEPS = 10_000


def build(factory: Callable, name: str, options: dict[str, Any]) -> AdaptedEnv:
  """Builds an environment and adapts it if it is not adapted already.

  Args:
    factory: called with the environment's own options.
    name: name of the environment.
    options: the environment's own options, and those of `AdapterOptions`.

  Returns:
    The environment.

  Raises:
    ValueError: if an option is unknown, a package is missing, or the environment's spaces are not
      supported.
  """
  who = f"Environment {name!r}"
  wanted, chosen = options.get("render_mode"), options
  if not _takes_render_mode(factory, who):
    chosen = {key: value for key, value in options.items() if key != "render_mode"}
  if _makes_adapted(factory):
    env = call(factory, who, chosen)
  else:
    env = _build_any(factory, who, name, chosen)
  if wanted is not None and wanted != env.render_mode:
    env.close()
    raise ValueError(f"{who} has render_mode={env.render_mode!r}, not {wanted!r}.")
  if getattr(env, "spec", None) is None:
    env.spec = _gymnasium_spec(name, options)
  return env


def describe(factory: Callable, name: str, options: dict[str, Any]) -> EnvSpec:
  """Describes an environment; builds it only if the factory has no `make_spec`.

  Args:
    factory: see `build`.
    name: see `build`.
    options: see `build`.

  Returns:
    The `EnvSpec` of the environment that `build` builds.

  Raises:
    ValueError: see `build`.
  """
  if hasattr(factory, "make_spec"):
    who = f"Environment {name!r}"
    known, takes_any = _parameters(factory, who)
    options = {key: value for key, value in options.items() if key != "render_mode"}
    _check_taken(who, options, known, takes_any)
    return call(factory.make_spec, who, options)
  env = build(factory, name, options)
  try:
    return env.spec_
  finally:
    env.close()


def _makes_adapted(factory: Callable) -> bool:
  is_class = inspect.isclass(factory) and issubclass(factory, AdaptedEnv)
  return is_class or hasattr(factory, "make_spec")


def _takes_render_mode(factory: Callable, who: str) -> bool:
  """Returns whether a factory takes `render_mode`. One that adapts by hand must name it."""
  known, takes_any = _parameters(factory, who)
  return "render_mode" in known or (takes_any and not _makes_adapted(factory))


def _build_any(factory: Callable, who: str, name: str, options: dict[str, Any]) -> AdaptedEnv:
  known, takes_any = _parameters(factory, who)
  for_adapter = {k: v for k, v in options.items() if k in OPTION_NAMES and k not in known}
  own = {k: v for k, v in options.items() if k not in for_adapter}
  try:
    chosen = AdapterOptions(**for_adapter)
  except ValueError as error:
    raise ValueError(f"{who}: {error}") from None
  mode = _default_render_mode(factory, known, takes_any, chosen)
  if mode is not None:
    own.setdefault("render_mode", mode)
  limit = {}
  if isinstance(factory, GymnasiumFactory) and chosen.max_steps is not None:
    limit["max_episode_steps"] = chosen.max_steps
  _check_taken(who, own, known, takes_any, OPTION_NAMES)
  env = call(factory, who, own, limit)
  if hasattr(env, "spec_"):  # Adapted by the factory.
    if not for_adapter:
      return env
    env.close()
    _check_taken(who, options, known, takes_any)
    return call(factory, who, options)
  if not isinstance(env, gym.Env):
    raise ValueError(f"{who}: its factory returned {env!r}, which is not a gymnasium.Env.")
  try:
    adapted = adapt(env, name, chosen)
    adapted.spec_ = adapted.spec_._replace(
      make_id=getattr(factory, "make_id", None),
      make_kwargs={key: value for key, value in own.items() if key != "render_mode"},
    )
    return adapted
  except BaseException:
    env.close()
    raise


def _default_render_mode(factory, known, takes_any, options: AdapterOptions) -> str | None:
  """Returns `rgb_array` if the class of the environment declares that mode, else None."""
  creator = factory.creator() if isinstance(factory, GymnasiumFactory) else factory
  metadata = getattr(creator, "metadata", None)
  # It is a property, and unknown before construction, if the class is a `gymnasium.Wrapper`.
  modes = metadata.get("render_modes") or () if isinstance(metadata, Mapping) else ()
  can = "rgb_array" in modes and ("render_mode" in known or takes_any)
  asked = options.observation == "render" and "render_mode" in known
  return "rgb_array" if can or asked else None


def call(function: Callable, who: str, options: dict[str, Any], extra: dict | None = None) -> Any:
  """Calls a factory with options.

  Args:
    function: the factory.
    who: subject of the error messages, such as `Environment 'car_racing'`.
    options: keyword arguments that the user chose.
    extra: further keyword arguments that are not checked; None for none.

  Returns:
    The result of the call.

  Raises:
    ValueError: if it does not take an option, or a package is missing.
  """
  known, takes_any = _parameters(function, who)
  _check_taken(who, options, known, takes_any)
  try:
    return function(**options, **(extra or {}))
  except TypeError as error:
    found = re.search(r"unexpected keyword argument '(\w+)'", str(error))
    if found is None or found[1] not in options:
      raise
    raise ValueError(f"{who} does not take the option {found[1]!r}.") from error
  except (gym.error.DependencyNotInstalled, ImportError) as error:
    raise _missing(who, error) from error


def _missing(who: str, error: Exception) -> ValueError:
  return ValueError(f"{who} cannot be built, because a package is missing: {error}")


def _parameters(function: Callable, who: str) -> tuple[list[str], bool]:
  """Returns the names of a function's arguments, and whether it takes any other keywords."""
  if isinstance(function, GymnasiumFactory):
    try:
      function = function.creator()
    except (gym.error.DependencyNotInstalled, ImportError) as error:
      raise _missing(who, error) from error
  try:
    parameters = inspect.signature(function).parameters.values()
  except (TypeError, ValueError):  # Not written in Python.
    return [], True
  named = [p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
  return named, any(p.kind is p.VAR_KEYWORD for p in parameters)


def _check_taken(
  who: str,
  options: Iterable[str],
  known: Iterable[str],
  takes_any: bool,
  others: Iterable[str] = (),
) -> None:
  """Raises `ValueError` for an unknown option and names the known ones."""
  taken = sorted({*known, *others})
  for option in options if not takes_any else ():
    if option not in known:
      hint = nearest(option, taken)
      listed = "" if hint.startswith("known are") or not taken else f" It takes {', '.join(taken)}."
      raise ValueError(f"{who} does not take the option {option!r}; {hint}{listed}")


def adapt(env: gym.Env, name: str, options: AdapterOptions) -> AdaptedEnv:
  """Wraps a gymnasium environment, with an `EnvSpec` derived from its spaces.

  Args:
    env: the environment.
    name: becomes `spec_.name`.
    options: how to adapt it.

  Returns:
    The adapted environment.

  Raises:
    ValueError: if its spaces are not supported, or the options do not fit them.
  """
  try:
    cls, observed = AdaptedEnv, env.observation_space
    if options.observation == "render":
      cls, observed = RenderedEnv, _rendered_space(env)
    action_space = spaces.action_space(env.action_space, options, _meanings(env))
    observation = spaces.observation_spec(observed, options)
  except (ValueError, gym.error.DependencyNotInstalled) as error:
    raise ValueError(f"Environment {name!r}: {error}") from None
  limit = _time_limit(env)
  spec = EnvSpec(
    name=name,
    env_id=env.spec.id if env.spec is not None else type(env.unwrapped).__name__,
    observation=observation,
    action_space=action_space,
    action_repeat=int(options.action_repeat),
    frames_to_skip=int(options.frames_to_skip),
    idle_action=spaces.idle_action(action_space),
    max_steps=min(options.max_steps or limit or _DEFAULT_MAX_STEPS, limit or np.inf),
    rendered=options.observation == "render",
  )
  return cls(env, spec)


def _rendered_space(env: gym.Env) -> gym.spaces.Box:
  """Returns the space of the frames that an environment renders, found by rendering one."""
  if env.render_mode != "rgb_array":
    raise ValueError(
      "observation=render needs an environment that is built with render_mode='rgb_array'; this "
      f"one has {env.render_mode!r} and offers {env.metadata.get('render_modes') or 'none'}."
    )
  env.reset()
  frame = env.render()
  if not (isinstance(frame, np.ndarray) and frame.dtype == np.uint8 and frame.ndim == 3):
    raise ValueError(
      f"observation=render needs frames uint8[H, W, 3]; render() returned {type(frame).__name__}"
      f"{f' {frame.dtype}{list(frame.shape)}' if isinstance(frame, np.ndarray) else ''}."
    )
  return gym.spaces.Box(0, 255, frame.shape, np.uint8)


def _meanings(env: gym.Env) -> tuple[str, ...]:
  """Returns the names of a Discrete space's choices, which Atari environments define."""
  meanings = getattr(env.unwrapped, "get_action_meanings", None)
  return tuple(str(meaning).lower() for meaning in meanings()) if callable(meanings) else ()


def _time_limit(env: gym.Env) -> int | None:
  """Returns the smallest limit of the `TimeLimit` wrappers; without them, the registered one."""
  limits = []
  wrapper = env
  while isinstance(wrapper, gym.Wrapper):
    if isinstance(wrapper, gym.wrappers.TimeLimit):
      limits.append(int(wrapper._max_episode_steps))
    wrapper = wrapper.env
  if not limits and env.spec is not None and env.spec.max_episode_steps is not None:
    limits.append(int(env.spec.max_episode_steps))
  return min(limits, default=None)


def _gymnasium_spec(name: str, options: dict[str, Any]) -> GymnasiumSpec:
  """Returns a gymnasium specification from which `gymnasium.make` builds the same environment."""
  return GymnasiumSpec(
    id=f"wm_tf/{re.sub('[^A-Za-z0-9_:.-]', '-', name)}",
    entry_point="wm_tf.envs:make_env",
    kwargs={"name": name, **options},
    disable_env_checker=True,
  )
