"""What a planner's time buys: return in the environment against milliseconds a decision.

Each row is the planner of the run in --workdir with one of its settings changed; `controller` is
what proposes to it, and `gaussian` a wide search that nothing proposes to. All play the same
tracks. Time is that of one decision in process at batch 1, frame to action. The workdir is only
read; what was measured is kept, and the same command goes on. Leaves planner_table.json, .md and
.svg in WORKDIR/planner_table (or --output).

    python -m trainers.plan_table --workdir=runs/quickstart
    python -m trainers.plan_table --workdir=runs/quickstart --rows=controller,planner --episodes=32
    python -m trainers.plan_table --workdir=runs/quickstart --finished --output=table
"""

from __future__ import annotations

from absl import flags

from trainers import common
from trainers.errors import chosen
from wm_tf.files import user_path
from wm_tf.runs.planner_table import ROWS, Table, to_markdown
from wm_tf.runs.workdir import locked

_ROWS = flags.DEFINE_list("rows", [], f"Which ones of {', '.join(ROWS)}; all if empty.")
_EPISODES = flags.DEFINE_integer("episodes", 16, "Real episodes of each row.", lower_bound=1)
_DECISIONS = flags.DEFINE_integer("decisions", 200, "Decisions that are timed.", lower_bound=2)
_FINISHED = flags.DEFINE_bool("finished", False, "Take the controller as trainers.finish left it.")
_OUTPUT = flags.DEFINE_string("output", None, "Folder to write to; WORKDIR/planner_table if none.")


def main() -> None:
  names = chosen("rows", _ROWS.value, list(ROWS), "row")
  run = common.read_run()
  run.best_iteration()  # Without a validated controller there is nothing to plan with.
  folder = user_path(_OUTPUT.value or run.workdir / "planner_table")
  folder.mkdir(parents=True, exist_ok=True)
  with locked(folder):
    table = Table(run, folder, _EPISODES.value, _FINISHED.value, common.seed())
    for name in names:
      table.measure(name, _DECISIONS.value)
  print(to_markdown(table.rows))
  print(f"Wrote {folder}/planner_table.json, .md and .svg.")


if __name__ == "__main__":
  common.run(main)
