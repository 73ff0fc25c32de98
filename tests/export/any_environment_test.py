"""Agents of any environment: exported, loaded, served, and driven through every client."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest
import tensorflow as tf

from serving.aio_client import AsyncPlannerClient
from serving.client import CallError, GrpcActor, PlannerClient
from serving.deploy.servers import probe
from serving.embedded import EmbeddedServer
from tests.export.any_world import ENVIRONMENTS, Reference, Seen, export_all, short_name
from tests.export.gate import assert_close
from wm_tf import export
from wm_tf.envs import env_spec

NAMES = tuple(short_name(name) for name in ENVIRONMENTS)


@pytest.fixture(scope="module")
def specs():
  return {short_name(name): env_spec(name, **options) for name, options in ENVIRONMENTS.items()}


@pytest.fixture(scope="module")
def exported(specs, tmp_path_factory):
  return export_all(specs, tmp_path_factory.mktemp("any"))


@pytest.fixture(scope="module")
def target(exported):
  """A server of all of them: that it starts proves that the warmup requests are right."""
  with EmbeddedServer() as server:
    yield server.start({path.name: str(path) for path in exported.path.iterdir()})


@pytest.fixture(scope="module")
def seen():
  return {short_name(name): Seen(name) for name in ENVIRONMENTS}


def _first(step: int) -> np.ndarray:
  return np.full(2, step == 0)


@pytest.mark.parametrize("name", NAMES)
def test_clients_answer_the_environments_own_actions(exported, target, seen, name):
  reference = Reference(exported.agents[name])
  reference.begin(2)
  space = exported.agents[name].spec.action_space
  with PlannerClient(target, name) as client, PlannerClient(target, name) as single:
    client.reset(2)
    single.reset()
    for step in range(4):
      agent_action, env_action = reference.act(seen[name].agent[step], _first(step))
      action = client.act(seen[name].native[step])
      assert action.shape == (2, *space.shape)
      assert action.dtype == ("float32" if space.kind == "continuous" else env_action.dtype)
      np.testing.assert_allclose(action, env_action, rtol=1e-4, atol=1e-5)
      np.testing.assert_allclose(client.extras["agent_action"], agent_action, rtol=1e-4, atol=1e-5)
      one = single.act(tf.nest.map_structure(lambda x: x[0], seen[name].native[step]))
      assert np.shape(one) == space.shape
      np.testing.assert_allclose(one, action[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_the_asynchronous_client_answers_the_same(target, seen, name):
  async def drive():
    async with AsyncPlannerClient(target, name) as client:
      await client.reset(2)
      return [await client.act(observation) for observation in seen[name].native]

  with PlannerClient(target, name) as client:
    client.reset(2)
    expected = [client.act(observation) for observation in seen[name].native]
  np.testing.assert_array_equal(asyncio.run(drive()), expected)


@pytest.mark.parametrize("name", NAMES)
def test_actors_answer_the_agents_actions(exported, target, seen, name):
  reference = Reference(exported.agents[name])
  local = export.load_agent(exported.agent_folder(name))
  served = GrpcActor(f"grpc://{target}/{name}/versions/1")
  for actor in (reference, local, served):
    actor.begin(2)
  for step, is_first in enumerate([[True, True], [False, False], [False, True], [False, False]]):
    is_first = np.array(is_first)
    observation, _ = seen[name].agent[step], seen[name].native[step]
    expected, _ = reference.act(observation, is_first)
    for actor in (local, served):
      found = actor.act(observation, is_first, np.array([3, 4]), [{}, {}])
      assert found.dtype == np.float32
      np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["Pendulum-v1", "DictEnv", "MultiDiscreteEnv", "GrayEnv"])
def test_through_the_servers_loader_in_another_process(exported, seen, gate, name):
  agent = exported.agents[name]
  names = export.input_names(agent.spec.observation)
  values = agent.spec.observation.unpack(seen[name].native[1])
  inputs = dict(zip(names, values, strict=True))
  observation = tf.nest.map_structure(tf.constant, seen[name].agent[1])
  reference = Reference(agent)
  reference.begin(2)
  reference.act(seen[name].agent[0], np.array([True, True]))
  seed = np.array([[1, 2], [3, 4]], np.int32)
  tensors = {key: x.numpy() for key, x in export.flatten_state(reference.state).items()}
  act = {**inputs, "seed": seed, **tensors}
  results = gate(
    exported.agent_folder(name) / "1",
    {"act": act, "serving_default": act, "initial_state": {"seed": seed}, "spec": {"seed": seed}},
  )
  agent_action, action = reference.act(seen[name].agent[1], np.array([False, False]))
  if agent.spec.action_space.kind == "continuous":
    action = action.astype(np.float32)
  expected = {"action": action, "agent_action": agent_action}
  assert_close(results["act"], {**expected, **export.flatten_state(reference.state)})

  world, state = agent.world_model, agent.initial_state(2).latent
  prev_action, is_first = agent_action, np.array([False, True])
  latent = {key: x.numpy() for key, x in export.flatten_state(state, "latent").items()}
  imagine = {"action": prev_action, "seed": seed, "temperature": np.ones(2, np.float32), **latent}
  observe = {**inputs, "prev_action": prev_action, "is_first": is_first, "seed": seed, **latent}
  after = world.observe(state, tf.constant(prev_action), observation, tf.constant(is_first), seed)
  decode = {"latent_seen": after.seen.numpy()}
  calls = {"imagine": imagine, "serving_default": imagine, "observe": observe, "decode": decode}
  calls |= {"initial_state": {"seed": seed}, "spec": {"seed": seed}}
  results = gate(exported.world_folder(name) / "1", calls)
  assert_close(results["observe"], export.flatten_state(after, "latent"))
  means = agent.spec.observation.unpack(world.decode(after))
  for key, part, mean in zip(names, agent.spec.observation.parts, means, strict=True):
    decoded = results["decode"][key]
    if part.kind == "image":
      assert decoded.dtype == np.uint8
      error = decoded - 255.0 * results["decode"]["mean" if name == "GrayEnv" else f"{key}_mean"]
      assert np.abs(error).max() <= 0.501
    elif part.num_choices:
      np.testing.assert_allclose(decoded, mean, rtol=1e-5)
    else:
      np.testing.assert_allclose(decoded, np.reshape(mean, [2, *part.native_shape]), rtol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_a_saved_world_model_is_the_world_model(exported, seen, name):
  agent = exported.agents[name]
  saved = export.SavedWorldModel(exported.world_folder(name))
  observation = seen[name].agent[0]
  state = export.first_states(saved, observation)
  world = agent.world_model
  expected = world.observe(
    world.initial_state(2),
    tf.zeros([2, world.action_size]),
    tf.nest.map_structure(tf.constant, observation),
    tf.constant([True, True]),
    tf.constant([0, 0]),
  )
  for key, value in export.flatten_state(expected, "latent").items():
    np.testing.assert_allclose(state[key], value, rtol=1e-4, atol=1e-5)
  means, decoded = world.decode(expected), saved.decode(state)
  tf.nest.assert_same_structure(decoded, means)
  for mean, found in zip(tf.nest.flatten(means), tf.nest.flatten(decoded), strict=True):
    np.testing.assert_allclose(found, mean, rtol=1e-4, atol=1e-5)
  assert saved.num_choices == world.num_choices
  assert saved.max_decisions == agent.spec.max_decisions
  again = export.first_states(saved, seen[name].native[0])
  for key, value in state.items():
    np.testing.assert_allclose(again[key], value, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_spec_describes_observations_and_actions(exported, target, name):
  spec = exported.agents[name].spec
  with PlannerClient(target, name) as client:
    found = client.spec()
    seed = np.zeros((2, 2), np.int32)
    outputs = client.predict("spec", {"seed": seed})
  assert all(len(value) == 2 for value in outputs.values())  # Batched, as everything else.
  assert [part.name for part in found.observation] == [p.name for p in spec.observation.parts]
  for part, expected in zip(found.observation, spec.observation.parts, strict=True):
    assert (part.kind, part.shape) == (expected.kind, expected.native_shape)
    assert (part.agent_shape, part.dtype) == (expected.shape, expected.native_dtype)
  assert found.action_kind == spec.action_space.kind
  assert found.action_shape == spec.action_space.shape
  assert found.action_dtype == spec.action_space.dtype
  assert found.rendered == (name == "SurvivalEnv")
  assert found.make_id == (name if name.endswith("-v1") else spec.env_id)


def test_spec_has_ranges_as_numbers(target):
  with PlannerClient(target, "Pendulum-v1") as client:
    outputs = client.predict("spec", {"seed": np.zeros((1, 2), np.int32)})
  assert outputs["observation_high"].tolist() == [[1, 1, 8]]
  assert outputs["observation_shapes"].tolist() == [[[3]]]
  assert outputs["action_low"].tolist() == [[-2]]
  with PlannerClient(target, "CartPole-v1") as client:
    outputs = client.predict("spec", {"seed": np.zeros((1, 2), np.int32)})
    assert np.isinf(outputs["observation_high"][0, 1])
    assert client.spec().details["observation"][0]["high"][1] is None  # JSON has no infinity.
    assert outputs["frames_to_skip"] == 3 and outputs["action_num_choices"].tolist() == [[2]]
  with PlannerClient(target, "MultiDiscreteEnv") as client:
    outputs = client.predict("spec", {"seed": np.zeros((1, 2), np.int32)})
  assert outputs["observation_high"].tolist() == [[2, 3]]
  assert outputs["action_low"].tolist() == [[0, 1]]
  assert outputs["action_high"].tolist() == [[2, 4]]
  with PlannerClient(target, "DictEnv") as client:
    outputs = client.predict("spec", {"seed": np.zeros((1, 2), np.int32)})
  assert outputs["observation_inputs"].tolist() == [[b"image", b"point"]]
  assert outputs["observation_low"].tolist() == [[0, -1, -0.5]]
  assert outputs["observation_shapes"].tolist() == [[[12, 16, 3], [2, -1, -1]]]


_WRONG = [
  ("Pendulum-v1", np.zeros(4, np.float32), r"observation is float32\[3\].*not float32\[4\]"),
  ("Pendulum-v1", np.array(["a", "b", "c"]), "float32"),
  ("Pendulum-v1", {"a": 1}, "float32"),
  ("Pendulum-v1", np.array([0, np.nan, 0], np.float32), "NaN or infinite"),
  ("Pendulum-v1", np.zeros((2, 3), np.float32), r"2 observations, but reset\(batch_size=1\)"),
  ("MultiDiscreteEnv", np.array([0.5, 1.0]), "int64"),
  ("GrayEnv", np.zeros((20, 25), np.uint8), r"uint8\[20, 24\] or \[32, 32\]"),
  ("GrayEnv", np.zeros((20, 24)), "not float64"),
  ("DictEnv", np.zeros(2), r"a dict of \['image', 'point'\], not ndarray"),
  ("DictEnv", {"image": np.zeros((12, 16, 3), np.uint8)}, r"not \['image'\]"),
  (
    "DictEnv",
    {"image": np.zeros((1, 12, 16, 3), np.uint8), "point": np.zeros(2)},
    "some have none",
  ),
  (
    "DictEnv",
    {"image": np.zeros((12, 16, 3), np.uint8), "point": np.array([0.0, np.inf])},
    "'point' of the observation holds NaN",
  ),
]


@pytest.mark.parametrize("name, observation, message", _WRONG)
def test_clients_refuse_wrong_observations_before_the_call(target, name, observation, message):
  with PlannerClient(target, name) as client:
    client.reset()
    with pytest.raises(ValueError, match=message):
      client.act(observation)


_SERVER_REFUSES = [
  ("Pendulum-v1", "observation", np.full((1, 3), np.nan, np.float32), "observation must be finite"),
  ("Pendulum-v1", "observation", np.full((1, 3), np.inf, np.float32), "observation must be finite"),
  ("Pendulum-v1", "latent_moved", np.full((1, 1), np.nan, np.float32), "latent_moved must be"),
  ("Pendulum-v1", "memory", np.full((1, 1), -np.inf, np.float32), "memory must be finite"),
  ("DictEnv", "point", np.array([[0.0, np.nan]]), "point must be finite"),
  ("Pendulum-v1", "observation", np.zeros((1, 4), np.float32), r"\[B, 3\] \(Pendulum-v1\), not"),
  ("Pendulum-v1", "observation", np.zeros(3, np.float32), r"\[B, 3\] \(Pendulum-v1\), not"),
  ("Pendulum-v1", "observation", np.zeros((1, 3, 1), np.float32), r"\[B, 3\] \(Pendulum-v1\), not"),
  ("MultiDiscreteEnv", "observation", np.array([[0, 4]]), "observation must lie between"),
  ("GrayEnv", "frame", np.zeros((1, 20, 24, 1), np.uint8), r"\[B, 20, 24\] or \[B, 32, 32\]"),
]


@pytest.mark.parametrize("name, key, value, message", _SERVER_REFUSES)
def test_the_served_model_refuses_by_name_what_makes_no_sense(
  exported, target, seen, name, key, value, message
):
  spec = exported.agents[name].spec.observation
  values = [np.asarray(x)[:1] for x in spec.unpack(seen[name].native[0])]
  seed = np.zeros((1, 2), np.int32)
  with PlannerClient(target, name) as client:
    state = client.predict("initial_state", {"seed": seed})
    good = {**dict(zip(export.input_names(spec), values, strict=True)), "seed": seed, **state}
    client.predict("act", good)
    with pytest.raises(CallError, match=message) as caught:
      client.predict("act", {**good, key: value})
  assert caught.value.code.name == "INVALID_ARGUMENT"


def test_actors_refuse_by_name(exported, target):
  local = export.load_agent(exported.agent_folder("Pendulum-v1"))
  with pytest.raises(RuntimeError, match=r"Call begin\(rows\) first"):
    local.act(np.zeros((1, 3), np.float32), [True], [0])
  served = GrpcActor(f"grpc://{target}/Pendulum-v1")
  for actor in (local, served):
    actor.begin(1)
    with pytest.raises(ValueError, match="NaN"):
      actor.act(np.full((1, 3), np.nan, np.float32), [True], [0])
    with pytest.raises(ValueError, match=r"float32\[B, 3\].*not float32\[3\]"):
      actor.act(np.zeros(3, np.float32), [True], [0])
  with pytest.raises(ValueError, match="has no batch dimension"):
    local.act(np.zeros(3, np.float32), [True], [0])
  with pytest.raises(ValueError, match=r"2 rows, but begin\(1\)"):
    local.act(np.zeros((2, 3), np.float32), [True], [0])
  gray = export.load_agent(exported.agent_folder("GrayEnv"))
  gray.begin(1)
  with pytest.raises(ValueError, match=r"uint8\[B, 32, 32, 1\] or uint8\[B, 20, 24\]"):
    gray.act(np.zeros((32, 32, 1), np.uint8), [True], [0])
  mixed = export.load_agent(exported.agent_folder("DictEnv"))
  mixed.begin(1)
  with pytest.raises(ValueError, match=r"dict of \['image', 'point'\], not ndarray"):
    mixed.act(np.zeros((1, 2)), [True], [0])


@pytest.mark.parametrize("name", NAMES)
def test_a_rollout_probes_any_agent(target, name):
  assert f"{name} version 1 at {target} passes its probe" in probe(target, name, 1)
