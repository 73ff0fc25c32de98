"""Return in the environment against milliseconds a decision, for several settings of a planner."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from wm_tf.agent import Agent, AgentActor
from wm_tf.policies.planner import Planner
from wm_tf.report.planner_figures import planner_figure
from wm_tf.runs.playing import episode_seeds
from wm_tf.runs.run import Run
from wm_tf.runs.workdir import read_json, say, write_findings

# Its tracks are validation tracks, but nothing else's (see `finishing` for the others).
_TRACKS = 4


_WARM_UP = 3  # Decisions in which a graph is still traced and optimised.


@dataclasses.dataclass(frozen=True)
class Row:
  """One row of the table.

  Attributes:
    changes: fields of the run's `PlannerConfig`.
    plans: whether it is a planner at all.
    proposal: whether the controller proposes to it.
  """

  changes: tuple[tuple[str, Any], ...] = ()
  plans: bool = True
  proposal: bool = True


ROWS = {
  "controller": Row(plans=False),
  "planner": Row(),
  "candidates_8": Row((("num_candidates", 8),)),
  "candidates_64": Row((("num_candidates", 64),)),
  "iterations_1": Row((("num_iterations", 1),)),
  "iterations_4": Row((("num_iterations", 4),)),
  "particles_1": Row((("num_particles", 1),)),
  "particles_8": Row((("num_particles", 8),)),
  "horizon_6": Row((("horizon", 6),)),
  "horizon_20": Row((("horizon", 20),)),
  "answer_best": Row((("answer", "best"),)),
  "gaussian": Row(
    (
      ("num_candidates", 64),
      ("num_elites", 8),
      ("num_iterations", 3),
      ("num_particles", 1),
      ("initial_scale", 0.5),
    ),
    proposal=False,
  ),
}


class Table:
  """Measures rows, each once.

  Args:
    run: the run.
    folder: where to write.
    num_episodes: of each row.
    finished: whether to take the finished controller.
    seed: of the tracks.
  """

  def __init__(self, run: Run, folder: Path, num_episodes: int, finished: bool, seed: int):
    self._run, self._folder = run, folder
    iteration = run.best_iteration()
    self._model, self._learner = run.learner(iteration, finished)
    self._seeds = episode_seeds("validation", seed, num_episodes, _TRACKS)
    self._what = {"iteration": iteration, "finished": finished, "seeds": self._seeds}
    path = folder / "planner_table.json"
    self.rows: dict[str, dict[str, Any]] = {}
    if path.exists() and (there := read_json(path)) and there["what"] == self._what:
      self.rows = there["rows"]

  def agent(self, row: Row) -> Agent:
    """What a row plays with."""
    policy = self._learner.policy
    if row.plans:
      config = dataclasses.replace(self._run.config.planner, **dict(row.changes))
      proposal = policy if row.proposal else None
      policy = Planner(self._model, config, proposal, self._learner.critic, fixed=True)
    return Agent(self._run.spec, self._model, policy)

  def measure(self, name: str, num_decisions: int) -> None:
    """Plays and times a row, unless that is done, and writes the table."""
    if name in self.rows:
      say(f"{name}: measured before.")
      return
    agent = self.agent(ROWS[name])
    timing = milliseconds(agent, self._frames(num_decisions))
    score = self._run.evaluate(agent, seeds=self._seeds, label=f"play {name}")
    settings = dataclasses.asdict(self._run.config.planner) | dict(ROWS[name].changes)
    self.rows[name] = {
      "settings": settings | {"proposal": ROWS[name].proposal} if ROWS[name].plans else {},
      "milliseconds": timing,
      "in_environment": score,
    }
    self.write()

  def write(self) -> None:
    """Writes what there is: JSON, a table and a figure."""
    self.rows = {name: self.rows[name] for name in ROWS if name in self.rows}
    table = {"what": self._what, "processors": os.cpu_count(), "rows": self.rows}
    md, svg = to_markdown(self.rows), planner_figure(self.rows)
    write_findings(self._folder / "planner_table", table, md=md, svg=svg)

  def _frames(self, num: int) -> np.ndarray:
    """What a drive of the controller on the first track shows, and what to warm up with."""
    if not hasattr(self, "_drive"):
      actor = AgentActor(self.agent(ROWS["controller"]))
      self._drive = self._run.play(actor, self._seeds[0]).observation
    return np.resize(self._drive, (num + _WARM_UP, *self._drive.shape[1:]))


def milliseconds(agent: Agent, frames: np.ndarray) -> dict[str, float]:
  """How long decisions take at batch 1, in process.

  Args:
    agent: what decides; its whole `act` is compiled, as it is in an export.
    frames: `uint8[T, ...]`, one after another; the first `_WARM_UP` decisions are not counted.

  Returns:
    `p50`, `p95` of the wall clock, and `cpu`, the mean over all processors, which says less of what
    else the machine was doing.
  """
  act = tf.function(agent.act)
  state, spent = agent.initial_state(1), []
  for step, frame in enumerate(frames):
    if step == _WARM_UP:
      cpu = time.process_time()
    started = time.perf_counter()
    action, state = act(tf.constant(frame[np.newaxis]), state, tf.constant([[1, step]]))
    action.numpy()
    spent.append(1000 * (time.perf_counter() - started))
  cpu = 1000 * (time.process_time() - cpu) / (len(frames) - _WARM_UP)
  p50, p95 = np.percentile(spent[_WARM_UP:], [50, 95])
  return {"p50": float(p50), "p95": float(p95), "cpu": float(cpu)}


def to_markdown(rows: Mapping[str, Mapping[str, Any]]) -> str:
  """The rows as a table; the last column is the mean difference on equal tracks, and its error."""
  lines = [
    "| row | candidates | iterations | particles | horizon | scale | proposal | ms p50 | ms p95 "
    "| ms of processors | return | n | above the controller |",
    "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
  ]
  proposed = rows.get("controller", {}).get("in_environment", {}).get("returns")
  fields = ("num_candidates", "num_iterations", "num_particles", "horizon", "initial_scale")
  for name, row in rows.items():
    settings, score = row["settings"], row["in_environment"]
    above = "-"
    if proposed and name != "controller" and score["n"] > 1:
      difference = np.subtract(score["returns"], proposed)
      error = difference.std(ddof=1) / np.sqrt(len(difference))
      above = f"{difference.mean():+.0f} ± {error:.0f}"
    cells = [
      name,
      *(f"{settings[field]:g}" if settings else "-" for field in fields),
      ("yes" if settings["proposal"] else "no") if settings else "-",
      *(f"{row['milliseconds'][key]:.1f}" for key in ("p50", "p95", "cpu")),
      f"{score['mean']:.0f} ± {score['std']:.0f}",
      str(score["n"]),
      above,
    ]
    lines.append(f"| {' | '.join(cells)} |")
  return "\n".join(lines) + "\n"
