"""Compares methods of training a controller in the same dream, with equal wall-clock time each.

The methods take turns, so that load from other processes affects all of them alike. The first step
of each method, which compiles it, is not timed.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from wm_tf import config as config_lib
from wm_tf import export, rng
from wm_tf.agent import Agent
from wm_tf.core import Nest
from wm_tf.learners.learner import make_learner
from wm_tf.models.world_model import WorldModel
from wm_tf.runs.controller import dream_data, real_rewards
from wm_tf.runs.playing import episode_seeds
from wm_tf.runs.run import Run
from wm_tf.runs.workdir import read_json, say, write_json
from wm_tf.training import checkpoints
from wm_tf.training.loggers import progress

# Stream of evaluation seeds. Stream 0 is that of the run's own results.
_TRACKS = 1


class DreamData(NamedTuple):
  """The data that all methods train on."""

  world_model: WorldModel
  features: np.ndarray  # float32[M, F], of real states.
  starts: Nest  # Real states `[S, ...]` that dreams start from.
  rewards: list[np.ndarray]  # float32[T] of each real episode.


class Contestant:
  """One method, with its learner and the time that it has used.

  Args:
    method: name of the method; one of `METHODS`.
    source: the run whose world model is used.
    data: the world model and its data.
    folder: the folder of the method's checkpoints, controller and result.
    seed: seed of the initial weights and the dreams.
  """

  def __init__(self, method: str, source: Run, data: DreamData, folder: Path, seed: int):
    self.method, self.folder = method, folder
    settings = dataclasses.replace(source.controller_settings, method=method)
    self._source, self._data, self._seed = source, data, seed
    self._learner = make_learner(data.world_model, settings, seed)
    self._saved = checkpoints.Checkpoints(folder / "checkpoints")
    self._compiled = False
    self.spent = {"steps": 0, "seconds": 0.0, "cpu_seconds": 0.0, "compile_seconds": 0.0}
    self.metrics: dict[str, float] = {}

  @property
  def result(self) -> Path:
    """The file that holds the result of `judge`."""
    return self.folder / "result.json"

  def prepare(self) -> None:
    """Starts the learner, or restores it from the latest checkpoint."""
    self._learner.begin(self._data.features, None, self._data.rewards)
    found = self._saved.restore({"learner": self._learner.state(), "spent": self.spent})
    if found is not None:
      self._learner.restore(found[1]["learner"])
      self.spent = found[1]["spent"]

  def train(self, seconds: float, total: float) -> None:
    """Trains for one turn, and saves a checkpoint.

    Args:
      seconds: duration of the turn.
      total: training time of the method over all turns, in seconds.
    """
    if self.spent["seconds"]:
      self._learner.anneal_over(round(total * self.spent["steps"] / self.spent["seconds"]))
    if not self._compiled:
      started = time.monotonic()
      self._step()
      self.spent["compile_seconds"] += time.monotonic() - started
      self._compiled = True
    started, processor = time.monotonic(), time.process_time()
    while time.monotonic() - started < seconds:
      self._step()
    self.spent["seconds"] += time.monotonic() - started
    self.spent["cpu_seconds"] += time.process_time() - processor
    self._saved.save(self.spent["steps"], {"learner": self._learner.state(), "spent": self.spent})

  def _step(self) -> None:
    seed = rng.fold_in(rng.make_seed(self._seed), self.spent["steps"])
    self.metrics = self._learner.step(self._data.starts, seed)
    self.spent["steps"] += 1

  def judge(self, num_episodes: int, iteration: int, details: Mapping[str, Any]) -> None:
    """Exports the controller, evaluates it, and writes the result.

    Args:
      num_episodes: number of real episodes, and of dreams.
      iteration: iteration of the world model.
      details: configuration to store with the export; JSON-able.
    """
    self._learner.finish()
    checkpoints.save_nest(self.folder / "controller.npz", self._learner.policy_state())
    source = self._source
    agent = Agent(source.spec, self._data.world_model, self._learner.policy)
    if not (self.folder / "export/controller/1").exists():
      export.export_agent(agent, self.folder / "export/controller", 1, config=dict(details))
    tracks = episode_seeds("evaluation", self._seed, num_episodes, _TRACKS)
    result = {
      "method": self.method,
      **{name: round(value, 1) for name, value in self.spent.items()},
      "model_steps": self.spent["steps"] * self._learner.model_steps,
      "training": self.metrics,
      "in_model": source.evaluate_in_model(agent, num_episodes, iteration),
      "in_environment": source.evaluate(agent, seeds=tracks, label=f"play {self.method}"),
    }
    write_json(self.result, result)
    self._saved.clear()


def compare(
  source: Run, iteration: int, methods: Sequence[str], folder: Path, settings: Mapping[str, Any]
) -> dict[str, Any]:
  """Trains and evaluates each method that has no result yet.

  Args:
    source: the run.
    iteration: iteration of the world model.
    methods: names of the methods.
    folder: the folder to write to.
    settings: `seconds` of training for each method, seconds of a `turn`, number of `episodes`, and
      `seed`.

  Returns:
    Name of each method to its result: `steps`, `seconds`, `cpu_seconds`, `compile_seconds`,
    `model_steps`, metrics of `training`, and the scores `in_model` and `in_environment`.
  """
  missing = [name for name in methods if not (folder / name / "result.json").exists()]
  for name in methods:
    if name not in missing:
      say(f"{name}: done before.")
  if missing:
    model = source.world_model(iteration)
    data = DreamData(model, *dream_data(source, model, iteration), real_rewards(source, iteration))
    contestants = [
      Contestant(name, source, data, folder / name, settings["seed"]) for name in missing
    ]
    for contestant in contestants:
      contestant.prepare()
    _train(contestants, settings["seconds"], settings["turn"])
    details = {"config": config_lib.to_dict(source.config), "iteration": iteration}
    for contestant in contestants:
      contestant.judge(settings["episodes"], iteration, details | {"method": contestant.method})
  return {name: read_json(folder / name / "result.json") for name in methods}


def _train(contestants: Sequence[Contestant], seconds: float, turn: float) -> None:
  def left(contestant):
    return seconds - contestant.spent["seconds"]

  total = round(seconds * len(contestants))
  with progress(total, "train", unit="s") as bar:
    while any(left(contestant) > 0 for contestant in contestants):
      for contestant in contestants:
        if left(contestant) > 0:
          contestant.train(min(turn, left(contestant)), seconds)
          spent = sum(min(c.spent["seconds"], seconds) for c in contestants)
          bar.update(round(spent) - bar.count, {contestant.method: _dreamed(contestant)})


def _dreamed(contestant: Contestant) -> float:
  return contestant.metrics["dream/return_mean"]


def to_text(results: Mapping[str, Mapping[str, Any]]) -> str:
  """Formats results as a table.

  Args:
    results: the result of `compare`.

  Returns:
    The table in Markdown.
  """
  lines = [
    "| method | in the model | in the environment | gap | n | model steps | seconds "
    "| CPU-seconds | compiling |",
    "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
  ]
  for name, result in results.items():
    model, real = result["in_model"], result["in_environment"]
    cells = (
      name,
      f"{model['mean']:.0f} ± {model['std']:.0f}",
      f"{real['mean']:.0f} ± {real['std']:.0f}",
      f"{model['mean'] - real['mean']:.0f}",
      f"{real['n']}",
      f"{result['model_steps'] / 1e6:.2f} M",
      f"{result['seconds']:.0f}",
      f"{result['cpu_seconds']:.0f}",
      f"{result['compile_seconds']:.0f} s",
    )
    lines.append(f"| {' | '.join(cells)} |")
  return "\n".join(lines) + "\n"
