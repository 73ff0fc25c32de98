"""Actors from outside a run: SavedModels and served models."""

from __future__ import annotations

from serving.address import is_address
from wm_tf import config as config_lib
from wm_tf.checks import ConfigError
from wm_tf.data.collect import Actor
from wm_tf.export import load_agent
from wm_tf.registry import nearest
from wm_tf.runs.learned import AGENTS, BASELINES
from wm_tf.runs.playing import environment_spec


def foreign_actor(name: str, config: config_lib.ExperimentConfig) -> Actor:
  """Loads an agent from outside any run, and checks that it is for the configured environment.

  Args:
    name: the folder of a SavedModel, or a served model as `grpc://host:port/model`, optionally with
      `/versions/7` or `/labels/canary` at the end; `grpcs://` for TLS.
    config: configuration that names the environment.

  Returns:
    The actor.

  Raises:
    ConfigError: if the model cannot be loaded or called, or is for another environment.
  """
  try:
    actor, made_for = _served_actor(name) if is_address(name) else _saved_actor(name)
  except (OSError, ValueError) as error:
    hint = nearest(name, (*AGENTS, *BASELINES))
    hint = f" Or {hint}" if hint.startswith("did you mean") else ""
    raise ConfigError(f"agent={name}: {error}{hint}") from error
  expected = environment_spec(config).name
  if made_for != expected:
    raise ConfigError(
      f"agent={name} is for environment {made_for}, not {expected}: "
      f"give --environment={made_for}, or the factory or id that it was made with."
    )
  return actor


def _saved_actor(name: str) -> tuple[Actor, str]:
  actor = load_agent(name)
  return actor, actor.spec["name"]


def _served_actor(name: str) -> tuple[Actor, str]:
  from serving.client import CallError, GrpcActor  # Serving is an extra.

  actor = GrpcActor(name)
  try:
    return actor, actor.client.spec().name
  except CallError as error:
    raise ValueError(str(error)) from error
