"""Reads every file of a run and prints the missing and the damaged ones.

With --remove it also removes the damaged files. The command that made the run then makes them
again, with equal content where that follows from the seed.

    python -m trainers.check --workdir=runs/car
    python -m trainers.check --workdir=runs/car --remove
"""

from __future__ import annotations

import shutil
import sys

from absl import flags

from trainers import common
from wm_tf.runs.integrity import problems
from wm_tf.runs.workdir import WorkdirError, locked

_REMOVE = flags.DEFINE_bool("remove", False, "Remove damaged files, so that they are made again.")


def main() -> None:
  workdir = common.workdir()
  if not workdir.is_dir():
    raise WorkdirError(f"{workdir} does not exist; name a run's folder by --workdir.")
  with locked(workdir):
    found = list(problems(workdir))
    for problem in found:
      print(problem.text)
    if not found:
      print(f"{workdir}: every file is as it was written.")
      return
    if not _REMOVE.value:
      print(f"{len(found)} problems. With --remove, what is damaged goes, to be made again.")
      sys.exit(1)
    for path in {problem.remove for problem in found if problem.remove}:
      shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
      print(f"Removed {path}.")
    print("Start the command that made the run again.")


if __name__ == "__main__":
  common.run(main)
