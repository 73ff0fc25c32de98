"""VAE training, images per second, against the same architecture in PyTorch.

    python -m benchmarks.vae [--rounds=5] [--output=vae.json]

The paper's VAE (4.3 M parameters) in whole training steps on one batch of 100 uint8 frames: loss,
gradients, clipping, Adam. Ours is the step that `fit` takes, which also checks that all is finite.
Ours computes in bfloat16, as the presets train, and in float32. PyTorch runs eager and compiled, in
float32 and under bfloat16 autocast, in channels-last memory with its fused Adam. Loss, gradient
norm and parameter count must agree, in float32, before anyone runs.
"""

from __future__ import annotations

from benchmarks import _race as race_lib

_BATCH, _STEPS = 100, 3


def main() -> None:
  options = race_lib.parser(__doc__, rounds=5).parse_args()
  with race_lib.Workers() as workers:

    def make(label, framework, **kind):
      return workers.make(label, framework, "vae", batch=_BATCH, steps=_STEPS, **kind)

    contenders = [
      make("ours", "tensorflow", precision="bfloat16"),
      make("ours, float32", "tensorflow"),
      make("PyTorch, eager", "torch"),
      make("PyTorch, compiled", "torch", compiled=True),
      make("PyTorch, eager, bfloat16", "torch", bfloat16=True),
      make("PyTorch, compiled, bfloat16", "torch", compiled=True, bfloat16=True),
    ]
    found = race_lib.compare(
      "VAE training", contenders, options.rounds, _BATCH * _STEPS, "images/s"
    )
  race_lib.write(options.output, "python -m benchmarks.vae", found)


if __name__ == "__main__":
  main()
