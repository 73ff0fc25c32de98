"""Ablation study of a run: fits variants of it to the run's own data and evaluates them.

A variant uses the rollouts and the VAE of the run in --workdir, which is only read. It fits a
dynamics and trains a controller once. Compare it with `all_data`, which changes nothing. `brownian`
is a complete run of its own without the scripted driver; compare it with `as_it_is`. Writes
ablations.json and ablations.md to WORKDIR/ablations (or --output). Repeat the command to continue
after it was killed.

    python -m trainers.ablate --workdir=runs/quickstart
    python -m trainers.ablate --workdir=runs/quickstart --variants=all_data,z_only --num_seeds=3
    python -m trainers.ablate --workdir=runs/quickstart --output=ablations --episodes=32 --seed=1
    python -m trainers.ablate --workdir=runs/quickstart --last_iteration=0 --one_fit \\
        --num_seeds=3 --variants=ensemble,ensemble_penalty_10,ensemble_penalty_30
"""

from __future__ import annotations

from absl import flags

from trainers import common
from trainers.errors import chosen
from wm_tf.files import user_path
from wm_tf.runs.ablation import VARIANTS, Ablations, applicable, to_markdown
from wm_tf.runs.workdir import locked, write_findings

_VARIANTS = flags.DEFINE_list("variants", [], f"Some of {', '.join(VARIANTS)}; all if empty.")
_NUM_SEEDS = flags.DEFINE_integer(
  "num_seeds", 1, "Fits of each variant, with seeds from --seed on.", lower_bound=1
)
_EPISODES = flags.DEFINE_integer("episodes", 16, "Real episodes of each controller.", lower_bound=1)
_ONE_FIT = flags.DEFINE_bool(
  "one_fit", False, "Fit each dynamics once, with --seed; only controllers use the other seeds."
)
_LAST = flags.DEFINE_integer(
  "last_iteration", None, "The last iteration whose rollouts are used; by default all are."
)
_CHANGE = flags.DEFINE_multi_string(
  "change",
  [],
  "Override of the run's configuration for all variants, before their own: "
  "--change=controller.actor_critic.num_updates=100. Needs an --output of its own.",
)
_OUTPUT = flags.DEFINE_string("output", None, "Folder to write to; WORKDIR/ablations by default.")


def main() -> None:
  # In this order each variant comes after the one whose dynamics it uses.
  names = chosen("variants", _VARIANTS.value, list(VARIANTS), "variant")
  source = common.read_run()
  source.best_iteration()  # Without a validated controller there is nothing to compare with.
  folder = user_path(_OUTPUT.value or source.workdir / "ablations")
  folder.mkdir(parents=True, exist_ok=True)
  seeds = range(common.seed(), common.seed() + _NUM_SEEDS.value)
  with locked(folder):
    fit_seed = common.seed() if _ONE_FIT.value else None
    ablations = Ablations(source, folder, _EPISODES.value, fit_seed, _LAST.value, _CHANGE.value)
    table = {"as_it_is": [ablations.as_it_is(seed) for seed in seeds]}
    for name in applicable(ablations.config, names):
      table[name] = []
      for seed in seeds:
        table[name].append(ablations.row(name, seed))
        write_findings(folder / "ablations", table, md=to_markdown(table))
  print(to_markdown(table))
  print(f"Wrote {folder}/ablations.json and {folder}/ablations.md.")


if __name__ == "__main__":
  common.run(main)
