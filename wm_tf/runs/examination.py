"""Examination of a run's world model: measures it, plays controllers, and draws film strips.

The workdir is only read. Results are written to a separate folder.
"""

from __future__ import annotations

import functools
import hashlib
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from wm_tf import evaluation, report
from wm_tf.agent import Agent, AgentActor
from wm_tf.core import ActionSpace, Episode, EvalResult, Nest
from wm_tf.data import datasets, rollouts
from wm_tf.data.env_pool import EnvPool
from wm_tf.evaluation import diagnosis, open_loop, transfer
from wm_tf.imagination import recently_rewarded, sample_states
from wm_tf.runs import summary
from wm_tf.runs.playing import environment_factory, episode_seeds, num_workers, summarize
from wm_tf.runs.run import Run
from wm_tf.runs.workdir import read_json, say, write_json
from wm_tf.training.loggers import progress

# Stream of validation seeds. Stream 0 chooses the run's controller.
_TRACKS = 1
_ROWS = 4  # Batch size of episodes, whose observations are in memory.
_MAX_HELD = 8  # Largest number of rows in a film strip.


class Examination:
  """All measurements of the world model of one iteration.

  Args:
    run: the run.
    iteration: iteration of the model.
    folder: the folder that keeps the returns of played episodes.
    seed: seed of controllers, episodes, starts and noise.
  """

  def __init__(self, run: Run, iteration: int, folder: Path, seed: int):
    self.run, self.iteration, self.folder, self.seed = run, iteration, folder, seed
    self.agent = run.agent("controller", iteration)
    self.model = self.agent.world_model
    self.num_decisions = run.spec.max_decisions
    self._folders = run.data_folders(iteration)
    self._split = dict(split="held_out", held_out_fraction=run.config.collect.held_out)

  # --- Against held-out data ------------------------------------------------------------------

  def held_out(self, num_episodes: int) -> tf.data.Dataset:
    """Returns held-out episodes with their observations, in random order over all rollout folders.

    Args:
      num_episodes: number of episodes, rounded up to a multiple of the batch size.

    Returns:
      A dataset of `Batch`.
    """
    episodes = datasets.episodes_dataset(
      self._folders, batch_size=_ROWS, seed=self.seed, **self._split
    )
    return episodes.take(-(-num_episodes // _ROWS))

  def figures(self, num_episodes: int) -> dict[str, Any]:
    """Measures the model on held-out data.

    Args:
      num_episodes: largest number of episodes to use.

    Returns:
      Sections of `doctor.json`: those of `Family.observation_figures`, `controller`, `dynamics`,
      `open_loop`, `reward_calibration`, `termination_calibration` and `action_sensitivity`.
    """
    run, model, episodes = self.run, self.model, self.held_out(num_episodes)
    say("Held-out frames ...")
    frames = datasets.observations_dataset(
      self._folders, batch_size=64, seed=0, drop_remainder=False, **self._split
    )
    kept = run.family.observation_figures(model, frames.take(32), episodes)
    say("One step ahead ...")
    observed = [open_loop.as_observed(model, batch) for batch in episodes]
    outcomes = diagnosis.outcomes(model, observed)
    rewards = diagnosis.calibration(outcomes.predicted_reward, outcomes.reward)
    ends = diagnosis.calibration(outcomes.predicted_end, outcomes.end, equal_mass=True)
    dynamics = evaluation.dynamics_quality(model, observed)
    say("Dreams along real actions ...")
    held = open_loop.open_loop(model, episodes, run.spec.observation, seed=self.seed)
    say("Dreams along other actions ...")
    starts = self._on_the_way(observed, 32)
    horizons = {run.config.planner.horizon, run.config.controller.dream.horizon}
    return {
      **kept,
      **run.controller_quality(self.iteration),
      "dynamics": dynamics | run.family.dynamics_facts(),
      "open_loop": held,
      "reward_calibration": rewards
      | {"std": float(outcomes.reward.std()), "decisions": self.num_decisions},
      "termination_calibration": ends
      | {"expected": float(outcomes.predicted_end.sum()), "real": int(outcomes.end.sum())},
      "action_sensitivity": {
        str(horizon): diagnosis.action_sensitivity(model, starts, horizon, self.seed)
        for horizon in sorted(horizons)
      },
    }

  # --- Dream against reality ------------------------------------------------------------------

  def controllers(self, num: int) -> dict[str, transfer.Layers]:
    """Makes controllers of mixed skill on the features of this model.

    Args:
      num: number of controllers.

    Returns:
      Name to layers; the first controller is that of the iteration itself. See
      `transfer.mixed_controllers`.
    """
    found = {f"iteration {self.iteration}": transfer.Network.of(self.agent.policy)}
    for path in sorted(self.run.workdir.glob("controller/*/controller.npz"), reverse=True):
      iteration = int(path.parent.name)
      if iteration != self.iteration:
        policy = self.run.agent("controller", iteration).policy
        found[f"iteration {iteration}"] = transfer.Network.of(policy)
    return transfer.mixed_controllers(found, num, self.seed)

  @functools.cached_property
  def initial_return(self) -> float:
    """The mean return of the frames that are skipped at the start of an episode."""
    return self.run.initial_return()

  @functools.cache  # noqa: B019
  def first_states(self, num: int) -> Nest:
    """Returns states of real first observations, which full dreams start from.

    Args:
      num: largest number R of states.

    Returns:
      A nest of `[R, ...]`.
    """
    return self.run.first_states(self.model, num, self.iteration, seed=self.seed)

  def real_returns(
    self, controllers: Mapping[str, transfer.Layers], seeds: Sequence[int]
  ) -> np.ndarray:
    """Plays controllers in the environment. Returns that were measured before are read from a file.

    Args:
      controllers: name to layers of N controllers.
      seeds: seeds of E episodes, which all controllers play.

    Returns:
      Official returns `float32[N, E]`.
    """
    path = self.folder / "real_returns.json"
    known = read_json(path) if path.exists() else {}
    weights = self.run.family.model_weights(self.iteration)
    model = hashlib.sha256(weights.read_bytes()).digest()
    keys = {
      name: hashlib.sha256(b"".join([model, *map(np.ndarray.tobytes, layers)])).hexdigest()[:16]
      for name, layers in controllers.items()
    }
    missing = {
      name: [seed for seed in seeds if str(seed) not in known.get(key, {}).get("returns", {})]
      for name, key in keys.items()
    }
    total, left = len(seeds) * len(keys), sum(map(len, missing.values()))
    if left:
      policy, actor = self._actor(next(iter(controllers.values())))
      factory = environment_factory(self.run.config)
      with (
        EnvPool(factory, min(len(seeds), num_workers(self.run.config))) as pool,
        progress(total, "play controllers", unit="episode", initial=total - left) as bar,
      ):
        for name in filter(missing.get, keys):
          policy.become(controllers[name])
          result = evaluation.evaluate_in_environment(
            pool, actor, missing[name], lambda info: bar.update(1, {"return": info.episode_return})
          )
          found = zip(missing[name], result.episode_return.tolist(), strict=True)
          entry = known.setdefault(keys[name], {"name": name, "returns": {}})
          entry["returns"] |= {str(seed): round(value, 3) for seed, value in found}
          write_json(path, known)
    returns = [[known[key]["returns"][str(seed)] for seed in seeds] for key in keys.values()]
    return np.array(returns, np.float32)

  def compare(self, num: int, num_episodes: int, num_dreams: int) -> dict[str, Any]:
    """Compares the returns of controllers in the dream and in the environment.

    Args:
      num: number of controllers.
      num_episodes: number of real episodes of each controller.
      num_dreams: largest number of full dreams of each controller.

    Returns:
      Sections of `doctor.json`: `transfer` (see `transfer.transfer`), `rank_correlation_by_length`
      by number of decisions in a dream, `seeds`, `controllers`, and the scores
      `controller_in_model` and `controller_in_environment` of the iteration's own controller.
    """
    controllers = self.controllers(num)
    seeds = episode_seeds("validation", self.seed, num_episodes, _TRACKS)
    say("Dreams of controllers ...")
    lengths = {30, self.run.config.controller.dream.horizon, self.num_decisions // 2}
    lengths = sorted({k for k in lengths if k < self.num_decisions} | {self.num_decisions})
    dreams = transfer.dream_returns(
      self.model,
      list(controllers.values()),
      self.first_states(num_dreams),
      lengths,
      self.seed,
    )
    full = dreams[-1] + np.float32(self.initial_return)
    real = self.real_returns(controllers, seeds)
    return {
      "transfer": transfer.transfer(full, real, 0, self.seed),
      "rank_correlation_by_length": {
        str(length): transfer.rank_correlation(dream.mean(1), real.mean(1))
        for length, dream in zip(lengths, dreams, strict=True)
      },
      "seeds": seeds,
      "controllers": [
        _comparison(name, *rows) for name, *rows in zip(controllers, full, real, strict=True)
      ],
      "controller_in_model": _score(full[0], range(len(full[0]))),
      "controller_in_environment": _score(real[0], seeds),
    }

  # --- Films ----------------------------------------------------------------------------------

  def films(
    self, results: Mapping[str, Any], num: int, num_dreams: int
  ) -> tuple[dict[str, bytes], dict[str, str]]:
    """Draws film strips.

    Args:
      results: the result of `compare`.
      num, num_dreams: as in `compare`.

    Returns:
      PNG files by name, and their captions by the same names.
    """
    say("Film strips ...")
    spec = self.run.spec
    strip, _ = summary.dream_strip(self.agent, self._held_out_episode())
    start = self._on_the_way(self.held_out(4 * _ROWS), 1)
    acted = diagnosis.dream_actions(
      self.model, start, _held_actions(spec.action_space), 20, self.seed
    )

    flattered = max(results["controllers"], key=lambda row: row["dream"] - row["real"])
    controller = self.controllers(num)[flattered["name"]]
    promised, total = transfer.best_dream(
      self.model, controller, self.first_states(num_dreams), self.num_decisions, self.seed
    )
    _, actor = self._actor(controller)
    paid = self.run.play(actor, results["seeds"][0]).observation

    def as_long(real, dreamed):  # Cuts or repeats the last observation to the dream's length.
      return np.asarray(real)[np.minimum(np.arange(len(dreamed)), len(real) - 1)]

    promise = {
      f"promised\n{total + self.initial_return:.0f}": promised,
      f"paid\n{flattered['returns'][0]:.0f}": tf.nest.map_structure(as_long, paid, promised),
    }
    shown = (0, 1, 2, 3, 5, 8, 12, 16, 20)
    return {
      "film_strip_drive": strip,
      "film_strip_actions": report.observation_strip(acted, spec.observation, steps=shown),
      "film_strip_promise": report.observation_strip(promise, spec.observation),
    }, {
      "film_strip_drive": "A held-out episode, what the model keeps of it, and, from the marked "
      "step on, a dream along the same actions.",
      "film_strip_actions": "The same moment dreamed on, under one action each. In a model that "
      "responds to the action every row goes another way.",
      "film_strip_promise": f"The controller that the dream flatters most ({flattered['name']}): "
      "its best dream, and a real episode of it. What the dream shows and no real episode does is "
      "what is exploited.",
    }

  def _actor(self, controller: transfer.Layers) -> tuple[transfer.LayersPolicy, AgentActor]:
    policy = transfer.LayersPolicy(self.model, controller)
    return policy, AgentActor(Agent(self.run.spec, self.model, policy))

  def _on_the_way(self, episodes, num: int) -> Nest:
    """Draws real states that a plan may start from; states without recent reward are left out."""
    window = self.run.config.controller.start_window
    observed = (open_loop.as_observed(self.model, batch) for batch in episodes)
    select = recently_rewarded(window) if window else None
    return sample_states(self.model, observed, num, self.seed, select)

  def _held_out_episode(self) -> Episode:
    """Returns the held-out episode of the highest return in the newest data."""
    kept = datasets.select_episodes(self._folders, **self._split)
    chosen = max(kept, key=lambda info: (info.iteration, info.episode_return))
    for folder in self._folders:
      for shard in rollouts.load_manifest(folder).shards:
        if chosen in shard.episodes:
          found = rollouts.read_episodes(folder, [shard])
          return next(episode for episode, info in found if info == chosen)
    raise AssertionError(f"no shard has {chosen}")


def _comparison(name: str, dream: np.ndarray, real: np.ndarray) -> dict[str, Any]:
  error = float(real.std(ddof=1) / math.sqrt(len(real))) if len(real) > 1 else None
  return {
    "name": name,
    "original": name.startswith("iteration") and "+" not in name,
    "dream": float(dream.mean()),
    "dream_std": float(dream.std()),
    "real": float(real.mean()),
    "real_error": error,
    "returns": [round(float(value), 3) for value in real],
  }


def _score(returns: np.ndarray, seeds: Sequence[int]) -> dict[str, Any]:
  nothing = np.zeros(len(returns), np.int32)
  result = summarize(EvalResult(returns, nothing, np.asarray(seeds, np.int64)), 0.0)
  del result["seconds"]  # The time of one controller is not known.
  return result


def _held_actions(space: ActionSpace) -> dict[str, np.ndarray]:
  """Returns actions to hold in a dream, by name: the extremes of each number, or single choices."""
  unit = np.eye(space.size, dtype=np.float32)
  if not space.is_categorical:
    return {"no action": np.zeros(space.size, np.float32)} | {
      f"{name} {value:+.0f}": value * unit[index]
      for index, name in enumerate(space.names[:_MAX_HELD])
      for value in (-1.0, 1.0)
    }
  first = space.canonical(np.zeros(space.size))
  starts = np.cumsum([0, *space.num_choices[:-1]])
  held = {}
  for start, count in zip(starts, space.num_choices, strict=True):
    for index in range(start, start + count):
      action = first.copy()
      action[start : start + count] = unit[index, start : start + count]
      held[space.names[index]] = action
  return dict(list(held.items())[:_MAX_HELD])
