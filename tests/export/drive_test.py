"""The example that drives any environment with a served agent, and uses no code of ours."""

from __future__ import annotations

import ast
import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import grpc
import numpy as np
import pytest
from tensorflow_serving.apis import prediction_service_pb2_grpc

from serving.embedded import EmbeddedServer
from tests.export.any_world import Reference, export_all
from wm_tf.agent import AgentActor
from wm_tf.envs import env_spec, make_env

ROOT = Path(__file__).resolve().parents[2]
# Served model -> environment, its options, and what `--env` says if the model does not know.
DRIVEN = {
  "Pendulum": ("gym:Pendulum-v1", {"g": 9.0}, None),
  "CartPole": ("gym:CartPole-v1", {"action_repeat": 2, "frames_to_skip": 2, "max_steps": 60}, None),
  "LunarLander": ("gym:LunarLander-v3", {"continuous": True, "max_steps": 40}, None),
  "rendered": (
    "gym:Pendulum-v1",
    {"observation": "render", "frame_size": 32, "max_steps": 6},
    None,
  ),
  "registered": ("gym:tests.export.registered:Asymmetric-v0", {}, None),
  "dict": ("tests.envs.toys:DictEnv", {"frame_size": 32, "length": 15}, "tests.envs.toys:DictEnv"),
  "choices": ("tests.envs.toys:MultiDiscreteEnv", {}, "tests.envs.toys:MultiDiscreteEnv"),
  "switches": ("tests.envs.toys:MultiBinaryEnv", {}, "tests.envs.toys:MultiBinaryEnv"),
  "render_only": (
    "tests.envs.toys:SurvivalEnv",
    {"observation": "render", "frame_size": 32},
    "tests.envs.toys:SurvivalEnv",
  ),
}


@pytest.fixture(scope="module")
def drive():
  spec = importlib.util.spec_from_file_location("drive", ROOT / "examples" / "drive.py")
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


@pytest.fixture(scope="module")
def driven(tmp_path_factory):
  """The agents by name, and a server of their exports."""
  specs = {
    name: env_spec(environment, **options) for name, (environment, options, _) in DRIVEN.items()
  }
  exported = export_all(specs, tmp_path_factory.mktemp("driven"), world_models=False)
  with EmbeddedServer() as server:
    models = {name: str(exported.agent_folder(name)) for name in DRIVEN}
    yield exported.agents, server.start(models)


def _spec(drive, stub, name):
  return json.loads(drive.predict(stub, name, "spec", seed=[[0, 0]])["json"][0])


def _return_in_this_process(environment, options, agent, seed) -> float:
  env = make_env(environment, **options)
  reference = Reference(agent)
  reference.begin(1)
  observation, info = env.reset(seed=seed)
  is_first, over = True, False
  while not over:
    batch = (
      {key: x[None] for key, x in observation.items()}
      if isinstance(observation, dict)
      else observation[None]
    )
    action, _ = reference.act(batch, np.array([is_first]))
    observation, _, terminated, truncated, info = env.step(action[0])
    is_first, over = False, terminated or truncated
  env.close()
  return info["episode_return"]


@pytest.mark.parametrize("name", DRIVEN)
def test_any_environment_is_driven_as_in_this_process(driven, drive, name):
  agents, target = driven
  environment, options, flag = DRIVEN[name]
  with grpc.insecure_channel(target) as channel:
    stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
    spec = _spec(drive, stub, name)
    env = drive.make_env(spec, flag)
    found = [drive.drive(stub, name, env, spec, seed) for seed in (3, 4)]
    env.close()
  expected = [_return_in_this_process(environment, options, agents[name], seed) for seed in (3, 4)]
  np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3)


def test_the_example_uses_nothing_of_ours():
  source = (ROOT / "examples" / "drive.py").read_text()
  assert len(source.splitlines()) <= 130
  imported = set()
  for node in ast.walk(ast.parse(source)):
    if isinstance(node, ast.Import):
      imported |= {alias.name.partition(".")[0] for alias in node.names}
    elif isinstance(node, ast.ImportFrom):
      imported.add(node.module.partition(".")[0])
  assert imported.isdisjoint({"wm_tf", "serving", "trainers"})


def _main(*flags):
  command = [sys.executable, ROOT / "examples" / "drive.py", *flags]
  return subprocess.run(command, capture_output=True, text=True, timeout=240, cwd=ROOT)


def test_what_is_no_gymnasium_id_is_said_in_one_line(driven):
  done = _main(f"--target={driven[1]}", "--model=dict", "--episodes=1")
  assert done.returncode == 1
  (line,) = [line for line in done.stderr.splitlines() if line.startswith("drive.py")]
  assert "cannot make 'DictEnv' with {'length': 15}" in line and "--env=module:factory" in line
  assert "Traceback" not in done.stderr


def test_an_environment_with_other_actions_is_refused(driven, drive):
  with grpc.insecure_channel(driven[1]) as channel:
    spec = _spec(drive, prediction_service_pb2_grpc.PredictionServiceStub(channel), "Pendulum")
  with pytest.raises(SystemExit, match=r"continuous of shape \(1,\); CartPole-v1 takes Discrete"):
    drive.make_env({**spec, "make_kwargs": {}}, "CartPole-v1")
  with pytest.raises(SystemExit, match=r"cannot make 'CartPole-v1' with \{'g': 9.0\}"):
    drive.make_env(spec, "CartPole-v1")
  with pytest.raises(SystemExit, match="cannot make 'nowhere:Env-v0'"):
    drive.make_env(spec, "nowhere:Env-v0")


def test_the_program_prints_returns(driven):
  done = _main(f"--target={driven[1]}", "--model=Pendulum", "--episodes=2", "--seed=3")
  assert done.returncode == 0, done.stderr
  lines = done.stdout.splitlines()
  assert [line.partition(":")[0] for line in lines[:2]] == ["seed 3", "seed 4"]
  assert lines[2].startswith("mean -") and lines[2].endswith("n 2")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["controller", "planner"])
def test_car_racing_is_driven_as_our_own_evaluation_does(exports, target, drive, name):
  max_steps, seed = 90, 3
  with grpc.insecure_channel(target) as channel:
    stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
    spec = {**_spec(drive, stub, name), "max_steps": max_steps}
    env = drive.make_env(spec)
    found = drive.drive(stub, name, env, spec, seed)
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
