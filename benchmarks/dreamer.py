"""Updates of Dreamer's world model, per second, against the same model in PyTorch and JAX.

    python -m benchmarks.dreamer [--rounds=7] [--whole] [--output=dreamer.json]

The world model of the preset `dreamer` on sequences of 32 steps: 16 of vectors of 4 numbers, or 8
of 64 x 64 frames (uint8). An update is the loss, its gradient, clipping by the global norm, and
Adam. Ours is `JointUpdate` without a learner, which also checks that all is finite. JAX's whole
update is one program. PyTorch runs eager, with a thread on each core and with one (the products are
small), and compiled: one step of the loop over time, and all before and after the loop. With
--whole, another contender is PyTorch's loss compiled as one program, with the loop unrolled, which
takes many minutes. All compute in float32, from the same weights. The losses of the first updates
on given noise, the gradient norm and the parameter count must agree before anyone runs; compilation
times include that check, which ours and JAX compile apart.

The memory is the largest resident set of a process that makes such updates and nothing else, with
its imports and its compiler.

Ours alone runs whole updates, with the actor and the critic in dreams, and decisions of a single
agent, as an evaluation does.
"""

from __future__ import annotations

from benchmarks import _race as race_lib

_STEPS = {"vectors": 20, "pixels": 5}  # Updates in a turn.
_DECISIONS = 100  # In a turn.
_TOLERANCE = 1e-3


def _compiled(make, label: str, **kind) -> race_lib.Contender | None:
  """A compiled contender of PyTorch; None, with a message, if its compiler fails."""
  try:
    return make(label, "torch", "dreamer_world_model", **kind)
  except race_lib.BenchmarkError as error:
    reason = str(error).strip().splitlines()[-1]
    print(f"{label} does not run, since the compiler failed: {reason}")
    return None


def _memory(steps: int, pixels: bool) -> dict[str, int]:
  """Measures and prints the peak memory of each framework in bytes."""
  found = {}
  for label, framework, kind in (
    ("ours", "tensorflow", {}),
    ("JAX", "jax", {}),
    ("PyTorch, eager", "torch", {}),
    ("PyTorch, compiled", "torch", {"compiled": "parts"}),
  ):
    kind |= {"steps": steps, "pixels": pixels}
    try:
      size = race_lib.peak_memory(framework, "dreamer_world_model", **kind)
    except race_lib.BenchmarkError:
      continue  # As in the race, whose message says why.
    if size is not None:
      found[label] = size
      print(f"  {label:34} {size / 2**20:>12,.0f} MiB at most", flush=True)
  return found


def main() -> None:
  parser = race_lib.parser(__doc__, rounds=7)
  parser.add_argument("--whole", action="store_true", help="PyTorch's loss as one program, too")
  options = parser.parse_args()
  results = {}
  with race_lib.Workers() as workers:
    for name, steps in _STEPS.items():

      def make(label, framework, task, steps=steps, pixels=name == "pixels", **kind):
        return workers.make(label, framework, task, steps=steps, pixels=pixels, **kind)

      contenders = [
        make("ours", "tensorflow", "dreamer_world_model"),
        make("JAX", "jax", "dreamer_world_model"),
        make("PyTorch, eager", "torch", "dreamer_world_model"),
        make("PyTorch, eager, one thread", "torch", "dreamer_world_model", threads=1),
        _compiled(make, "PyTorch, compiled", compiled="parts"),
        _compiled(make, "PyTorch, compiled, one thread", compiled="parts", threads=1),
        _compiled(make, "PyTorch, compiled whole", compiled="whole") if options.whole else None,
      ]
      results[name] = race_lib.compare(
        f"Dreamer's world model, {name}",
        contenders,
        options.rounds,
        steps,
        "updates/s",
        tolerance=_TOLERANCE,
      )
      whole = [make("ours", "tensorflow", "dreamer_whole_update")]
      results[f"{name}, whole update"] = race_lib.compare(
        f"Dreamer's whole update, {name}", whole, options.rounds, steps, "updates/s"
      )
      decision = [make("ours", "tensorflow", "dreamer_decision", steps=_DECISIONS)]
      found = race_lib.compare(
        f"Decisions of one agent, {name}", decision, options.rounds, _DECISIONS, "decisions/s"
      )
      milliseconds = [1e3 * seconds / _DECISIONS for seconds in decision[0].seconds]
      found["milliseconds"] = race_lib.quartiles(milliseconds)
      print(f"  {found['milliseconds']['median']:.3g} ms a decision")
      results[f"{name}, decisions"] = found
      results[f"{name}, memory"] = _memory(steps, name == "pixels")
  race_lib.write(options.output, "python -m benchmarks.dreamer", results)


if __name__ == "__main__":
  main()
