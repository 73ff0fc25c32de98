"""Latency of a planner in process, and of the same one served over gRPC.

    python -m benchmarks.planner [--rounds=5] [--output=planner.json]

CEM with 64 candidates x 12 decisions x 3 iterations in an MDN-RNN of the default size, exported as
it is served; a call takes a 64 x 64 frame, encodes it, plans and answers an action and the next
state. The exported model is called in a session of its own process, then by one client over the
loopback, in turns. The weights are random: the time does not depend on them.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np

from benchmarks import _race as race_lib
from serving import process
from serving.client import PlannerClient

_SECONDS = 2.0  # Of each turn.


def export(base: Path) -> Path:
  """Writes the planner; returns its version folder."""
  from benchmarks import _tensorflow_tasks as ours
  from wm_tf.agent import Agent
  from wm_tf.envs import env_spec
  from wm_tf.export import export_agent
  from wm_tf.policies.planner import Planner, PlannerConfig

  model = ours.make_dynamics()
  planner = Planner(model, PlannerConfig(), fixed=True)
  return export_agent(Agent(env_spec("car_racing"), model, planner), base)


class _Served:
  """One client's calls, with the state that it carries."""

  def __init__(self, target: str, frames: np.ndarray):
    self._client, self._frames, self._count = (
      PlannerClient(target, "model", timeout=120.0),
      frames,
      0,
    )
    self._client.reset(1)

  def __call__(self) -> None:
    self._count += 1
    self._client.act(self._frames[self._count % len(self._frames)][np.newaxis])


class _InProcess:
  """The same signature in a session."""

  def __init__(self, version: Path, frames: np.ndarray):
    from benchmarks._serving_soak import Reference

    self._reference, self._frames, self._count = Reference(version), frames, 0
    self._state = self._reference.initial_state()

  def __call__(self) -> None:
    self._count += 1
    inputs = {
      "frame": self._frames[self._count % len(self._frames)][np.newaxis],
      "seed": np.array([[0, self._count]], np.int32),
      **self._state,
    }
    outputs = self._reference.act(inputs)
    self._state = {name: outputs[name] for name in self._state}


def _turn(call) -> list[float]:
  """Milliseconds of each call for a while."""
  milliseconds = []
  while sum(milliseconds) < 1e3 * _SECONDS:
    milliseconds.append(1e3 * race_lib.timed(call))
  return milliseconds


def main() -> None:
  options = race_lib.parser(__doc__, rounds=5).parse_args()
  frames = np.random.default_rng(0).integers(0, 256, (200, 64, 64, 3), np.uint8)
  with tempfile.TemporaryDirectory() as directory:
    base = Path(directory) / "planner"
    version = export(base)
    with process.serve("--model_name=model", f"--model_base_path={base}") as server:
      calls = {"in process": _InProcess(version, frames), "served": _Served(server.target, frames)}
      turns = {name: [] for name in calls}
      for call in calls.values():
        for _ in range(3):
          call()
      for _ in range(options.rounds):
        for name, call in calls.items():
          turns[name].append(_turn(call))
  results = {}
  print(
    f"\nms per decision; p50 and p95 of all calls, {options.rounds} turns of {_SECONDS:g} s each"
  )
  for name, found in turns.items():
    everything = np.concatenate(found)
    p50, p95, p99 = (round(float(x), 2) for x in np.percentile(everything, [50, 95, 99]))
    results[name] = {"p50_ms": p50, "p95_ms": p95, "p99_ms": p99, "calls": len(everything)}
    print(f"  {name:12} p50 {p50:6.2f}  p95 {p95:6.2f}  p99 {p99:6.2f}  ({len(everything)} calls)")
  medians = {name: [np.median(turn) for turn in found] for name, found in turns.items()}
  ratio = race_lib.quartiles(np.divide(medians["served"], medians["in process"]))
  results["served_over_in_process"] = ratio
  print(f"  served / in process: {ratio['median']:.2f} ({ratio['q25']:.2f} to {ratio['q75']:.2f})")
  race_lib.write(options.output, "python -m benchmarks.planner", results)


if __name__ == "__main__":
  main()
