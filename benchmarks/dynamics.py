"""MDN-RNN training, tokens per second, against PyTorch on the same density.

    python -m benchmarks.dynamics [--rounds=7] [--output=dynamics.json]

LSTM 256, five normals for each of 32 latents, heads for reward and termination, on cached
posteriors: whole training steps, as in `benchmarks.vae`. A token is one transition that is learned
from. Loss, gradient norm and parameter count must agree, in float32, before anyone runs.
"""

from __future__ import annotations

from benchmarks import _race as race_lib

_BATCH, _LENGTH, _STEPS = 100, 32, 5


def main() -> None:
  options = race_lib.parser(__doc__, rounds=7).parse_args()
  with race_lib.Workers() as workers:

    def make(label, framework, **kind):
      return workers.make(
        label, framework, "dynamics", batch=_BATCH, length=_LENGTH, steps=_STEPS, **kind
      )

    contenders = [
      make("ours", "tensorflow", precision="bfloat16"),
      make("ours, float32", "tensorflow"),
      make("PyTorch, eager", "torch"),
      make("PyTorch, compiled", "torch", compiled=True),
      make("PyTorch, eager, bfloat16", "torch", bfloat16=True),
      make("PyTorch, compiled, bfloat16", "torch", compiled=True, bfloat16=True),
    ]
    work = _BATCH * (_LENGTH - 1) * _STEPS
    found = race_lib.compare("MDN-RNN training", contenders, options.rounds, work, "tokens/s")
  race_lib.write(options.output, "python -m benchmarks.dynamics", found)


if __name__ == "__main__":
  main()
