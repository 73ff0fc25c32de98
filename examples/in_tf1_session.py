"""An exported controller or planner in a TensorFlow 1 session, as the model server itself runs it.

python examples/in_tf1_session.py runs/quickstart/export/controller/1
"""

import sys

import numpy as np
import tensorflow.compat.v1 as tf


def act(version, frames, seed=0):
  """Actions `float32[T, A]` for one episode's frames `uint8[T, H, W, 3]`."""
  with tf.Session(graph=tf.Graph()) as session:
    signatures = tf.saved_model.loader.load(session, ["serve"], version).signature_def

    def run(name, inputs):
      names = {key: info.name for key, info in signatures[name].inputs.items()}
      fetches = {key: info.name for key, info in signatures[name].outputs.items()}
      return session.run(fetches, {names[key]: value for key, value in inputs.items()})

    state, actions = run("initial_state", {"seed": [[seed, 0]]}), []
    for step, frame in enumerate(frames):
      outputs = run("act", {"frame": frame[np.newaxis], "seed": [[seed, step]], **state})
      state = {name: outputs[name] for name in state}
      actions.append(outputs["action"][0])
  return np.stack(actions)


def main(version):
  frames = np.random.default_rng(0).integers(0, 256, [5, 64, 64, 3], np.uint8)
  for step, action in enumerate(act(version, frames)):
    print(f"step {step}: action {action}")


if __name__ == "__main__":
  main(*sys.argv[1:])
