"""The example that drives with a served agent, and nothing of ours."""

from __future__ import annotations

import ast
import importlib.util
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from tensorflow_serving.apis import prediction_service_pb2_grpc

from wm_tf.agent import AgentActor
from wm_tf.envs import make_env

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def drive():
  spec = importlib.util.spec_from_file_location("drive", ROOT / "examples" / "drive.py")
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


def test_the_example_is_short_and_uses_nothing_of_ours():
  source = (ROOT / "examples" / "drive.py").read_text()
  assert len(source.splitlines()) <= 60
  imported = set()
  for node in ast.walk(ast.parse(source)):
    if isinstance(node, ast.Import):
      imported |= {alias.name.partition(".")[0] for alias in node.names}
    elif isinstance(node, ast.ImportFrom):
      imported.add(node.module.partition(".")[0])
  assert imported.isdisjoint({"wm_tf", "serving", "trainers"})


@pytest.mark.parametrize("name", ["controller", "planner"])
def test_the_example_drives_as_our_own_evaluation(exports, target, drive, name):
  import grpc

  max_steps, seed = 90, 3
  with grpc.insecure_channel(target) as channel:
    stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
    spec = {k: x[0] for k, x in drive.predict(stub, name, "spec", seed=[[0, 0]]).items()}
    env = gymnasium.make(spec["env_id"].decode())
    found = drive.drive(stub, name, env, {**spec, "max_steps": max_steps}, seed)
    env.close()

  env = make_env("car_racing", max_steps=max_steps)
  actor = AgentActor(exports.agents[name])
  actor.begin(1)
  observation, info = env.reset(seed=seed)
  is_first, truncated = True, False
  while not truncated:
    action = actor.act(observation[None], np.array([is_first]), np.array([seed]))[0]
    observation, _, _, truncated, info = env.step(action)
    is_first = False
  env.close()
  assert found == pytest.approx(info["episode_return"], abs=1e-6)
