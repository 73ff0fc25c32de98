"""Evaluates any agent over full official episodes, by one command.

`--agent` is `random`, `heuristic`, `controller` or `planner` (of the run in --workdir), the folder
of an exported SavedModel, or a served model as `grpc://host:port/model`.

    python -m trainers.evaluate --agent=heuristic --episodes=16
    python -m trainers.evaluate --agent=controller --preset=quickstart --workdir=runs/quickstart
    python -m trainers.evaluate --agent=runs/quickstart/export/planner --episodes=4
    python -m trainers.evaluate --agent=grpc://localhost:8500/planner --render=drive.gif
"""

from __future__ import annotations

from pathlib import Path

from absl import flags

from trainers import common
from trainers.stages import episode_seeds, evaluate, play, scripted_actor, write_json
from wm_tf import report
from wm_tf.agent import AgentActor
from wm_tf.export import SavedModelActor

_AGENT = flags.DEFINE_string("agent", "controller", "What to evaluate; see above.")
_EPISODES = flags.DEFINE_integer("episodes", 16, "Number of full episodes.", lower_bound=1)
_SEEDS = flags.DEFINE_list(
  "seeds", [], "Seeds of the episodes, instead of fresh ones that follow from --seed."
)
_IN_MODEL = flags.DEFINE_bool(
  "in_model", True, "Also evaluate a run's own agent in its dream, and print the gap."
)
_RENDER = flags.DEFINE_string("render", None, "GIF file for an animation of the first episode.")
_OUTPUT = flags.DEFINE_string("output", None, "JSON file for the results.")


def main() -> None:
  name = _AGENT.value
  results = {}
  if name in ("controller", "planner"):
    with common.open_run(create=False) as run:
      iteration = run.best_iteration()
      agent = run.agent(name, iteration)
      if _IN_MODEL.value:
        results[f"{name}_in_model"] = run.evaluate_in_model(agent, _EPISODES.value, iteration)
    actor = AgentActor(agent)
  elif name in ("random", "heuristic"):
    actor = scripted_actor(name, common.config().environment)
  elif name.startswith("grpc://"):
    from serving.client import GrpcActor  # Serving is an extra.

    actor = GrpcActor(name)
  else:
    actor = SavedModelActor(name)
  config = common.config()
  seeds = [int(seed) for seed in _SEEDS.value] or episode_seeds(
    "evaluation", common.seed(), _EPISODES.value
  )
  label = name if name in ("random", "heuristic") else f"{Path(name).name}_in_environment"
  results[label] = evaluate(config, actor, seeds, name)
  common.print_scores(results)
  if len(results) == 2:
    model, real = (score["mean"] for score in results.values())
    print(f"  {'gap (model - environment)':28} {model - real:8.1f}")
  if _OUTPUT.value:
    write_json(Path(_OUTPUT.value), results)
  if _RENDER.value:
    episode = play(config, actor, seeds[0])
    Path(_RENDER.value).write_bytes(report.animation(episode.observation))
    print(f"Wrote {_RENDER.value} (seed {seeds[0]}).")


if __name__ == "__main__":
  common.run(main)
