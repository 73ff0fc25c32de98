"""Ablation study of a run: fits variants of it to the run's own data and evaluates them.

A variant uses the rollouts and the VAE of another run, the source, which is only read. It fits a
dynamics and trains a controller once. Compare it with the variant `all_data`, which changes
nothing. The variant `brownian` is a complete run with rollouts of its own.
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

# Stream of validation seeds. Stream 0 chooses the run's controller, and stream 1 is the doctor's.
_TRACKS = 2


@dataclasses.dataclass(frozen=True)
class Variant:
  """One row of the table.

  Attributes:
    words: description of the change, for the table.
    overrides: overrides of the run's configuration.
    data: which rollouts it uses: `all`, the `first` ones (collected before any controller was
      trained), or its `own` (the variant is a complete run).
    frozen_rnn: whether the recurrent network keeps its initial weights.
    latent_only: whether the controller sees zeros in place of the recurrent state.
    dynamics_of: name of the variant whose dynamics it uses; None to fit its own.
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
    ("controller.hidden_components=0",),  # The hidden state is zeros; there is nothing to search.
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
  """Returns a subclass of a dynamics class that hides the recurrent state from policies.

  Args:
    dynamics: a class such as `MDNRNN` or `Ensemble`.

  Returns:
    The subclass. Its `features`, `float32[..., F]`, are those of `dynamics` in the columns of the
    latent, and zeros in the columns of the recurrent state.
  """

  class LatentOnly(dynamics):
    def features(self, state):
      return super().features(state) * self.only_centred_features().astype(np.float32)

  return LatentOnly


class VariantFamily(TwoStage):
  """A two-stage family that reads the VAE and the latents of the source run."""

  run: VariantRun

  def vae(self, iteration):
    """Returns the VAE of the source run, at its last iteration that counts. See `TwoStage.vae`."""
    return self.run.source.family.vae(self.run.last)

  def encode(self, iteration):
    """Checks that the source run has its latents; writes nothing. See `TwoStage.encode`.

    Raises:
      WorkdirError: if the latents of a rollout folder do not exist.
    """
    for folder in self.run.sequence_folders(iteration):
      if not (folder / rollouts.MANIFEST).exists():
        raise WorkdirError(f"{folder} does not exist; run trainers.train_dynamics first.")

  def sequences(self, folder, iteration):
    """Returns the source run's folder of latents for a rollout folder. See `Family.sequences`."""
    return self.run.source.family.sequences(folder, self.run.last)

  def new_dynamics(self, vae):
    """Returns an untrained dynamics with the variant's changes. See `TwoStage.new_dynamics`."""
    config, space = self.run.config.dynamics, self.run.spec.action_space
    kind = dynamics_class(config)
    if self.run.variant.latent_only:
      kind = latent_only(kind)
    model = kind(vae, space.size, config, num_choices=space.num_choices)
    if self.run.variant.frozen_rnn:
      model.lstm.trainable = False
    return model


class VariantRun(Run):
  """A run with the rollouts and the VAE of the source run. It has a single iteration, 0."""

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
      workdir, config, seed: see `Run`.
      source: the source run.
      last: the last iteration of `source` whose rollouts are used.
      variant: the change.
      dynamics: the run whose dynamics is used; None to fit its own.
    """
    self.source, self.last, self.variant = source, last, variant
    self._dynamics = dynamics
    super().__init__(workdir, config=config, seed=seed, force=True)

  def make_family(self):
    """Makes a `VariantFamily`. See `LearnedRun.make_family`."""
    return VariantFamily(self)

  def path(self, stage, iteration):
    """Returns the folder of a stage, in the workdir of its owner. See `RunFolder.path`."""
    if stage == "data":
      return self.source.path(stage, iteration)
    if stage == "dynamics" and self._dynamics is not None:
      return self._dynamics.path(stage, iteration)
    return super().path(stage, iteration)

  def data_folders(self, iteration):
    """Returns the rollout folders of the source run. See `RunFolder.data_folders`."""
    return self.source.data_folders(self.last)


class Ablations:
  """All variants of a run.

  Args:
    source: the source run.
    folder: the folder to write to.
    num_episodes: number of real episodes, and of dreams, that each controller is evaluated on.
    fit_seed: seed of every fit of the dynamics, which all seeds of a variant then share; None to
      fit a dynamics for each seed.
    last: the last iteration of `source` to use; None for its last validated one.
    changes: overrides of the run's configuration, applied to all variants.
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
    """Returns the run of a variant, not yet entered.

    Args:
      name: key of `VARIANTS`.
      seed: seed of the variant's fits.
    """
    variant, folder = VARIANTS[name], self.folder / name / f"seed{seed}"
    config = config_lib.override(self.config, variant.overrides)
    if variant.data == "own":
      return Run(folder, config=config, seed=seed, force=True)
    last = 0 if variant.data == "first" else self.last
    return VariantRun(folder, config, seed, self.source, last, variant, self._fitted(name, seed))

  def _fitted(self, name: str, seed: int) -> Run | None:
    """Returns the run whose dynamics a variant uses, not yet entered; None if it fits its own."""
    owner = VARIANTS[name].dynamics_of or name
    owner_seed = seed if self.fit_seed is None else self.fit_seed
    return None if (owner, owner_seed) == (name, seed) else self.variant_run(owner, owner_seed)

  def row(self, name: str, seed: int) -> dict[str, Any]:
    """Fits and evaluates a variant. If that was done before, reads the result.

    Args:
      name: key of `VARIANTS`.
      seed: seed of the variant's fits and of its validation episodes.

    Returns:
      The result of `judge`, and `seconds`, the time that the variant's stages took.
    """
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
    """Evaluates the controller of a run and its world model.

    Args:
      run: an entered run.
      iteration: iteration of the controller and of the world model.
      seed: seed of the validation episodes.

    Returns:
      `episodes`, the number of episodes that the world model was fitted to; `dynamics`, its
      held-out figures; `in_model` and `in_environment`, scores as `Run.evaluate` returns; for an
      ensemble also `disagreement`.
    """
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
    """Evaluates the chosen controller of the source run. If that was done before, reads the result.

    Args:
      seed: seed of the validation episodes.

    Returns:
      The result of `judge`, and `seconds`, the time that the run's stages took.
    """
    path = self.folder / "as_it_is" / f"seed{seed}" / f"result_{self.num_episodes}.json"
    if not path.exists():
      result = self.judge(self.source, self.source.best_iteration(self.last), seed)
      path.parent.mkdir(parents=True, exist_ok=True)
      write_json(path, result | {"seconds": sum(self.source.seconds().values())})
    return read_json(path)


def applicable(source: config_lib.ExperimentConfig, names: Sequence[str]) -> list[str]:
  """Leaves out variants that equal the run itself.

  Args:
    source: configuration of the run.
    names: keys of `VARIANTS`.

  Returns:
    The names whose overrides change `source`, or that have none, in the given order.
  """
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
  """Formats the results of all variants as a table: means over fits, and standard deviations.

  Args:
    table: name of the variant to its results, one of each fit, as `Ablations.row` returns.

  Returns:
    The table in Markdown. `±` is the standard deviation over episodes, and `fits ±` the one of the
    fits' mean returns.
  """
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
