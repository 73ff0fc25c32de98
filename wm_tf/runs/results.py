"""Final evaluation of a run: exports, serves, evaluates, and writes the report."""

from __future__ import annotations

from typing import Any

from wm_tf.envs import has_heuristic, reward_threshold
from wm_tf.runs import summary
from wm_tf.runs.playing import episode_seeds
from wm_tf.runs.publishing import export_run, serve
from wm_tf.runs.run import Run
from wm_tf.runs.workdir import read_json, say, write_json


def run_evaluations(run: Run, command: str | None = None) -> dict[str, Any]:
  """Exports, serves and evaluates the models of a run, and writes `results.json` and the report.

  Every score is saved as soon as it is measured, so that a killed call does not measure it again.

  Args:
    run: an entered run with at least one validated controller.
    command: the command line that made the run, for its report; None to leave it out.

  Returns:
    The content of `results.json`.
  """
  from serving.client import GrpcActor  # Serving is an extra.

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
  baselines = ["random", "heuristic"] if has_heuristic(run.config.environment) else ["random"]
  for name in baselines:
    measure(name, lambda name=name: run.evaluate(name, seeds=seeds))
  measure("controller_in_model", lambda: run.evaluate_in_model(agent, settings.num_episodes, best))
  measure("controller_in_environment", lambda: run.evaluate(agent, seeds=seeds, label="controller"))
  export_run(run)
  reported = summary.is_written(run)
  if "planner_in_environment" not in results or not reported:
    with serve(run.workdir / "export") as target:
      actor = GrpcActor(f"grpc://{target}/planner")
      num = settings.num_planner_episodes
      measure(
        "planner_in_environment",
        lambda: run.evaluate(actor, seeds=seeds[:num], label="served planner"),
      )
      if not reported:
        played = run.play(actor, seeds[0])
        strip, kept = summary.dream_strip(agent, played)
        frames = summary.movie(run, actor, seeds[0], played, kept)
  results |= {
    "environment": run.spec.env_id,
    "environment_name": run.spec.name,
    "reward_threshold": reward_threshold(run.spec.env_id),
    "chosen_iteration": best,
    **run.family.quality(best),
    **run.controller_quality(best),
    "data": summary.data_figures(run),
    "iterations": [v | {"episodes": run.num_episodes(v["iteration"])} for v in run.validations()],
    "seconds": run.seconds(),
  }
  write_json(path, results)
  if not reported:
    summary.write(run, results, agent, strip, frames, command)
  return results
