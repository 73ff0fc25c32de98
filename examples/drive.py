"""Drives any environment with a served agent: gymnasium and TensorFlow Serving's own stubs only.

python examples/drive.py --target=localhost:8500 --model=planner --episodes=4 --seed=1000
"""

import argparse
import importlib
import json
import sys

import grpc
import gymnasium
import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

SPACES = {
  "continuous": gymnasium.spaces.Box,
  "discrete": gymnasium.spaces.Discrete,
  "multi_discrete": gymnasium.spaces.MultiDiscrete,
  "multi_binary": gymnasium.spaces.MultiBinary,
}
FRAME = {"input": "frame", "path": [], "native_dtype": "uint8"}


def predict(stub, model, signature, **inputs):
  """Calls a signature with arrays and returns arrays."""
  request = predict_pb2.PredictRequest()
  request.model_spec.name, request.model_spec.signature_name = model, signature
  for name, value in inputs.items():
    request.inputs[name].CopyFrom(tf.make_tensor_proto(value))
  outputs = stub.Predict(request, timeout=60).outputs
  return {name: tf.make_ndarray(proto) for name, proto in outputs.items()}


def make_env(spec, name=None):
  """Builds the environment that the model was trained for, or the one that `name` says.

  Args:
    spec: the output `json` of the signature `spec`.
    name: a gymnasium id, `module:ID`, or `module:factory` for what builds the native environment.
  """
  name = name or spec.get("make_id") or spec["env_id"]
  kwargs = dict(spec.get("make_kwargs") or {})
  if spec.get("rendered"):
    kwargs["render_mode"] = "rgb_array"
  module, _, attribute = name.partition(":")
  try:
    factory = getattr(importlib.import_module(module), attribute, None) if attribute else None
    if callable(factory):
      env = factory(**kwargs)
    else:
      env = gymnasium.make(name, max_episode_steps=spec["max_steps"], **kwargs)
  except (gymnasium.error.Error, ImportError, TypeError) as error:
    sys.exit(
      f"drive.py: cannot make {name!r} with {kwargs} here: {error}. Name what builds environment "
      f"{spec['name']!r}: --env=module:factory, or --env=module:ID, with the module that "
      "registers the ID."
    )
  space, kind = env.action_space, spec["action_space"].get("kind")
  shape = tuple(spec["action_space"].get("env_shape") or space.shape)
  if not isinstance(space, SPACES.get(kind, gymnasium.Space)) or space.shape != shape:
    sys.exit(f"drive.py: the model's actions are {kind} of shape {shape}; {name} takes {space}.")
  return env


def inputs_of(spec, env, observation):
  """The inputs of `act` for one observation."""
  if spec.get("rendered"):
    observation = env.render()
  inputs = {}
  for part in spec["observation"] or [FRAME]:
    value = observation
    for key in part["path"]:
      value = value[key]
    inputs[part["input"]] = np.asarray(value, part["native_dtype"])[None]
  return inputs


def drive(stub, model, env, spec, seed):
  """Plays one episode and returns its official return."""
  observation, _ = env.reset(seed=seed)
  state = predict(stub, model, "initial_state", seed=[[seed, 0]])
  action, repeat = np.asarray(spec["idle_action"]), spec["frames_to_skip"]
  total, num_frames, step = 0.0, 0, 0
  while True:
    action = action.astype(env.action_space.dtype)
    for _ in range(repeat):
      observation, reward, terminated, truncated, _ = env.step(
        action if action.ndim else int(action)
      )
      total, num_frames = total + float(reward), num_frames + 1
      if terminated or truncated or num_frames == spec["max_steps"]:
        return total
    inputs = inputs_of(spec, env, observation)
    outputs = predict(stub, model, "act", seed=[[seed, step]], **inputs, **state)
    state = {name: outputs[name] for name in state}  # It travels: the server keeps nothing.
    action, repeat, step = outputs["action"][0], spec["action_repeat"], step + 1


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--target", default="localhost:8500", help="host:port of the model server")
  parser.add_argument("--model", default="planner", help="planner or controller")
  parser.add_argument(
    "--env", help="gymnasium id, module:ID or module:factory; default: the model's"
  )
  parser.add_argument("--episodes", type=int, default=4)
  parser.add_argument("--seed", type=int, default=1000, help="of the first; the next ones count on")
  args = parser.parse_args()
  stub = prediction_service_pb2_grpc.PredictionServiceStub(grpc.insecure_channel(args.target))
  spec = json.loads(predict(stub, args.model, "spec", seed=[[0, 0]])["json"][0])
  env = make_env(spec, args.env)
  returns = []
  for seed in range(args.seed, args.seed + args.episodes):
    returns.append(drive(stub, args.model, env, spec, seed))
    print(f"seed {seed}: return {returns[-1]:.1f}", flush=True)
  print(f"mean {np.mean(returns):.1f}, std {np.std(returns):.1f}, n {len(returns)}")


if __name__ == "__main__":
  main()
