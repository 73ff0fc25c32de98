"""Examines the world model of a run: measures it, and explains the results in words.

The workdir is only read, except for WORKDIR/doctor (or --output), where doctor.json, doctor.html
and film strips are written. Configuration and data are those of the run. Most of the time is spent
on playing many controllers in the environment. Returns are saved; repeat the command to continue.

    python -m trainers.doctor --workdir=runs/quickstart
    python -m trainers.doctor --workdir=runs/quickstart --output=diagnosis --num_controllers=48
    python -m trainers.doctor --workdir=runs/quickstart --iteration=0 --episodes=4 --seed=1
"""

from __future__ import annotations

import shlex
import sys
import time

from absl import flags

from trainers import common
from wm_tf import report
from wm_tf.files import user_path
from wm_tf.report.doctor import doctor_checks, terminal_text
from wm_tf.report.doctor_page import render_doctor
from wm_tf.runs.examination import Examination
from wm_tf.runs.workdir import locked, write_findings

_OUTPUT = flags.DEFINE_string("output", None, "Folder to write to; WORKDIR/doctor by default.")
_ITERATION = flags.DEFINE_integer(
  "iteration",
  None,
  "Iteration to examine; by default the best one by validation.",
  lower_bound=0,
)
_NUM_CONTROLLERS = flags.DEFINE_integer(
  "num_controllers", 36, "Controllers of mixed skill to compare.", lower_bound=4
)
_EPISODES = flags.DEFINE_integer("episodes", 8, "Real episodes of each controller.", lower_bound=1)
_NUM_DREAMS = flags.DEFINE_integer(
  "num_dreams", 32, "Full dreams of each controller.", lower_bound=1
)
_HELD_OUT = flags.DEFINE_integer(
  "held_out_episodes", 64, "Largest number of held-out episodes to use.", lower_bound=1
)


def main() -> None:
  started = time.monotonic()
  run = common.read_run()
  iteration = run.best_iteration() if _ITERATION.value is None else _ITERATION.value
  folder = user_path(_OUTPUT.value or run.workdir / "doctor")
  examination = Examination(run, iteration, folder, common.seed())
  folder.mkdir(parents=True, exist_ok=True)
  with locked(folder):
    results = {
      "env_id": run.spec.env_id,
      "workdir": str(run.workdir),
      "iteration": iteration,
      "seed": common.seed(),
      **examination.figures(_HELD_OUT.value),
      **examination.compare(_NUM_CONTROLLERS.value, _EPISODES.value, _NUM_DREAMS.value),
    }
    results["dynamics"]["rank_correlation"] = results["transfer"]["rank_correlation"]
    checks = doctor_checks(results)
    figures, captions = examination.films(results, _NUM_CONTROLLERS.value, _NUM_DREAMS.value)
    results["checks"] = [check._asdict() for check in checks]
    results["seconds"] = round(time.monotonic() - started, 1)
    command = shlex.join(["python", "-m", "trainers.doctor", *sys.argv[1:]])
    page = render_doctor(results, checks, figures, captions=captions, command=command)
    report.save_figures(folder, figures)
    write_findings(folder / "doctor", results, html=page)
  print(terminal_text(results, checks))
  print(f"\nCharts and film strips: {folder}/doctor.html. All figures: {folder}/doctor.json.")


if __name__ == "__main__":
  common.run(main)
