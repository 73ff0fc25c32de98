"""Evaluates an agent over full official episodes.

`--agent` is `random`, `heuristic`, `controller` or `planner` (of the run in --workdir), the folder
of an exported SavedModel, or a served model as `grpc://host:port/model`.

    python -m trainers.evaluate --agent=heuristic --episodes=16
    python -m trainers.evaluate --agent=controller --workdir=runs/quickstart
    python -m trainers.evaluate --finished --workdir=runs/quickstart
    python -m trainers.evaluate --agent=runs/quickstart/export/planner --episodes=4
    python -m trainers.evaluate --agent=grpc://localhost:8500/planner --render=drive.gif
"""

from __future__ import annotations

import json
from pathlib import Path

from absl import flags

from trainers import common
from trainers.errors import FlagError
from wm_tf import config as config_lib
from wm_tf import report
from wm_tf.agent import AgentActor
from wm_tf.files import atomic_open
from wm_tf.runs.actors import foreign_actor
from wm_tf.runs.playing import episode_seeds, evaluate, rendered, scripted_actor

_AGENT = flags.DEFINE_string("agent", "controller", "The agent to evaluate; see above.")
_EPISODES = flags.DEFINE_integer("episodes", 16, "Number of full episodes.", lower_bound=1)
_SEEDS = flags.DEFINE_list(
  "seeds", [], "Seeds of the episodes, instead of those derived from --seed."
)
flags.register_validator(
  "seeds",
  lambda seeds: (
    all(seed.isascii() and seed.isdigit() for seed in seeds) and len(set(seeds)) == len(seeds)
  ),
  "it takes distinct whole numbers, such as --seeds=1,2,3.",
)
_IN_MODEL = flags.DEFINE_bool(
  "in_model", True, "Also evaluate a run's own agent in its dream, and print the gap."
)
_FINISHED = flags.DEFINE_bool(
  "finished", False, "Evaluate the result of trainers.finish as the run's controller."
)
_RENDER = flags.DEFINE_string("render", None, "GIF file for an animation of the first episode.")
flags.register_validator(
  "render", lambda path: path is None or path.lower().endswith(".gif"), "it takes a .gif file."
)
_OUTPUT = flags.DEFINE_string("output", None, "JSON file for the results.")


def main() -> None:
  name, seed, results = _AGENT.value, common.seed(), {}
  if name in ("controller", "planner"):
    with common.open_run(create=False) as run:
      config, seed = run.config, run.seed
      iteration = run.best_iteration()
      agent = run.agent(name, iteration, _FINISHED.value)
      name = f"finished_{name}" if _FINISHED.value else name
      if _IN_MODEL.value:
        results[f"{name}_in_model"] = run.evaluate_in_model(agent, _EPISODES.value, iteration)
    actor = AgentActor(agent)
  elif name in ("random", "heuristic"):
    config = common.config()
    actor = scripted_actor(name, config)
  else:
    config = common.config()
    try:
      actor = foreign_actor(name, config)
    except config_lib.ConfigError as error:
      raise FlagError(f"--{error}") from error
  seeds = [int(seed) for seed in _SEEDS.value] or episode_seeds("evaluation", seed, _EPISODES.value)
  model = Path(name).parent if Path(name).name.isdigit() else Path(name)  # A version folder.
  label = name if name in ("random", "heuristic") else f"{model.name}_in_environment"
  results[label] = evaluate(config, actor, seeds, name)
  print(report.scores_text(results))
  if len(results) == 2:
    model, real = (score["mean"] for score in results.values())
    print(f"  {'gap (model - environment)':28} {model - real:8.1f}")
  if _OUTPUT.value:
    with atomic_open(_OUTPUT.value) as file:
      file.write(json.dumps(results, indent=1).encode() + b"\n")
  if _RENDER.value:
    frames = rendered(config, actor, seeds[0])
    with atomic_open(_RENDER.value) as file:
      file.write(report.animation(frames))
    print(f"Wrote {_RENDER.value} (seed {seeds[0]}).")


if __name__ == "__main__":
  common.run(main)
