"""Finishes a run's controller in the real environment by CMA-ES, from the trained controller.

Takes the run's best controller (or that of --iteration) and evolves its output, its last layer or
all of it (finish.parameters), on new seeds in each generation, which all candidates share. The best
candidate by validation is kept in WORKDIR/finish; the trained controller is not changed.
trainers.evaluate and trainers.export use the result with --finished. Repeat the command to continue
after it was killed, or with more finish.num_generations. The configuration is that of the run;
--override may change finish.* only.

    python -m trainers.finish --workdir=runs/quickstart
    python -m trainers.finish --workdir=runs/quickstart --override=finish.num_generations=30
"""

from __future__ import annotations

import dataclasses

from absl import flags

from trainers import common
from wm_tf import config as config_lib
from wm_tf.runs.finish import Finish, chosen
from wm_tf.runs.folder import no_run, read_description
from wm_tf.runs.run import Run
from wm_tf.runs.workdir import WorkdirError

_ITERATION = flags.DEFINE_integer(
  "iteration", None, "Iteration of the controller; by default the best one.", lower_bound=0
)


def opened() -> Run:
  """Returns the run in --workdir, not yet entered, with its own configuration except for `finish`.

  Raises:
    WorkdirError: if there is no run, or the flags describe another configuration.
  """
  workdir = common.workdir()
  there = read_description(workdir / "run.json")
  if there is None:
    raise no_run(workdir)
  overrides = flags.FLAGS.override
  mine = [text for text in overrides if text.strip().startswith("finish.")]
  described = (
    any(flags.FLAGS[name].present for name in ("preset", "config", "environment"))
    or mine != overrides
  )
  if described and there.config != dataclasses.replace(common.config(), finish=there.config.finish):
    raise WorkdirError(
      f"{workdir} holds a run of another configuration. Leave out --preset, --config, "
      "--environment and any --override but of finish.*: the rest is taken from the run."
    )
  config = config_lib.override(there.config, mine)
  return Run(workdir, config=config, seed=there.seed, create=False)


def main() -> None:
  with opened() as run:
    iteration = run.best_iteration() if _ITERATION.value is None else _ITERATION.value
    contenders = Finish(run, iteration).run_all()
  print(f"The controller of iteration {iteration}, on the same validation tracks:")
  for contender in contenders:
    score = contender["score"]
    print(
      f"  generation {contender['generation']:4}  {contender['contender']:6}"
      f"{score['mean']:8.1f} ± {score['std']:.1f}  (n = {score['n']})"
    )
  best = chosen(contenders)
  if best["contender"] == "start":
    print("None was better than the dream's own, which is kept.")
  else:
    print(f"Kept: the {best['contender']} of generation {best['generation']}.")


if __name__ == "__main__":
  common.run(main)
