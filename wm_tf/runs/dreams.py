"""Dreams by name: `gymnasium.make("wm_tf/Dream-v0", workdir=...)` and `make_vec` end up here."""

from __future__ import annotations

import functools
import os
from pathlib import Path
from typing import Any

import numpy as np

from wm_tf.runs.learned import LearnedRun
from wm_tf.runs.folder import no_run, read_description
from wm_tf.runs.workdir import WorkdirError
from wm_tf.data import datasets, rollouts
from wm_tf.dream_env import Dream, DreamEnv, DreamVectorEnv
from wm_tf.export import SavedWorldModel, first_states
from wm_tf.imagination import recently_rewarded, sample_states

STARTS = ("anywhere", "rewarded", "first")
_NUM_EPISODES = 64  # Of the data, drawn at random, that starts are taken from.


def make_dream_env(**options) -> DreamEnv:
  """One dream; `options` are those of `load_dream`, and `horizon`, `observation`, `render_mode`."""
  dream, options = _split(options)
  return DreamEnv(dream, **options)


def make_dream_vector_env(num_envs: int = 1, **options) -> DreamVectorEnv:
  """Many dreams, in one compiled call a step; `options` as of `make_dream_env`."""
  dream, options = _split(options)
  return DreamVectorEnv(dream, num_envs, **options)


def load_dream(
  workdir: str | os.PathLike | None = None,
  *,
  savedmodel: str | os.PathLike | None = None,
  frames: np.ndarray | str | os.PathLike | None = None,
  iteration: int | None = None,
  starts: str = "anywhere",
  num_starts: int = 512,
  start_seed: int = 0,
  temperature: float = 1.0,
  disagreement_penalty: float = 0.0,
) -> tuple[Dream, int]:
  """The dream of a run, or of an exported world model.

  Args:
    workdir: the folder of a run whose dynamics is trained.
    savedmodel: instead of it, an export of a world model. Dreams begin with the first frame of an
      episode then, one of `frames`.
    frames: `uint8[S, H, W, 3]`, or a `.npy` file of them: as the environment shows them, or 64x64.
    iteration: of the run; by default the one whose controller was chosen, or the last one trained.
    starts: of the run's data: `anywhere`, where something was `rewarded` of late, or the `first`
      states of episodes. All are burnt in on the whole of their episode before.
    num_starts: how many.
    start_seed: of their choice.
    temperature, disagreement_penalty: see `Dream`.

  Returns:
    The dream, and the number of decisions of a full episode of the environment.

  Raises:
    WorkdirError: if there is no run, or no model in it.
    ValueError: if the arguments make no sense together.
  """
  options = {"temperature": temperature, "disagreement_penalty": disagreement_penalty}
  if (workdir is None) == (savedmodel is None):
    raise ValueError("Say which dream: give workdir=, the folder of a run, or savedmodel=.")
  if savedmodel is not None:
    if frames is None:
      raise ValueError("savedmodel= needs frames=, first frames of episodes to begin with.")
    model = SavedWorldModel(savedmodel)
    frames = np.load(frames) if isinstance(frames, str | os.PathLike) else frames
    dream = Dream(model, first_states(model, frames), jit_compile=False, **options)
    return dream, model.max_decisions
  if frames is not None:
    raise ValueError("frames= goes with savedmodel=: a run has data of its own to begin in.")
  if starts not in STARTS:
    raise ValueError(f"starts must be one of {STARTS}, not {starts!r}.")
  run = _read_run(Path(workdir))
  if iteration is None:
    iteration = _newest(run)
  weights = run.path("dynamics", iteration) / "weights.npz"
  changed = weights.stat().st_mtime_ns if weights.exists() else None
  dream = _dream_of_run(
    run.workdir.absolute(), changed, iteration, starts, num_starts, start_seed, *options.items()
  )
  return dream, run.spec.max_decisions


@functools.lru_cache(maxsize=4)  # So that environments of one dream are compiled once.
def _dream_of_run(workdir, changed, iteration, starts, num_starts, start_seed, *options) -> Dream:
  del changed  # Of use as a key only.
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
  return Dream(model, states, **dict(options))


def _read_run(workdir: Path) -> LearnedRun:
  there = read_description(workdir / "run.json")
  if there is None:
    raise no_run(workdir)
  return LearnedRun(workdir, *there)


def _newest(run: LearnedRun) -> int:
  """The iteration whose controller was chosen, or the last one with a trained dynamics."""
  if run.validations():
    return run.best_iteration()
  trained = sorted(run.workdir.glob("dynamics/*/weights.npz"))
  if not trained:
    raise WorkdirError(
      f"{run.workdir} has no trained dynamics to dream in; run trainers.train_dynamics first."
    )
  return int(trained[-1].parent.name)


def _split(options: dict[str, Any]) -> tuple[Dream, dict[str, Any]]:
  """The dream that some options describe, and the options of the environment."""
  env = {key: options.pop(key) for key in ("observation", "render_mode") if key in options}
  horizon = options.pop("horizon", None)
  dream, num_decisions = load_dream(**options)
  return dream, {**env, "horizon": num_decisions if horizon is None else horizon}
