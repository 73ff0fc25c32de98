"""Drives a car with a served planner: gymnasium and TensorFlow Serving's own stubs, nothing else.

python examples/drive.py --target=localhost:8500 --model=planner --episodes=4 --seed=1000
"""

import argparse

import grpc
import gymnasium
import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc


def predict(stub, model, signature, **inputs):
  """Calls a signature with arrays and returns arrays."""
  request = predict_pb2.PredictRequest()
  request.model_spec.name, request.model_spec.signature_name = model, signature
  for name, value in inputs.items():
    request.inputs[name].CopyFrom(tf.make_tensor_proto(value))
  outputs = stub.Predict(request, timeout=60).outputs
  return {name: tf.make_ndarray(proto) for name, proto in outputs.items()}


def drive(stub, model, env, spec, seed):
  """Plays one episode and returns its official return."""
  frame, _ = env.reset(seed=seed)
  state = predict(stub, model, "initial_state", seed=[[seed, 0]])
  action, repeat = spec["idle_action"], spec["frames_to_skip"]
  total, num_frames, step = 0.0, 0, 0
  while True:
    for _ in range(repeat):
      frame, reward, terminated, truncated, _ = env.step(action)
      total, num_frames = total + reward, num_frames + 1
      if terminated or truncated or num_frames == spec["max_steps"]:
        return total
    outputs = predict(stub, model, "act", frame=frame[None], seed=[[seed, step]], **state)
    state = {name: outputs[name] for name in state}  # It travels: the server keeps nothing.
    action, repeat, step = outputs["action"][0], spec["action_repeat"], step + 1


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--target", default="localhost:8500", help="host:port of the model server")
  parser.add_argument("--model", default="planner", help="planner or controller")
  parser.add_argument("--episodes", type=int, default=4)
  parser.add_argument("--seed", type=int, default=1000, help="of the first; the others count on")
  args = parser.parse_args()
  stub = prediction_service_pb2_grpc.PredictionServiceStub(grpc.insecure_channel(args.target))
  spec = {k: x[0] for k, x in predict(stub, args.model, "spec", seed=[[0, 0]]).items()}
  env = gymnasium.make(spec["env_id"].decode())
  returns = []
  for seed in range(args.seed, args.seed + args.episodes):
    returns.append(drive(stub, args.model, env, spec, seed))
    print(f"seed {seed}: return {returns[-1]:.1f}", flush=True)
  print(f"mean {np.mean(returns):.1f}, std {np.std(returns):.1f}, n {len(returns)}")


if __name__ == "__main__":
  main()
