"""What each part of a run is worth: variants of it, fitted on its own data and played.

A variant takes rollouts and VAE from another run, which is only read, and fits dynamics and a
controller once. It is compared with `all_data`, which changes nothing.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from wm_tf import config as config_lib
from wm_tf.data import rollouts
from wm_tf.evaluation import disagreement
from wm_tf.models.ensemble import dynamics_class
from wm_tf.models.mdn_rnn import LatentDynamics
from wm_tf.runs import summary
from wm_tf.runs.playing import episode_seeds
from wm_tf.runs.run import Run
from wm_tf.runs.two_stage import TwoStage
from wm_tf.runs.workdir import WorkdirError, read_json, say, write_json

# Its tracks are validation tracks, but neither the run's own (iteration 0) nor the doctor's (1).
_TRACKS = 2


@dataclasses.dataclass(frozen=True)
class Variant:
  """One row of the table.

  Attributes:
    words: what is different, for the table.
    overrides: of the run's configuration.
    data: `all` of the rollouts, the `first` (before any iteration), or `own`.
    frozen_rnn: whether the recurrent network stays as it was initialised.
    latent_only: whether the controller sees nothing of the recurrent network.
    dynamics_of: the variant whose dynamics it uses, if it need not fit its own.
  """

  words: str
  overrides: tuple[str, ...] = ()
  data: str = "all"
  frozen_rnn: bool = False
  latent_only: bool = False
  dynamics_of: str | None = None


_ENSEMBLE_SIZE = 3


_ENSEMBLE = (f"dynamics.ensemble_size={_ENSEMBLE_SIZE}",)


VARIANTS = {
  "all_data": Variant("all rollouts, fitted once"),
  "untrained_rnn": Variant(
    "the LSTM stays as initialised; mixture and heads learn", frozen_rnn=True
  ),
  "z_only": Variant(
    "the controller does not see the hidden state",
    ("controller.hidden_components=0",),  # Nothing to search where there is nothing to see.
    latent_only=True,
    dynamics_of="all_data",
  ),
  "one_normal": Variant("K = 1", ("dynamics.num_mixtures=1",)),
  "ten_normals": Variant("K = 10", ("dynamics.num_mixtures=10",)),
  "joint": Variant("one mixture over all dimensions", ("dynamics.mixture_kind=joint",)),
  "per_dimension": Variant(
    "a mixture for each dimension", ("dynamics.mixture_kind=per_dimension",)
  ),
  "without_iteration": Variant("only the rollouts from before any controller", data="first"),
  "ensemble": Variant(
    f"an ensemble of {_ENSEMBLE_SIZE}; its disagreement costs nothing",
    _ENSEMBLE,
  ),
  **{
    f"ensemble_penalty_{penalty}": Variant(
      f"the same ensemble; disagreement beyond that of the data costs {penalty} times as much",
      (
        *_ENSEMBLE,
        f"controller.dream.disagreement_penalty={penalty}",
        f"controller.actor_critic.disagreement_penalty={penalty}",
      ),
      dynamics_of="ensemble",
    )
    for penalty in (10, 30)
  },
  "brownian": Variant(
    "a run of its own, from Brownian rollouts only: no scripted driver",
    (
      "collect.uniform=0.0",
      "collect.held=0.0",
      "collect.brownian=1.0",
      "collect.heuristic=0.0",
    ),
    data="own",
  ),
}


def latent_only(dynamics: type[LatentDynamics]) -> type[LatentDynamics]:
  """A world model that shows a controller the latent, and zeros for the recurrent state."""

  class LatentOnly(dynamics):
    def features(self, state):
      return super().features(state) * self.only_centred_features().astype(np.float32)

  return LatentOnly


class VariantFamily(TwoStage):
  """A family whose VAE and latents are another run's, and whose dynamics may differ."""

  run: VariantRun

  def vae(self, iteration):
    return self.run.source.family.vae(self.run.last)

  def encode(self, iteration):
    for folder in self.run.sequence_folders(iteration):
      if not (folder / rollouts.MANIFEST).exists():
        raise WorkdirError(f"{folder} does not exist; run trainers.train_dynamics first.")

  def sequences(self, folder, iteration):
    return self.run.source.family.sequences(folder, self.run.last)

  def new_dynamics(self, vae):
    config, space = self.run.config.dynamics, self.run.spec.action_space
    kind = dynamics_class(config)
    if self.run.variant.latent_only:
      kind = latent_only(kind)
    model = kind(vae, space.size, config, num_choices=space.num_choices)
    if self.run.variant.frozen_rnn:
      model.lstm.trainable = False
    return model


class VariantRun(Run):
  """A run whose rollouts and VAE are another one's; it has only an iteration 0, on all of them."""

  def __init__(
    self,
    workdir: Path,
    config: config_lib.ExperimentConfig,
    seed: int,
    source: Run,
    last: int,
    variant: Variant,
    dynamics: Run | None = None,
  ):
    """Describes a variant.

    Args:
      workdir, config, seed: as of `Run`.
      source: the other run.
      last: its iteration up to which rollouts are used.
      variant: what is different.
      dynamics: the run whose dynamics it uses; its own if None.
    """
    self.source, self.last, self.variant = source, last, variant
    self._dynamics = dynamics
    super().__init__(workdir, config=config, seed=seed, force=True)

  def make_family(self):
    return VariantFamily(self)

  def path(self, stage, iteration):
    if stage == "data":
      return self.source.path(stage, iteration)
    if stage == "dynamics" and self._dynamics is not None:
      return self._dynamics.path(stage, iteration)
    return super().path(stage, iteration)

  def data_folders(self, iteration):
    return self.source.data_folders(self.last)


class Ablations:
  """All variants of a run.

  Args:
    source: the run.
    folder: where to write.
    num_episodes: real episodes, and dreams, that a controller is judged by.
    fit_seed: if not None, dynamics are fitted with this seed only, and used for all.
    last: the last iteration of the run that counts; its last validated one if None.
    changes: overrides of the run's configuration for all variants.
  """

  def __init__(
    self,
    source: Run,
    folder: Path,
    num_episodes: int,
    fit_seed: int | None = None,
    last: int | None = None,
    changes: Sequence[str] = (),
  ):
    self.source, self.folder, self.num_episodes = source, folder, num_episodes
    self.fit_seed = fit_seed
    validated = [v["iteration"] for v in source.validations()]
    self.last = max(validated, default=0) if last is None else last
    self.config = config_lib.override(source.config, changes)

  def variant_run(self, name: str, seed: int) -> Run:
    """The run of a variant, not yet entered."""
    variant, folder = VARIANTS[name], self.folder / name / f"seed{seed}"
    config = config_lib.override(self.config, variant.overrides)
    if variant.data == "own":
      return Run(folder, config=config, seed=seed, force=True)
    last = 0 if variant.data == "first" else self.last
    return VariantRun(folder, config, seed, self.source, last, variant, self._fitted(name, seed))

  def _fitted(self, name: str, seed: int) -> Run | None:
    """The run whose dynamics a variant uses, not yet entered; None if it is to fit its own."""
    owner = VARIANTS[name].dynamics_of or name
    owner_seed = seed if self.fit_seed is None else self.fit_seed
    return None if (owner, owner_seed) == (name, seed) else self.variant_run(owner, owner_seed)

  def row(self, name: str, seed: int) -> dict[str, Any]:
    """Fits and plays a variant, unless that is done; returns its figures."""
    path = self.folder / name / f"seed{seed}" / f"result_{self.num_episodes}.json"
    if path.exists():
      say(f"{name}, seed {seed}: done before.")
      return read_json(path)
    say(f"{name}, seed {seed}: {VARIANTS[name].words}.")
    if VARIANTS[name].data != "own" and (fitted := self._fitted(name, seed)):
      with fitted:
        fitted.timed(fitted.family.train_dynamics, 0)
    with self.variant_run(name, seed) as run:
      if VARIANTS[name].data == "own":
        run.train()
        iteration = run.best_iteration()
      else:
        iteration = 0
        run.timed(run.family.train_dynamics, iteration)
        run.timed(run.train_controller, iteration)
      result = self.judge(run, iteration, seed) | {"seconds": sum(run.seconds().values())}
    write_json(path, result)
    return result

  def judge(self, run: Run, iteration: int, seed: int) -> dict[str, Any]:
    """The figures of a run's controller and of the model that it was dreamed up in."""
    agent = run.agent("controller", iteration)
    tracks = episode_seeds("validation", seed, self.num_episodes, _TRACKS)
    episodes = [rollouts.load_manifest(f).episodes for f in run.data_folders(iteration)]
    result = {
      "episodes": sum(map(len, episodes)),
      "dynamics": run.quality("dynamics", iteration),
      "in_model": run.evaluate_in_model(agent, self.num_episodes, iteration),
      "in_environment": run.evaluate(agent, seeds=tracks, label=f"play {run.workdir.parent.name}"),
    }
    if run.config.dynamics.ensemble_size > 1:
      samples = summary.disagreement_samples(run, agent, iteration)
      result["disagreement"] = disagreement.figures(samples)
    return result

  def as_it_is(self, seed: int) -> dict[str, Any]:
    """The figures of the run's own chosen controller."""
    path = self.folder / "as_it_is" / f"seed{seed}" / f"result_{self.num_episodes}.json"
    if not path.exists():
      result = self.judge(self.source, self.source.best_iteration(self.last), seed)
      path.parent.mkdir(parents=True, exist_ok=True)
      write_json(path, result | {"seconds": sum(self.source.seconds().values())})
    return read_json(path)


def applicable(source: config_lib.ExperimentConfig, names: Sequence[str]) -> list[str]:
  """Those variants that are not what the run is already."""
  kept = []
  for name in names:
    if VARIANTS[name].overrides and (
      config_lib.override(source, VARIANTS[name].overrides) == source
    ):
      say(f"{name}: left out, the run is so already.")
    else:
      kept.append(name)
  return kept


def to_markdown(table: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
  """The table of all variants: means over their fits, and the spread of the fits' mean returns."""
  lines = [
    "| variant | what is different | episodes | NLL a dimension | error 10 steps ahead | reward R² "
    "| in the dream | in the environment | dream minus environment | fits x episodes | minutes |",
    "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
  ]
  for name, rows in table.items():
    words = VARIANTS[name].words if name in VARIANTS else "the run's own chosen controller"
    dynamics = [row["dynamics"] for row in rows]
    returns = np.array([row["in_environment"]["mean"] for row in rows])
    over_episodes = np.mean([row["in_environment"]["std"] for row in rows])
    gaps = np.array([row["in_model"]["mean"] for row in rows]) - returns

    def spread(x):
      return f" (fits ± {x.std(ddof=1):.0f})" if len(x) > 1 else ""

    cells = (
      name,
      words,
      f"{_mean(row['episodes'] for row in rows):.0f}",
      _text((d["nll_per_dimension"] for d in dynamics), 3),
      _text((d["open_loop"].get("10") for d in dynamics), 3),
      _text((d["reward_r2"] for d in dynamics), 2),
      _text((row["in_model"]["mean"] for row in rows), 0),
      f"{returns.mean():.0f} ± {over_episodes:.0f}{spread(returns)}",
      f"{gaps.mean():.0f}{spread(gaps)}",
      f"{len(rows)} x {rows[0]['in_environment']['n']}",
      f"{_mean(row['seconds'] for row in rows) / 60:.0f}",
    )
    lines.append(f"| {' | '.join(cells)} |")
  return "\n".join(lines) + "\n"


def _mean(values) -> float:
  return float(np.mean(list(values)))


def _text(values, places: int) -> str:
  values = list(values)
  return "-" if None in values else f"{np.mean(values):.{places}f}"
