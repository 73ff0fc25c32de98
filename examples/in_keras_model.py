"""An exported world model's encoder as a frozen layer inside a Keras model that is then trained.

python examples/in_keras_model.py runs/quickstart/export/world_model/1
"""

import sys

import keras
import numpy as np


def build(version):
  """A Keras model: frames in, one number out; all but the last layer comes from the export."""
  frame = keras.Input([64, 64, 3], dtype="uint8")
  encoder = keras.layers.TFSMLayer(version, call_endpoint="encode")
  encoder.trainable = False
  latent = encoder(frame)["loc"]
  return keras.Model(frame, keras.layers.Dense(1)(latent))


def main(version):
  model = build(version)
  # Something to learn from frames: where on the horizontal axis the bright bar is.
  position = np.random.default_rng(0).integers(0, 56, 256)
  frames = np.zeros([256, 64, 64, 3], np.uint8)
  for frame, x in zip(frames, position, strict=True):
    frame[:, x : x + 8] = 255
  target = (position - position.mean()) / position.std()
  model.compile(keras.optimizers.Adam(0.05), "mse")
  losses = model.fit(frames, target, epochs=20, verbose=0).history["loss"]
  print(f"{len(model.trainable_variables)} variables are trained; the encoder's are not")
  print(f"mean squared error {losses[0]:.3f} at first, {losses[-1]:.3f} at last")


if __name__ == "__main__":
  main(*sys.argv[1:])
