"""The finish of a controller in the real environment: resumable, and kept apart from the dream's.

WORKDIR/finish/002/      of the controller of iteration 2
  finish.json            how it is searched, and from which controller; another way is refused
  checkpoints/           the whole state of the search, after every generation
  metrics.jsonl          generations, and validations
  validations.json       every contender so far
  controller.npz         the contender that did best in validation, in the form of controller/002
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

# Validation tracks, but neither those that chose the iteration (0: it would owe its luck to them)
# nor the doctor's (1) nor the ablations' (2).
_TRACKS = 3


class Finish:
  """The search of one controller's finish.

  Contenders are the controller that the search begins with, and after every few generations the
  search's mean and the candidate that won its generation. A generation's own returns never choose
  between them: the winner was selected by those. All play the same validation seeds, on which
  nothing is searched, and the best one is kept. Its mean there is still the best of several, and
  flatters it a little: report what fresh seeds say (`trainers.evaluate --finished`).

  Args:
    run: the run, entered.
    iteration: whose controller.
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
    """Refuses to go on with another search, or from another controller."""
    source = self.run.path("controller", self.iteration) / "controller.npz"
    if not source.exists():
      raise WorkdirError(f"{source} does not exist; run trainers.train_controller first.")
    mine = dataclasses.asdict(self.settings)
    del mine["num_generations"]  # A longer search begins as a shorter one.
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
    """Of the dream's search, if there was one."""
    path = self.run.path("controller", self.iteration) / "distribution.npz"
    if not path.exists():
      return None
    size = self._space.size
    kind = [size] if self.run.config.controller.strategy == "sep_cma_es" else [size, size]
    try:
      return checkpoints.load_nest(path, {"covariance": np.zeros(kind, np.float32)})["covariance"]
    except checkpoints.CheckpointMismatchError:
      return None  # Not all of the parameters are searched now.

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
      self._write_chosen()  # A kill may have come between.

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
    """Searches on until the last generation; returns every contender's validation."""
    settings, label = self.settings, f"finish {self.iteration:03d}"
    self._restore()
    if self._contenders and self._step >= settings.num_generations:
      say(f"{label}: done before.")
      return self._contenders
    logger = make_loggers(self.folder, desc=label, keys=("env/return_mean", "validation/return"))
    # With nothing saved, what is logged of the start (step 0) is logged again too.
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
    """Plays a generation; returns the candidate that won it."""
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
    """Lets contenders play the validation seeds, and keeps the best one of all so far."""
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
  """The contender that is kept: the first one of those that did best."""
  return max(contenders, key=lambda contender: contender["score"]["mean"])
