"""Measures the return in the environment and the time of a decision for several planner settings.

Each row is the planner of the run in --workdir with some settings changed. The row `controller` is
the controller that proposes plans, and `gaussian` is a wide search without proposals. All rows play
the same seeds. The time is that of one decision in process at batch size 1, from frame to action.
The workdir is only read. Results are saved; repeat the command to continue. Writes
planner_table.json, .md and .svg to WORKDIR/planner_table (or --output).

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

_ROWS = flags.DEFINE_list("rows", [], f"Some of {', '.join(ROWS)}; all if empty.")
_EPISODES = flags.DEFINE_integer("episodes", 16, "Real episodes of each row.", lower_bound=1)
_DECISIONS = flags.DEFINE_integer("decisions", 200, "Decisions to time.", lower_bound=2)
_FINISHED = flags.DEFINE_bool("finished", False, "Use the result of trainers.finish as controller.")
_OUTPUT = flags.DEFINE_string(
  "output", None, "Folder to write to; WORKDIR/planner_table by default."
)


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
