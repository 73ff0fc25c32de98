"""One generation of evolution in the dream: ask, dream, tell.

    python -m benchmarks.generation [--rounds=7] [--output=generation.json]

64 candidates x 16 rollouts x 60 decisions. Ours asks and tells by its own CMA-ES in the same
compiled function; the alternatives by pycma.
"""

from __future__ import annotations

from benchmarks import _problems as problems
from benchmarks import _race as race_lib


def main() -> None:
  options = race_lib.parser(__doc__, rounds=7).parse_args()
  size = vars(problems.DreamSize())
  with race_lib.Workers() as workers:
    contenders = [
      workers.make("ours", "tensorflow", "generation", **size),
      workers.make("JAX and pycma", "jax", "generation", **size),
      workers.make("PyTorch and pycma", "torch", "generation", **size),
    ]
    found = race_lib.compare("A generation", contenders, options.rounds, 1, "generations/s")
  race_lib.write(options.output, "python -m benchmarks.generation", found)


if __name__ == "__main__":
  main()
