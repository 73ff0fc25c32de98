"""Dreaming, environment steps per second, against batched PyTorch and JAX under XLA.

    python -m benchmarks.dream [--rounds=5] [--output=dream.json]

`DreamES.score` at batch 1, 64 and 1024 (64 candidates, each with weights of its own, x 16
rollouts): controller, LSTM, mixture sampling, reward and termination heads. Candidates share their
noise, in the alternatives too (that is the faster way); one contender is the JAX program that draws
noise for each row, as one writes it first. The share of the matrix peak counts the products of one
step against the fastest product of square float32 matrices that any of the frameworks reached in
turns of the same race.
"""

from __future__ import annotations

from benchmarks import _problems as problems
from benchmarks import _race as race_lib

_SIZES = {
  "64 x 16": (problems.DreamSize(), 2),
  "batch 64": (problems.DreamSize(candidates=64, rollouts=1), 5),
  "batch 1": (problems.DreamSize(candidates=1, rollouts=1), 10),
}
_MATRIX = 2048


def main() -> None:
  options = race_lib.parser(__doc__, rounds=5).parse_args()
  results = {}
  with race_lib.Workers() as workers:
    for name, (size, repeats) in _SIZES.items():

      def make(label, framework, size=size, repeats=repeats, **kind):
        return workers.make(label, framework, "dream", repeats=repeats, **kind, **vars(size))

      contenders = [
        make("ours", "tensorflow"),
        make("JAX", "jax"),
        make("JAX, noise for each row", "jax", shared=False),
        make("PyTorch, eager", "torch"),
        # Compiling takes half a minute, and at the smaller sizes JAX is far ahead of it anyway.
        make("PyTorch, compiled", "torch", compiled=True) if name == "64 x 16" else None,
      ]
      products = [
        workers.make(framework, framework, "matrix_product", size=_MATRIX)
        for framework in ("tensorflow", "torch", "jax")
      ]
      work = repeats * size.candidates * size.rollouts * size.horizon
      found = race_lib.compare(
        f"Dreaming, {name}", contenders, options.rounds, work, "steps/s", others=products
      )
      peaks = {
        product.label: race_lib.quartiles([2e-9 * _MATRIX**3 / s for s in product.seconds])
        for product in products
        if product is not None
      }
      peak = max(row["median"] for row in peaks.values())
      share = found["contenders"]["ours"]["median"] * size.step_flop() / (1e9 * peak)
      found |= {
        "step_flop": size.step_flop(),
        "matrix_product_gflops": peaks,
        "share_of_matrix_peak": round(share, 3),
      }
      print(
        f"  {100 * share:.0f}% of the matrix peak ({peak:,.0f} GFLOP/s; "
        f"{size.step_flop() / 1e6:.2f} MFLOP a step)"
      )
      results[name] = found
  race_lib.write(options.output, "python -m benchmarks.dream", results)


if __name__ == "__main__":
  main()
