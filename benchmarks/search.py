"""CMA-ES generations (ask and tell) against pycma's, taking turns.

    python -m benchmarks.search [--rounds=9] [--dtype=float32]

The sizes are those of the linear controller on [z] and on [z, h] of the car. Fitness costs nothing:
only the optimiser is timed. Both sides decompose the covariance every few generations, so a turn is
a whole number of those periods, and its time is divided by its generations. NumPy's linear algebra
gets one thread unless OPENBLAS_NUM_THREADS says otherwise: its threads wait for each other busily,
and on a busy machine that makes pycma some 15 times slower.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # Before NumPy.

import cma
import numpy as np
import tensorflow as tf

from benchmarks import _race as race_lib
from wm_tf.search.cma_es import CMAES

# Candidates, dimensions, separable, generations a turn.
_CASES = ((48, 98, False, 60), (48, 98, True, 60), (64, 867, False, 6), (64, 867, True, 60))


def _ours(search: CMAES, size: int, dtype: str) -> Callable[[], None]:
  """Returns what plays one generation of ours, compiled and warm."""

  @tf.function
  def generation(state, seed):
    x = search.ask(state, seed)
    return search.tell(state, x, -tf.reduce_sum(tf.square(x), -1))

  state, count = search.init(tf.ones([1, size], dtype)), 0

  def play():
    nonlocal state, count
    state = generation(state, tf.constant([0, count]))
    np.asarray(state.mean)  # Wait for it.
    count += 1

  play()
  return play


def _pycma(num: int, size: int, separable: bool) -> Callable[[], None]:
  """Returns what plays one generation of pycma's."""
  options = {"popsize": num, "CMA_diagonal": separable, "seed": 1, "verbose": -9}
  es = cma.CMAEvolutionStrategy(np.ones(size), 0.3, options)

  def play():
    x = es.ask()
    es.tell(x, np.square(x).sum(-1))

  play()
  return play


def _seconds(play: Callable[[], None], generations: int) -> tuple[float, float]:
  """Wall and CPU seconds per generation."""
  wall, cpu = time.perf_counter(), time.process_time()
  for _ in range(generations):
    play()
  return (time.perf_counter() - wall) / generations, (time.process_time() - cpu) / generations


def main() -> None:
  parser = race_lib.parser(__doc__, rounds=9)
  parser.add_argument("--dtype", default="float32", choices=("float32", "float64"))
  args = parser.parse_args()

  print("ms per generation (CPU ms), medians; ratio is pycma / ours, above 1 ours is faster")
  results = {}
  for num, size, separable, generations in _CASES:
    search = CMAES(num_candidates=num, separable=separable)
    sides = _ours(search, size, args.dtype), _pycma(num, size, separable)
    turns = [[_seconds(side, generations) for side in sides] for _ in range(args.rounds)]
    (ours, ours_cpu), (theirs, theirs_cpu) = 1e3 * np.median(turns, 0)
    ratios = [theirs / ours for (ours, _), (theirs, _) in turns]
    name = f"{num} candidates, {size} parameters{', separable' if separable else ''}"
    results[name] = {
      "ours_ms": race_lib.quartiles([1e3 * ours for (ours, _), _ in turns]),
      "pycma_ms": race_lib.quartiles([1e3 * theirs for _, (theirs, _) in turns]),
      "ours_is_times": race_lib.quartiles(ratios),
    }
    ratio = np.median(ratios)
    print(
      f"N {num} D {size} {'separable' if separable else 'full':9}  "
      f"ours {ours:7.2f} ({ours_cpu:7.2f})  pycma {theirs:7.2f} ({theirs_cpu:7.2f})  "
      f"ratio {ratio:5.2f}, CPU {theirs_cpu / ours_cpu:5.2f}",
      flush=True,
    )
  race_lib.write(args.output, "python -m benchmarks.search", results)


if __name__ == "__main__":
  main()
