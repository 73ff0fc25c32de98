"""Finishes a controller: a search in the real environment, starting from the trained controller.

The search is resumable, and leaves the trained controller as it is. Files:

WORKDIR/finish/002/      for the controller of iteration 2
  finish.json            settings of the search and its first controller; others are refused
  checkpoints/           complete state of the search, after every generation
  metrics.jsonl          metrics of generations and validations
  validations.json       validation results of all contenders so far
  controller.npz         the contender with the best validation, in the format of controller/002
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
from typing import Any

import numpy as np

from wm_tf import rng
from wm_tf.core import EvalResult
from wm_tf.learners import real_search as real_es
from wm_tf.policies.networks import Network, become
from wm_tf.runs.playing import environment_factory, episode_seeds, num_workers, summarize
from wm_tf.runs.run import Run
from wm_tf.runs.workdir import WorkdirError, read_json, say, write_json
from wm_tf.training import checkpoints
from wm_tf.training.loggers import make_loggers, progress

# Stream of validation seeds. The controller was chosen on stream 0, so its mean return there is
# biased upwards. Stream 1 is the doctor's, and stream 2 that of the ablations.
_TRACKS = 3


class Finish:
  """The search that finishes one controller.

  Contenders are the trained controller, and at each validation the mean of the search and the best
  candidate of the last generation. They all play the same validation seeds, which the search does
  not use, and the one with the best mean return is kept. A generation's own returns are not
  compared, because its best candidate was selected by them. The kept mean return is the best of
  several, and so is biased upwards: report returns on new seeds (`trainers.evaluate --finished`).

  Args:
    run: the run, entered.
    iteration: iteration of the controller.
  """

  def __init__(self, run: Run, iteration: int):
    self.run, self.iteration, self.settings = run, iteration, run.config.finish
    self.folder = run.path("finish", iteration)
    self._claim()
    model, self._learner = run.learner(iteration)
    self._space = real_es.SearchSpace(Network.of(self._learner.policy), self.settings.parameters)
    self._strategy = self.settings.make_strategy()
    self._es = real_es.RealES(
      run.spec, model, self._space, self._strategy, self.settings.num_first_seeds
    )
    self._search = real_es.begin(self._strategy, self._space, self._covariance())
    self._chosen = np.zeros(self._space.size)
    self._contenders: list[dict[str, Any]] = []
    self._checkpoints = checkpoints.Checkpoints(self.folder / "checkpoints")
    self._step = 0

  def _claim(self) -> None:
    """Checks that the folder holds this search: the same settings and the same first controller."""
    source = self.run.path("controller", self.iteration) / "controller.npz"
    if not source.exists():
      raise WorkdirError(f"{source} does not exist; run trainers.train_controller first.")
    mine = dataclasses.asdict(self.settings)
    del mine["num_generations"]  # The search may be continued for more generations.
    mine["controller"] = hashlib.sha256(source.read_bytes()).hexdigest()[:16]
    path = self.folder / "finish.json"
    if not path.exists():
      write_json(path, mine)
      return
    there = read_json(path)
    for name in mine:
      if there.get(name) != mine[name]:
        raise WorkdirError(
          f"{self.folder} holds a search with {name} = {there.get(name)!r}, and now it is "
          f"{mine[name]!r}. Use what it was (--override=finish.{name}=...), or move the folder."
        )

  def _covariance(self) -> np.ndarray | None:
    """Returns the covariance of the search in dreams; None without one of the right size."""
    path = self.run.path("controller", self.iteration) / "distribution.npz"
    if not path.exists():
      return None
    size = self._space.size
    kind = [size] if self.run.config.controller.strategy == "sep_cma_es" else [size, size]
    try:
      return checkpoints.load_nest(path, {"covariance": np.zeros(kind, np.float32)})["covariance"]
    except checkpoints.CheckpointMismatchError:
      return None  # Another number of parameters is searched now.

  # --- State on disk --------------------------------------------------------------------------

  def _state(self) -> dict[str, Any]:
    return {
      "search": self._search,
      "chosen": self._chosen,
      "contenders": json.dumps(self._contenders),
    }

  def _restore(self) -> None:
    restored = self._checkpoints.restore(self._state())
    if restored is not None:
      self._step, state = restored
      self._search, self._chosen = state["search"], state["chosen"]
      self._contenders = json.loads(state["contenders"])
      self._write_chosen()  # The call may have been killed before this.

  def _save(self) -> None:
    self._checkpoints.save(self._step, self._state())
    self._write_chosen()

  def _write_chosen(self) -> None:
    policy = self._learner.policy
    become(policy, self._space.at(self._chosen))
    write_json(self.folder / "validations.json", {"contenders": self._contenders})
    checkpoints.save_nest(self.folder / "controller.npz", self._learner.policy_state())

  # --- The search -----------------------------------------------------------------------------

  def run_all(self) -> list[dict[str, Any]]:
    """Runs the search until its last generation, from the latest checkpoint.

    Returns:
      The contenders in order: the `generation`, the name `contender` (`start`, `mean` or `best`),
      and the validation `score` of each.
    """
    settings, label = self.settings, f"finish {self.iteration:03d}"
    self._restore()
    if self._contenders and self._step >= settings.num_generations:
      say(f"{label}: done before.")
      return self._contenders
    logger = make_loggers(self.folder, desc=label, keys=("env/return_mean", "validation/return"))
    # Without a checkpoint, metrics of step 0 are logged again.
    logger.rewind(self._step if self._contenders else -1)
    factory = environment_factory(self.run.config)
    try:
      with (
        real_es.CandidatePool(factory, num_workers(self.run.config)) as pool,
        self.run.timing("finish"),
      ):
        if not self._contenders:
          self._validate(pool, {"start": self._chosen}, logger)
          self._save()
        while self._step < settings.num_generations:
          best = self._generation(pool, logger)
          last = self._step == settings.num_generations
          if last or self._step % settings.validate_every == 0:
            mean = self._strategy.mean(self._search)[0].numpy()
            self._validate(pool, {"mean": mean, "best": best}, logger)
          self._save()
          logger.tick(self._step, settings.num_generations)
    finally:
      logger.close()
    return self._contenders

  def _generation(self, pool: real_es.CandidatePool, logger) -> np.ndarray:
    """Runs a generation; returns its best candidate, `float64[D]`."""
    settings, run = self.settings, self.run
    seeds = episode_seeds("finish", run.seed, settings.num_seeds, self._step)
    with progress(settings.num_episodes, f"generation {self._step + 1}", unit="episode") as bar:
      self._search, report = self._es.generation(
        pool,
        self._search,
        seeds,
        rng.fold_in(rng.make_seed(run.seed), self._step),
        lambda info: bar.update(1, {"return": info.episode_return}),
      )
    self._step += 1
    logger.write(
      self._step,
      {
        "env/return_mean": report.mean_return,
        "env/return_std": report.std_return,
        "env/return_best": report.best_return,
        "env/episodes": float(report.num_episodes),
        "search/step_size": float(self._search.step_size[0]),
        "search/distance": float(np.linalg.norm(self._strategy.mean(self._search)[0])),
      },
    )
    return report.best

  def _validate(self, pool: real_es.CandidatePool, x: dict[str, np.ndarray], logger) -> None:
    """Plays the validation seeds with new contenders, and keeps the best contender so far."""
    started = time.monotonic()
    seeds = episode_seeds("validation", self.run.seed, self.settings.validation_episodes, _TRACKS)
    label = f"validate {' and '.join(x)}"
    with progress(len(x) * len(seeds), label, unit="episode") as bar:
      returns = self._es.play(
        pool,
        np.stack(list(x.values())),
        seeds,
        lambda info: bar.update(1, {"return": info.episode_return}),
      )
    seconds = time.monotonic() - started
    before = max((c["score"]["mean"] for c in self._contenders), default=-np.inf)
    for (name, candidate), row in zip(x.items(), returns, strict=True):
      result = EvalResult(row.astype(np.float32), np.zeros(len(row)), np.array(seeds))
      score = summarize(result, seconds / len(x))
      self._contenders.append({"generation": self._step, "contender": name, "score": score})
      if score["mean"] > before:
        before, self._chosen = score["mean"], candidate
    logger.write(
      self._step,
      {f"validation/{name}": float(row.mean()) for name, row in zip(x, returns, strict=True)}
      | {"validation/return": before},
    )


def chosen(contenders: list[dict[str, Any]]) -> dict[str, Any]:
  """Returns the contender that is kept: the first one with the best mean return.

  Args:
    contenders: the result of `Finish.run_all`.
  """
  return max(contenders, key=lambda contender: contender["score"]["mean"])
