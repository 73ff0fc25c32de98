"""Entry points of `wm_tf/Dream-v0`, and loading of the models and states that they need."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

import wm_tf
from wm_tf.core import Nest
from wm_tf.data import datasets
from wm_tf.dream_env import Dream, DreamEnv, DreamVectorEnv
from wm_tf.export import SavedWorldModel, first_states, version_folder
from wm_tf.imagination import recently_rewarded, sample_states
from wm_tf.runs.folder import no_run, read_description
from wm_tf.runs.learned import LearnedRun
from wm_tf.runs.workdir import WorkdirError

STARTS = ("anywhere", "rewarded", "first")
_NUM_EPISODES = 64  # Number of episodes, drawn at random, that starts are drawn from.
_CACHE_SIZE = 4  # Number of dreams kept, so that environments of one dream are compiled once.


def make_dream_env(**options) -> DreamEnv:
  """Makes an environment that dreams.

  Args:
    **options: arguments of `load_dream`, and `horizon`, `observation` and `render_mode` of
      `DreamEnv`. The default of `horizon` is a full episode of the real environment.

  Returns:
    The environment.
  """
  dream, options = _split(options)
  return DreamEnv(dream, **options)


def make_dream_vector_env(num_envs: int = 1, **options) -> DreamVectorEnv:
  """Makes a vector environment of dreams, which takes all steps in one compiled call.

  Args:
    num_envs: number of dreams.
    **options: see `make_dream_env`.

  Returns:
    The vector environment.
  """
  dream, options = _split(options)
  return DreamVectorEnv(dream, num_envs, **options)


def load_dream(
  workdir: str | os.PathLike | None = None,
  *,
  savedmodel: str | os.PathLike | None = None,
  frames: Nest | str | os.PathLike | None = None,
  iteration: int | None = None,
  starts: str = "anywhere",
  num_starts: int = 512,
  start_seed: int = 0,
  temperature: float = 1.0,
  disagreement_penalty: float = 0.0,
) -> tuple[Dream, int]:
  """Loads the dream of a run, or of an exported world model.

  Args:
    workdir: the folder of a run with a trained world model.
    savedmodel: the folder of an exported world model, in place of `workdir`. It needs `frames`.
    frames: S first observations of episodes, which dreams of `savedmodel` start from: an array
      `[S, ...]`, a dict of arrays by name of the part, or a `.npy` or `.npz` file of these. They
      may be the environment's own observations, or those that the agent sees.
    iteration: iteration of the run; by default that of the chosen controller, or the last trained
      one if no controller is validated.
    starts: which states of the run's data dreams start from: `anywhere`; `rewarded`, where a reward
      was received recently; or `first`, the first states of episodes. Each state has observed all
      of its episode before it, and none is terminal.
    num_starts: number of states to draw.
    start_seed: seed of the draw.
    temperature, disagreement_penalty: see `Dream`.

  Returns:
    The dream, and the number of decisions in a full episode of the environment.

  Raises:
    WorkdirError: if there is no run, or it has no trained world model.
    FileNotFoundError: if there is no SavedModel, or no file of that name.
    ValueError: if the arguments do not fit together, or `frames` do not fit the environment.
  """
  options = {"temperature": temperature, "disagreement_penalty": disagreement_penalty}
  if (workdir is None) == (savedmodel is None):
    raise ValueError("Say which dream: give workdir=, the folder of a run, or savedmodel=.")
  if savedmodel is not None:
    if frames is None:
      raise ValueError("savedmodel= needs frames=, first observations of episodes to begin with.")
    folder = version_folder(savedmodel)
    changed = (folder / "saved_model.pb").stat().st_mtime_ns
    observations = _Observations.of(frames)
    dream = _dream_of_export(folder.absolute(), changed, observations, *options.items())
    return dream, dream.world_model.max_decisions
  if frames is not None:
    raise ValueError("frames= goes with savedmodel=: a run has data of its own to begin in.")
  if starts not in STARTS:
    raise ValueError(f"starts must be one of {STARTS}, not {starts!r}.")
  for name, value, lowest in (("num_starts", num_starts, 1), ("start_seed", start_seed, 0)):
    if not isinstance(value, int | np.integer) or value < lowest:
      raise ValueError(f"{name} must be a whole number of at least {lowest}, not {value!r}.")
  run = _read_run(Path(workdir).expanduser())
  iteration = _newest(run) if iteration is None else int(iteration)
  weights = run.family.model_weights(iteration)
  changed = weights.stat().st_mtime_ns if weights.exists() else None
  draw = (starts, int(num_starts), int(start_seed))
  dream = _dream_of_run(run.workdir.absolute(), changed, iteration, *draw, *options.items())
  return dream, run.spec.max_decisions


@functools.lru_cache(_CACHE_SIZE)
def _dream_of_run(workdir, changed, iteration, starts, num_starts, start_seed, *options) -> Dream:
  del changed  # Part of the key only.
  wm_tf.check_not_forked()
  run = _read_run(workdir)
  model = run.world_model(iteration)
  folders = run.sequence_folders(iteration, or_rollouts=True)
  if starts == "first":
    folders = [folder for folder in folders if not folder.name.endswith("_random")]
  num_steps = 1 if starts == "first" else None
  episodes = datasets.episodes_dataset(folders, batch_size=16, seed=start_seed, num_steps=num_steps)
  if starts != "first":
    episodes = episodes.take(_NUM_EPISODES // 16)
  window = max(1, run.config.controller.start_window)
  select = recently_rewarded(window) if starts == "rewarded" else None
  states = sample_states(model, episodes, num_starts, start_seed, select)
  return Dream(
    model,
    states,
    observation=run.spec.observation,
    action_space=run.spec.action_space,
    name=str(run.family.model_weights(iteration).parent),
    **dict(options),
  )


@functools.lru_cache(_CACHE_SIZE)
def _dream_of_export(folder: Path, changed, observations: _Observations, *options) -> Dream:
  del changed  # Part of the key only.
  wm_tf.check_not_forked()
  model = SavedWorldModel(folder)
  try:
    states = first_states(model, observations.for_model(model))
  except ValueError as error:
    raise ValueError(f"frames=: {error}") from error
  except tf.errors.InvalidArgumentError as error:  # Such as an integer that is no choice.
    raise ValueError(f"frames=: {error.message.splitlines()[0]}") from error
  return Dream(
    model,
    states,
    observation=model.observation,
    action_space=model.action_space,
    jit_compile=False,
    name=str(folder),
    **dict(options),
  )


@dataclasses.dataclass(frozen=True)
class _Observations:
  """First observations `[S, ...]`, hashable by their content.

  Attributes:
    digest: SHA-256 of names, shapes, dtypes and values.
    arrays: array `[S, ...]` of each part by its name; the name is empty for a single array.
  """

  digest: str
  arrays: dict[str, np.ndarray] = dataclasses.field(compare=False)

  @classmethod
  def of(cls, frames: Nest | str | os.PathLike) -> _Observations:
    """Reads observations from memory or from a file.

    Args:
      frames: see `load_dream`.

    Returns:
      The observations.

    Raises:
      ValueError: if parts have different numbers of observations, or none.
    """
    if isinstance(frames, str | os.PathLike):
      frames = _read_arrays(Path(frames).expanduser())
    arrays = dict(frames) if isinstance(frames, Mapping) else {"": frames}
    arrays = {name: np.asarray(array) for name, array in arrays.items()}
    sizes = {name: len(array) if array.ndim else None for name, array in arrays.items()}
    if len(set(sizes.values())) != 1 or not all(sizes.values()):
      found = " and ".join(f"{name} {list(x.shape)}".strip() for name, x in arrays.items())
      raise ValueError(
        f"frames= must hold as many observations of each part, at least one, not {found}."
      )
    digest = hashlib.sha256()
    for name, array in sorted(arrays.items()):
      digest.update(f"{name} {array.dtype} {array.shape} ".encode() + array.tobytes())
    return cls(digest.hexdigest(), arrays)

  def for_model(self, model: SavedWorldModel) -> Nest:
    """Returns the observations in the form that a model takes.

    Args:
      model: the world model.

    Returns:
      An array `[S, ...]` if the model observes a single array, else a dict of arrays by name.
    """
    if model.observation.is_array and len(self.arrays) == 1:
      return next(iter(self.arrays.values()))
    return self.arrays.get("", self.arrays)


def _read_arrays(path: Path) -> Nest:
  """Reads a `.npy` or `.npz` file."""
  try:
    loaded = np.load(path, allow_pickle=False)
    if isinstance(loaded, np.ndarray):
      return loaded
    with loaded:
      return {name: loaded[name] for name in loaded.files}
  except (ValueError, EOFError, zipfile.BadZipFile) as error:
    raise ValueError(f"frames=: {path} is no .npy or .npz file of numbers.") from error


def _read_run(workdir: Path) -> LearnedRun:
  existing = read_description(workdir / "run.json")
  if existing is None:
    raise no_run(workdir)
  return LearnedRun(workdir, *existing)


def _newest(run: LearnedRun) -> int:
  """Returns the iteration of the chosen controller, or the last one with a trained world model."""
  if run.validations():
    return run.best_iteration()
  fit = tuple(run.family.fits)[-1]
  trained = sorted(run.workdir.glob(f"{fit}/*/weights.npz"))
  if not trained:
    raise WorkdirError(
      f"{run.workdir} has no trained {fit} to dream in; run trainers.train_{fit} first."
    )
  return int(trained[-1].parent.name)


def _split(options: dict[str, Any]) -> tuple[Dream, dict[str, Any]]:
  """Returns the dream that options describe, and the remaining options of the environment."""
  env = {key: options.pop(key) for key in ("observation", "render_mode") if key in options}
  horizon = options.pop("horizon", None)
  dream, num_decisions = load_dream(**options)
  return dream, {**env, "horizon": num_decisions if horizon is None else horizon}
