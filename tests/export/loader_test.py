"""The model server's loader takes the exports, in a process that has only TensorFlow."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2
from tensorflow_serving.apis import prediction_log_pb2

from tests.export.exported import CONFIG, SPEC, frames, small
from tests.export.gate import assert_close
from wm_tf import export

GOLDEN = Path(__file__).parent / "golden" / "export_signatures.json"


def signature_defs(folder):
  model = saved_model_pb2.SavedModel.FromString((folder / "saved_model.pb").read_bytes())
  return model.meta_graphs[0]


SEED = np.array([[1, 2], [3, 4]], np.int32)


@pytest.mark.parametrize("name", ["controller", "planner"])
def test_agents_through_the_servers_loader(exports, name, gate):
  agent = exports.agents[name]
  native = frames(0, 2)
  # A state from the middle of an episode, so that every tensor of it matters.
  _, state = agent.act(
    tf.constant(small(frames(1, 2))), agent.initial_state(2), tf.constant(SEED + 5)
  )
  tensors = {key: x.numpy() for key, x in export.flatten_state(state).items()}
  act = {"frame": native, "seed": SEED, **tensors}
  results = gate(
    exports.path / name / "1",
    {
      "act": act,
      "serving_default": act,
      "initial_state": {"seed": SEED},
      "spec": {"seed": SEED},
    },
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


def test_the_world_model_through_the_servers_loader(exports, gate):
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
  results = gate(
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
