"""Exports: the model server's loader takes them, and they answer what the agent answers."""

from __future__ import annotations

import ast
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2
from tensorflow_serving.apis import prediction_log_pb2, prediction_service_pb2_grpc

from serving.client import CallError, GrpcActor, PlannerClient
from serving.embedded import EmbeddedServer
from serving.errors import ServingError
from serving.model import Servable
from wm_tf import export
from wm_tf.agent import Agent, AgentActor
from wm_tf.controllers.linear import LinearController
from wm_tf.controllers.planner import Planner, PlannerConfig
from wm_tf.core import ActionSpace
from wm_tf.envs import env_spec, make_env
from wm_tf.envs.frames import resize
from wm_tf.files import DamagedFileError
from wm_tf.models.mdn_rnn import MDNRNN, MDNRNNConfig
from wm_tf.models.vae import VAE, VAEConfig

ROOT = Path(__file__).resolve().parents[1]
GOLDEN = ROOT / "tests" / "golden" / "export_signatures.json"
SPEC = env_spec("car_racing")
CONFIG = {"planner": {"horizon": 4}}


class Exports(NamedTuple):
  """Small untrained models, and the base path that holds their exports by name."""

  agents: dict[str, Agent]
  world_model: MDNRNN
  path: Path


@pytest.fixture(scope="module")
def exports(tmp_path_factory):
  vae = VAE(VAEConfig(latent_size=6, encoder_filters=(4, 4, 8, 8), decoder_filters=(8, 4, 4)))
  config = MDNRNNConfig(hidden_size=8, num_mixtures=2, head_hidden_size=4)
  world_model = MDNRNN(vae, SPEC.action_size, config)
  generator = np.random.default_rng(0)
  for variable in world_model.variables:  # Larger than at the start, so that everything matters.
    variable.assign(generator.normal(0.0, 0.3, variable.shape))
  world_model.latent_scale.assign(np.ones(6))
  world_model.change_scale.assign(np.ones(6))
  controller = LinearController(world_model)
  controller.parameters.assign(generator.normal(0.0, 0.5, controller.num_parameters))
  plan = PlannerConfig(horizon=4, num_candidates=8, num_iterations=2, num_elites=3)
  agents = {
    "controller": Agent(SPEC, world_model, controller),
    "planner": Agent(SPEC, world_model, Planner(world_model, plan, controller)),
  }
  path = tmp_path_factory.mktemp("exports")
  for name, agent in agents.items():
    assert export.export_agent(agent, path / name, config=CONFIG) == path / name / "1"
  export.export_world_model(world_model, SPEC, path / "world_model", config=CONFIG)
  return Exports(agents, world_model, path)


@pytest.fixture(scope="module")
def target(exports):
  """A server of all three; that it starts proves that the warmup requests are right."""
  with EmbeddedServer() as server:
    yield server.start({p.name: str(p) for p in exports.path.iterdir()})


def frames(seed, *lead, size=96):
  return np.random.default_rng(seed).integers(0, 256, (*lead, size, size, 3), np.uint8)


def small(native):
  return np.stack([resize(f, SPEC.crop, SPEC.observation_shape[:2]) for f in native])


def signature_defs(folder):
  model = saved_model_pb2.SavedModel.FromString((folder / "saved_model.pb").read_bytes())
  return model.meta_graphs[0]


# --- The gate: a process that has only TensorFlow -----------------------------------------------

_GATE = """
import sys
import numpy as np
import tensorflow as tf

folder, inputs, outputs = sys.argv[1:]
calls = np.load(inputs)
results = {}
with tf.compat.v1.Session(graph=tf.Graph()) as session:
  meta_graph = tf.compat.v1.saved_model.loader.load(session, ["serve"], folder)
  for name, signature in meta_graph.signature_def.items():
    if name.startswith("__"):
      continue
    feed = {x.name: calls[f"{name}/{key}"] for key, x in signature.inputs.items()}
    fetch = {key: x.name for key, x in signature.outputs.items()}
    for key, value in session.run(fetch, feed).items():
      value = value.astype(bytes) if value.dtype == object else value
      results[f"{name}/{key}"] = value
np.savez(outputs, **results)
foreign = {"wm_tf", "serving", "keras", "tensorflow_probability"} & set(sys.modules)
assert not foreign - {"keras"}, foreign
"""


def run_gate(folder, calls, tmp_path):
  """Calls every signature in a fresh process; `calls` is `{signature: inputs}`."""
  flat = {f"{name}/{key}": x for name, inputs in calls.items() for key, x in inputs.items()}
  np.savez(tmp_path / "in.npz", **flat)
  subprocess.run(
    # -I: no PYTHONPATH and no working directory on the path, so that nothing of ours is found.
    [sys.executable, "-I", "-c", _GATE, folder, tmp_path / "in.npz", tmp_path / "out.npz"],
    check=True,
    cwd=tmp_path,
    capture_output=True,
  )
  results: dict[str, dict[str, Any]] = {}
  for key, value in np.load(tmp_path / "out.npz").items():
    name, _, output = key.partition("/")
    results.setdefault(name, {})[output] = value
  return results


def assert_close(results, expected):
  assert set(results) == set(expected)
  for key, value in expected.items():
    value = np.asarray(value)
    assert results[key].dtype == value.dtype, key
    if value.dtype.kind == "f":
      np.testing.assert_allclose(results[key], value, rtol=1e-4, atol=1e-5, err_msg=key)
    else:
      np.testing.assert_array_equal(results[key], value, err_msg=key)


SEED = np.array([[1, 2], [3, 4]], np.int32)


@pytest.mark.parametrize("name", ["controller", "planner"])
def test_agents_through_the_servers_loader(exports, name, tmp_path):
  agent = exports.agents[name]
  native = frames(0, 2)
  # A state from the middle of an episode, so that every tensor of it matters.
  _, state = agent.act(
    tf.constant(small(frames(1, 2))), agent.initial_state(2), tf.constant(SEED + 5)
  )
  tensors = {key: x.numpy() for key, x in export.flatten_state(state).items()}
  act = {"frame": native, "seed": SEED, **tensors}
  results = run_gate(
    exports.path / name / "1",
    {
      "act": act,
      "serving_default": act,
      "initial_state": {"seed": SEED},
      "spec": {"seed": SEED},
    },
    tmp_path,
  )
  action, state = agent.act(tf.constant(small(native)), state, tf.constant(SEED))
  expected = {
    "action": np.stack([SPEC.action_space.to_env(a) for a in action.numpy()]),
    "agent_action": action,
    **export.flatten_state(state),
  }
  assert_close(results["act"], expected)
  assert_close(results["serving_default"], expected)
  assert_close(results["initial_state"], export.flatten_state(agent.initial_state(2)))
  assert results["spec"]["max_steps"].tolist() == [1000, 1000]


def test_the_world_model_through_the_servers_loader(exports, tmp_path):
  model = exports.world_model
  native, action = frames(2, 2), np.array([[0.5, -0.5], [-1.0, 1.0]], np.float32)
  observation = tf.constant(small(native))
  state = model.observe(
    model.initial_state(2),
    tf.zeros([2, 2]),
    observation,
    tf.constant([True, True]),
    tf.constant(SEED),
  )
  state = model.imagine(state, tf.constant(action), tf.constant(SEED)).state
  tensors = {key: x.numpy() for key, x in export.flatten_state(state, "latent").items()}
  is_first, temperature = np.array([False, True]), np.array([0.5, 1.3], np.float32)
  imagine = {"action": action, "seed": SEED, "temperature": temperature, **tensors}
  results = run_gate(
    exports.path / "world_model" / "1",
    {
      "encode": {"frame": native},
      "decode": {"latent_z": tensors["latent_z"]},
      "initial_state": {"seed": SEED},
      "observe": {
        "frame": native,
        "prev_action": action,
        "is_first": is_first,
        "seed": SEED,
        **tensors,
      },
      "imagine": imagine,
      "serving_default": imagine,
      "spec": {"seed": SEED},
    },
    tmp_path,
  )
  loc, log_scale = model.vae.encode(observation)
  assert_close(results["encode"], {"loc": loc, "scale": np.exp(log_scale)})
  mean = model.decode(state).numpy()
  assert mean.std() > 0
  np.testing.assert_allclose(results["decode"]["mean"], mean, rtol=1e-4, atol=1e-5)
  error = results["decode"]["frame"] - 255.0 * results["decode"]["mean"]
  assert results["decode"]["frame"].dtype == np.uint8 and np.abs(error).max() <= 0.501
  observed = model.observe(state, tf.constant(action), observation, tf.constant(is_first), SEED)
  assert_close(results["observe"], export.flatten_state(observed, "latent"))
  predicted = model.imagine(state, tf.constant(action), tf.constant(SEED), tf.constant(temperature))
  expected = {
    "reward": predicted.reward,
    "discount": predicted.discount,
    "disagreement": predicted.disagreement,
    **export.flatten_state(predicted.state, "latent"),
  }
  assert_close(results["imagine"], expected)
  assert_close(results["serving_default"], expected)
  fresh = export.flatten_state(model.initial_state(2), "latent")
  assert_close(results["initial_state"], fresh)


def _describe(info):
  """Such as `uint8[B, 64, 64, 3]`."""
  batch, *sizes = [dim.size for dim in info.tensor_shape.dim]
  assert batch == -1, f"{info.name} has no leading B"
  sizes = "".join(", ?" if size == -1 else f", {size}" for size in sizes)
  return f"{tf.as_dtype(info.dtype).name}[B{sizes}]"


@pytest.mark.parametrize("name", ["controller", "planner", "world_model"])
def test_signatures_are_the_golden_ones(exports, name):
  found = {}
  for key, signature in signature_defs(exports.path / name / "1").signature_def.items():
    if not key.startswith("__"):
      found[key] = {
        side: {alias: _describe(x) for alias, x in getattr(signature, side).items()}
        for side in ("inputs", "outputs")
      }
  golden = json.loads(GOLDEN.read_text())
  if os.environ.get("UPDATE_GOLDEN"):
    GOLDEN.write_text(json.dumps({**golden, name: found}, indent=1, sort_keys=True) + "\n")
  else:
    assert found == golden[name], "Clients rely on these; UPDATE_GOLDEN=1 if the change is meant."


@pytest.mark.parametrize("name", ["controller", "planner", "world_model"])
def test_nothing_that_the_server_refuses_or_that_replays(exports, name):
  meta_graph = signature_defs(exports.path / name / "1")
  functions = meta_graph.graph_def.library.function
  for function in functions:
    for node in (function, *function.node_def):
      assert not node.attr["_XlaMustCompile"].b, f"{function.signature.name} asks for XLA"
  ops = {node.op for function in functions for node in function.node_def}
  assert not {op for op in ops if "Random" in op and not op.startswith("Stateless")}
  assert {"PyFunc", "EagerPyFunc"}.isdisjoint(ops)


@pytest.mark.parametrize("name", ["controller", "planner", "world_model"])
def test_every_signature_is_warmed_up(exports, name):
  folder = exports.path / name / "1"
  records = tf.data.TFRecordDataset(str(folder / "assets.extra/tf_serving_warmup_requests"))
  requests = [
    prediction_log_pb2.PredictionLog.FromString(r).predict_log.request
    for r in records.as_numpy_iterator()
  ]
  signatures = {k for k in signature_defs(folder).signature_def if not k.startswith("__")}
  assert {r.model_spec.signature_name for r in requests} == signatures
  if name != "world_model":
    sizes = {
      tf.make_ndarray(r.inputs["frame"]).shape[1]
      for r in requests
      if r.model_spec.signature_name == "act"
    }
    assert sizes == {64, 96}
  assert json.loads((folder / "config.json").read_text()) == CONFIG


# --- Served ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["controller", "planner"])
@pytest.mark.parametrize("size", [64, 96])
def test_served_actions_are_the_agents(exports, target, name, size):
  actor = AgentActor(exports.agents[name])
  actor.begin(2)
  with PlannerClient(target, name) as client:
    client.reset(2, seed=[5, 6])
    for step in range(3):
      native = frames(step, 2)
      action = client.act(native if size == 96 else small(native))
      expected = actor.act(small(native), np.full(2, step == 0), np.array([5, 6]))
      np.testing.assert_allclose(client.extras["agent_action"], expected, rtol=1e-4, atol=1e-5)
      to_env = np.stack([SPEC.action_space.to_env(a) for a in expected])
      np.testing.assert_allclose(action, to_env, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["controller", "planner"])
def test_a_row_does_not_depend_on_its_neighbours(target, name):
  native = frames(3, 3, 3)
  with PlannerClient(target, name) as client:
    client.reset(3, seed=[1, 2, 3])
    together = [client.act(native[t]) for t in range(3)]
    for row in range(3):
      client.reset(1, seed=row + 1)
      for t in range(3):
        np.testing.assert_allclose(client.act(native[t, row]), together[t][row], atol=1e-5)


def test_spec(target):
  with PlannerClient(target, "planner") as client:
    spec = client.spec()
  assert spec.name == "car_racing" and spec.env_id == "CarRacing-v3"
  assert spec.frame_size == (96, 96) and spec.observation_size == (64, 64)
  assert (spec.action_repeat, spec.frames_to_skip, spec.max_steps) == (4, 50, 1000)
  assert spec.action_names == ("steer", "gas", "brake") and not spec.discrete
  np.testing.assert_array_equal(spec.action_low, [-1, 0, 0])
  np.testing.assert_array_equal(spec.action_high, [1, 1, 1])
  np.testing.assert_array_equal(spec.idle_action, [0, 0, 0])
  assert spec.state_names == (
    "latent_z",
    "latent_h",
    "latent_c",
    "prev_action",
    "is_first",
    "memory",
  )
  assert spec.details["action_space"]["names"] == ["steer", "pedal"]
  assert spec.details["state"]["memory"] == {"shape": [4, 2], "dtype": "float32"}
  assert spec.details["config"] == CONFIG


@pytest.mark.parametrize("shape", [(2, 48, 48, 3), (1, 96, 64, 3), (1, 64, 64, 1), (64, 64, 3)])
def test_frames_of_another_size_are_refused_with_the_sizes_that_are_taken(target, shape):
  with PlannerClient(target, "controller") as client:
    seed = np.zeros((1, 2), np.int32)
    state = client.predict("initial_state", {"seed": seed})
    with pytest.raises(CallError) as caught:
      client.predict("act", {"frame": np.zeros(shape, np.uint8), "seed": seed, **state})
  assert "frame must have shape [B, 96, 96, 3] or [B, 64, 64, 3] (CarRacing-v3), not" in (
    caught.value.message
  )
  assert f"[{' '.join(map(str, shape))}]" in caught.value.message


@pytest.mark.parametrize("name", ["controller", "planner"])
def test_exports_as_actors(exports, target, name):
  reference = AgentActor(exports.agents[name])
  actors = [export.load_agent(exports.path / name), GrpcActor(f"grpc://{target}/{name}")]
  assert actors[0].spec["name"] == "car_racing"
  for actor in (reference, *actors):
    actor.begin(2)
  for t, is_first in enumerate([[True, True], [False, False], [False, True], [False, False]]):
    # Row 1 begins a new episode, with a new seed, at t = 2.
    inputs = small(frames(t, 2)), np.array(is_first), np.array([2**40 + 7, 8 if t < 2 else 9])
    expected = reference.act(*inputs, [{}, {}])
    for actor in actors:
      action = actor.act(*inputs, [{}, {}])
      assert action.dtype == np.float32
      np.testing.assert_allclose(action, expected, rtol=1e-4, atol=1e-5)


# --- The parts ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
  "native, crop", [((96, 96, 3), (0, 0, 84, 96)), ((60, 80, 3), (3, 5, 50, 70))]
)
def test_the_graph_resizes_as_the_adapter_does_bit_for_bit(native, crop):
  spec = SPEC._replace(native_shape=native, crop=crop)
  random = np.random.default_rng(0)
  batch = random.integers(0, 256, (40, *native), np.uint8)
  batch[:20] //= 85  # Few values make many ties to round.
  frame = tf.TensorSpec([None, None, None, 3], tf.uint8)
  fn = tf.function(lambda x: export.observation_of(x, spec), input_signature=[frame])
  expected = np.stack([resize(f, crop, (64, 64)) for f in batch])
  np.testing.assert_array_equal(fn(tf.constant(batch)), expected)
  np.testing.assert_array_equal(fn(tf.constant(expected)), expected)


def test_the_graph_maps_actions_as_the_adapter_does():
  action = np.random.default_rng(0).uniform(-1, 1, (50, 2)).astype(np.float32)
  expected = np.stack([SPEC.action_space.to_env(a) for a in action])
  np.testing.assert_array_equal(export.to_env_action(tf.constant(action), SPEC), expected)
  discrete = SPEC._replace(
    action_space=ActionSpace(
      ("a", "b"), ("left", "right"), np.eye(2, dtype=np.float32), np.zeros(2), np.ones(2), True
    )
  )
  choice = export.to_env_action(tf.constant(action), discrete)
  assert choice.dtype == tf.int64
  assert choice.numpy().tolist() == [discrete.action_space.to_env(a) for a in action]


class _Inner(NamedTuple):
  mean: tf.Tensor
  parts: tuple


def test_state_names_and_round_trip():
  one = lambda value: tf.constant([value])
  state = {"b": _Inner(one(1.0), (one(2.0), one(3))), "a": one(True), "c": ()}
  flat = export.flatten_state(state, "s")
  assert list(flat) == ["s_a", "s_b_mean", "s_b_parts_0", "s_b_parts_1"]
  back = export.unflatten_state(state, flat, "s")
  tf.nest.assert_same_structure(state, back)
  assert [x.numpy()[0] for x in tf.nest.flatten(back)] == [True, 1.0, 2.0, 3]


def test_versions(exports, tmp_path, monkeypatch):
  agent, base = exports.agents["controller"], tmp_path / "controller"
  (base / ".8.part").mkdir(parents=True)  # What a killed export leaves behind.
  (base / ".8.part" / "rest").touch()
  assert export.export_agent(agent, base, version=7).name == "7"
  assert export.export_agent(agent, base).name == "8"
  assert sorted(p.name for p in base.iterdir()) == ["7", "8"]
  assert not (base / "8" / "rest").exists()
  with pytest.raises(FileExistsError, match="controller/8 exists"):
    export.export_agent(agent, base, version=8)

  def fail(*args, **options):
    raise OSError("disk full")

  # The warmup requests come after the graph: a failure there must leave no version either.
  monkeypatch.setattr(export, "_write_warmup", fail)
  with pytest.raises(OSError, match="disk full"):
    export.export_agent(agent, base)
  assert export.saved_versions(base) == [7, 8]


def test_what_is_no_exported_agent_is_named(exports, tmp_path):
  with pytest.raises(FileNotFoundError, match="holds no SavedModel"):
    export.load_agent(tmp_path)
  with pytest.raises(ValueError, match="no signature 'act'"):
    export.load_agent(exports.path / "world_model")


# --- The example ----------------------------------------------------------------------------------


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


def test_an_export_that_was_changed_is_refused_by_name(exports, tmp_path):
  """A constant of the graph may change, and TensorFlow loads it all the same."""
  path = Path(shutil.copytree(exports.path / "controller" / "1", tmp_path / "controller" / "1"))
  Servable(str(path)).close()
  sound = (path / "saved_model.pb").read_bytes()
  graph = bytearray(sound)
  graph[len(graph) // 2] ^= 1
  (path / "saved_model.pb").write_bytes(graph)
  with pytest.raises(DamagedFileError, match=r"saved_model\.pb is damaged"):
    export.load_agent(path)
  with pytest.raises(ServingError, match=r"DATA_LOSS: .*saved_model\.pb is not the file"):
    Servable(str(path))
  (path / "saved_model.pb").write_bytes(sound)
  (path / "SHA256SUMS").unlink()  # As an export of someone else's, which brings none.
  export.load_agent(path)
  Servable(str(path)).close()
