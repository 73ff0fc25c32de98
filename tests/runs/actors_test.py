"""Agents from outside of a run: for which environment they are, and where they are."""

from __future__ import annotations

import re

import pytest

from serving.embedded import EmbeddedServer
from tests.envs import toys
from tests.export.any_world import export_all
from wm_tf import config, envs
from wm_tf.checks import ConfigError
from wm_tf.envs import registry
from wm_tf.runs.actors import foreign_actor
from wm_tf.runs.playing import evaluate

_NAMES = ("tests.envs.toys:MultiDiscreteEnv", "mine")


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(registry._registry, "_items", dict(registry._registry._items))
    envs.register_env("mine", toys.SurvivalEnv)
    specs = {name.rpartition(":")[2]: envs.env_spec(name) for name in _NAMES}
    yield export_all(specs, tmp_path_factory.mktemp("actors"), world_models=False)


def _config(environment):
  return config.make_config("debug", environment=environment)


@pytest.mark.parametrize("environment", _NAMES)
def test_an_export_of_any_environment_is_evaluated(exported, environment):
  folder = exported.agent_folder(environment.rpartition(":")[2])
  found = _config(environment)
  assert evaluate(found, foreign_actor(str(folder), found), [3, 4], "export")["n"] == 2


@pytest.mark.parametrize("environment", _NAMES)
def test_the_environment_that_a_refusal_names_is_the_right_one(exported, environment):
  folder = str(exported.agent_folder(environment.rpartition(":")[2]))
  with pytest.raises(ConfigError, match="is for environment") as caught:
    foreign_actor(folder, _config("gym:CartPole-v1"))
  named = re.search(r"give --environment=([^\s,]+)", str(caught.value))[1]
  foreign_actor(folder, _config(named))


def test_a_served_agent_of_one_version(exported):
  folder, found = exported.agent_folder("MultiDiscreteEnv"), _config(_NAMES[0])
  with EmbeddedServer() as server:
    target = server.start({"mine": str(folder)})
    actor = foreign_actor(f"grpc://{target}/mine/versions/1", found)
    assert evaluate(found, actor, [3], "served")["n"] == 1
    with pytest.raises(ConfigError, match=r"agent=grpc://.* 2"):
      foreign_actor(f"grpc://{target}/mine/versions/2", found)
    with pytest.raises(ConfigError, match="agent=grpcs://"):  # It speaks no TLS.
      foreign_actor(f"grpcs://{target}/mine", found)
