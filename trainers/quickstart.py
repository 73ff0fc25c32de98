"""From nothing to a served planner that drives CarRacing-v3, in one command.

Collects rollouts, trains the world model, trains a controller inside it (several rounds, each on
data of the last controller), exports everything, serves it, and evaluates it on tracks that
training never saw. Leaves `results.json` and `report.html` in the workdir. Killed and started again
it goes on.

    python -m trainers.quickstart --workdir=runs/quickstart --seed=0
"""

from __future__ import annotations

import sys
from typing import Any

from serving.client import GrpcActor
from trainers import common, summary
from trainers.exports import export_run, serve
from trainers.playing import episode_seeds
from trainers.stages import Run
from trainers.workdir import read_json, say, write_json
from wm_tf import report
from wm_tf.agent import AgentActor


def main() -> None:
  common.set_aside_other_seed()
  with common.open_run() as run:
    run.iterate()
    results = run_evaluations(run)
    print(report.terminal_table(results))
    print(f"\n{run.workdir / 'results.json'}\n{run.workdir / 'report.html'}")


def run_evaluations(run: Run) -> dict[str, Any]:
  """Exports, serves and evaluates; returns what `results.json` holds.

  Every score is kept as soon as it is there, so that a killed run does not measure twice.
  """
  path = run.workdir / "results.json"
  results = read_json(path) if path.exists() else {}

  def measure(name: str, score_fn) -> None:
    if name not in results:
      with run.timing(f"evaluate {name}"):
        results[name] = score_fn()
      write_json(path, results)
    else:
      say(f"{name}: measured before.")

  settings = run.config.evaluate
  best = run.best_iteration()
  agent = run.agent("controller", best)
  seeds = episode_seeds("evaluation", run.seed, settings.num_episodes)
  for name in ("random", "heuristic"):
    measure(name, lambda name=name: run.evaluate(run.actor(name), seeds, name))
  measure("controller_in_model", lambda: run.evaluate_in_model(agent, settings.num_episodes, best))
  measure("controller_in_environment", lambda: run.evaluate(AgentActor(agent), seeds, "controller"))
  export_run(run)
  reported = summary.is_written(run)
  if "planner_in_environment" not in results or not reported:
    with serve(run.workdir / "export") as target:
      actor = GrpcActor(f"grpc://{target}/planner")
      num = settings.num_planner_episodes
      measure("planner_in_environment", lambda: run.evaluate(actor, seeds[:num], "served planner"))
      played = run.play(actor, seeds[0])
  results |= {
    "environment": run.spec.env_id,
    "chosen_iteration": best,
    "vae": run.quality("vae", run.vae_iteration(best)),
    "dynamics": run.quality("dynamics", best),
    "data": summary.data_figures(run),
    "iterations": run.validations(),
    "seconds": run.seconds(),
  }
  write_json(path, results)
  if not reported:
    summary.write(
      run, results, agent, played, " ".join(["python -m trainers.quickstart", *sys.argv[1:]])
    )
  return results


if __name__ == "__main__":
  common.set_default(preset="quickstart", workdir="runs/quickstart")
  common.run(main)
