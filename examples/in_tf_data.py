"""An exported world model in a tf.data pipeline: frames in, latents out, compressed on the way.

python examples/in_tf_data.py runs/quickstart/export/world_model/1
"""

import sys

import tensorflow as tf


def latents(version, frames, batch_size=32):
  """A dataset of `float32[B, Z]` latents of a dataset of `uint8[64, 64, 3]` frames."""
  world_model = tf.saved_model.load(version)
  encode = world_model.signatures["encode"]
  dataset = frames.batch(batch_size).map(
    lambda frame: encode(frame=frame)["loc"], num_parallel_calls=tf.data.AUTOTUNE
  )
  # A signature does not own its variables: without this they are freed with `world_model`.
  dataset.world_model = world_model
  return dataset.prefetch(tf.data.AUTOTUNE)


def main(version):
  frames = tf.data.Dataset.range(100).map(
    lambda i: tf.cast(tf.fill([64, 64, 3], i * 255 // 99), tf.uint8)
  )
  for batch in latents(version, frames):
    print(f"latents {batch.shape}, of mean {tf.reduce_mean(batch):.3f}")


if __name__ == "__main__":
  main(*sys.argv[1:])
