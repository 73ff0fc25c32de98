"""Exports answer what the agent answers: served, and as actors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from serving.client import CallError, GrpcActor, PlannerClient
from serving.deploy.servers import probe
from serving.embedded import EmbeddedServer
from tests.export.exported import CONFIG, SPEC, frames, small
from wm_tf import export
from wm_tf.agent import AgentActor


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


PRETRAINED = Path(__file__).resolve().parents[2] / "pretrained" / "car_racing"


def test_exports_of_an_earlier_release_go_on_working():
  """Their `spec` does not describe the observation."""
  path = PRETRAINED / "controller"
  local = export.load_agent(path)
  native = frames(0, 2)
  with EmbeddedServer() as server:
    target = server.start({"controller": str(path)})
    served = GrpcActor(f"grpc://{target}/controller")
    with PlannerClient(target, "controller") as client:
      spec = client.spec()
      assert spec.observation is None and spec.action_kind == "continuous"
      assert spec.action_shape == (3,) and spec.make_id == "CarRacing-v3" and not spec.rendered
      client.reset(2, seed=[3, 4])
      client.act(native)
      answer = client.extras["agent_action"]
      with pytest.raises(ValueError, match=r"frames are uint8\[B, H, W, 3\], not float64"):
        client.act(native * 1.0)
    for actor in (local, served):
      actor.begin(2)
      found = actor.act(small(native), np.full(2, True), np.array([3, 4]))
      np.testing.assert_allclose(found, answer, rtol=1e-4, atol=1e-5)
    assert "passes its probe" in probe(target, "controller", 1)
