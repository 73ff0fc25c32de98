"""How the time of a dream, of training and of reading grows with what it is given.

    python -m benchmarks.scaling [--rounds=3] [--output=scaling.json]

Seconds against population, horizon and latent size (a dream of 16 rollouts; training steps), and
against the size of the data (an epoch of the pipeline over more and more episodes). The slope is
that of the logarithms, fitted to the upper half of the points: 1 is linear, below 1 is cheaper than
linear.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np

from benchmarks import _problems as problems
from benchmarks import _race as race_lib
from benchmarks import pipeline
from wm_tf.data import datasets

_POPULATIONS = (4, 16, 64, 256)
_HORIZONS = (15, 60, 240)
_LATENTS = (8, 32, 64, 128)
_COPIES = (2, 4, 8, 16, 32)  # Of the collected episodes.


def slope(x, y) -> float:
  """Of log y over log x, over the upper half of the points."""
  half = len(x) // 2
  return round(float(np.polyfit(np.log(x[half:]), np.log(y[half:]), 1)[0]), 2)


def _race(workers, task: str, cases: dict[int, dict], rounds: int) -> dict:
  contenders = {
    x: workers.make(str(x), "tensorflow", task, **options) for x, options in cases.items()
  }
  race_lib.race(list(contenders.values()), rounds)
  seconds = [float(np.median(contender.seconds)) for contender in contenders.values()]
  for contender in contenders.values():
    contender.forget()
  return _curve(list(cases), seconds)


def _curve(x: list[int], seconds: list[float]) -> dict:
  return {"x": x, "seconds": [float(f"{s:.4g}") for s in seconds], "slope": slope(x, seconds)}


def _reading(rounds: int) -> dict:
  with tempfile.TemporaryDirectory() as directory:
    folder, latents = Path(directory) / "rollouts", Path(directory) / "latents"
    pipeline.collect(folder, 2)
    pipeline.write_latents(folder, latents)

    def seconds(copies):
      data = datasets.sequences_dataset(
        [latents] * copies, sequence_length=32, batch_size=16, seed=0, split="all"
      )
      return race_lib.timed(lambda: sum(1 for _ in data))

    turns = [[seconds(copies) for copies in _COPIES] for _ in range(rounds + 1)]
  return _curve(list(_COPIES), np.median(turns[1:], axis=0).tolist())


def main() -> None:
  options = race_lib.parser(__doc__, rounds=3).parse_args()

  def size(**changes):
    return vars(problems.DreamSize(**{"horizon": 30, **changes}))

  with race_lib.Workers() as workers:

    def race(task, cases):
      return _race(workers, task, cases, options.rounds)

    results = {
      "dream, population": race("dream", {n: size(candidates=n) for n in _POPULATIONS}),
      "dream, horizon": race("dream", {h: size(horizon=h) for h in _HORIZONS}),
      "dream, latent size": race("dream", {z: size(latent=z) for z in _LATENTS}),
      "MDN-RNN step, latent size": race(
        "dynamics", {z: dict(batch=100, length=32, steps=1, latent=z) for z in _LATENTS}
      ),
      "MDN-RNN step, sequence length": race(
        "dynamics", {t: dict(batch=32, length=t, steps=1) for t in (9, 17, 33, 49)}
      ),
      "VAE step, batch": race("vae", {b: dict(batch=b, steps=1) for b in (25, 50, 100)}),
    }
  results["epoch of latents, copies of the data"] = _reading(options.rounds)
  print("\nslope of the logarithms; seconds at each point")
  for name, curve in results.items():
    points = ", ".join(f"{x}: {s:.3g}" for x, s in zip(curve["x"], curve["seconds"], strict=True))
    print(f"  {name:38} {curve['slope']:5.2f}   {points}")
  race_lib.write(options.output, "python -m benchmarks.scaling", results)


if __name__ == "__main__":
  main()
