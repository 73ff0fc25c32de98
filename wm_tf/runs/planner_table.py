"""Measures the return in the environment and the time of a decision for planner settings."""

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
from wm_tf.core import Nest
from wm_tf.policies.planner import Planner
from wm_tf.report.planner_figures import planner_figure
from wm_tf.runs.playing import episode_seeds
from wm_tf.runs.run import Run
from wm_tf.runs.workdir import read_json, say, write_findings

# Stream of validation seeds; `finish.py` lists the others.
_TRACKS = 4


_WARM_UP = 3  # Untimed decisions at the start, in which the graph is traced and optimised.


@dataclasses.dataclass(frozen=True)
class Row:
  """One row of the table.

  Attributes:
    changes: `(name, value)` of changed fields of the run's `PlannerConfig`.
    plans: whether the row is a planner; else it is the controller.
    proposal: whether the planner starts from the controller's proposal.
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
  """Measures rows, each once, and writes the table.

  Args:
    run: the run.
    folder: the folder to write to.
    num_episodes: number of real episodes of each row.
    finished: whether to use the controller as it was finished in the real environment.
    seed: seed of the episodes.
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
    """Makes the agent of a row.

    Args:
      row: the row.

    Returns:
      The agent.
    """
    policy = self._learner.policy
    if row.plans:
      config = dataclasses.replace(self._run.config.planner, **dict(row.changes))
      proposal = policy if row.proposal else None
      policy = Planner(self._model, config, proposal, self._learner.critic, fixed=True)
    return Agent(self._run.spec, self._model, policy)

  def measure(self, name: str, num_decisions: int) -> None:
    """Evaluates and times a row, unless that was done before, and writes the table.

    Args:
      name: key of `ROWS`.
      num_decisions: number of decisions to time.
    """
    if name in self.rows:
      say(f"{name}: measured before.")
      return
    agent = self.agent(ROWS[name])
    timing = milliseconds(agent, self._observations(num_decisions))
    score = self._run.evaluate(agent, seeds=self._seeds, label=f"play {name}")
    settings = dataclasses.asdict(self._run.config.planner) | dict(ROWS[name].changes)
    self.rows[name] = {
      "settings": settings | {"proposal": ROWS[name].proposal} if ROWS[name].plans else {},
      "milliseconds": timing,
      "in_environment": score,
    }
    self.write()

  def write(self) -> None:
    """Writes all rows measured so far: as JSON, as a table and as a figure."""
    self.rows = {name: self.rows[name] for name in ROWS if name in self.rows}
    table = {"what": self._what, "processors": os.cpu_count(), "rows": self.rows}
    md, svg = to_markdown(self.rows), planner_figure(self.rows)
    write_findings(self._folder / "planner_table", table, md=md, svg=svg)

  def _observations(self, num: int) -> Nest:
    """Returns observations `[num + 3, ...]` of an episode of the controller, from the start again
    when it is over.
    """
    if not hasattr(self, "_episode"):
      actor = AgentActor(self.agent(ROWS["controller"]))
      self._episode = self._run.play(actor, self._seeds[0]).observation

    def repeated(x):
      return np.resize(x, (num + _WARM_UP, *x.shape[1:]))

    return tf.nest.map_structure(repeated, self._episode)


def milliseconds(agent: Agent, observations: Nest) -> dict[str, float]:
  """Measures the time of a decision at batch size 1, in this process.

  Args:
    agent: the agent; its `act` is compiled as it is in an export.
    observations: T observations in order, such as `uint8[T, 64, 64, 3]` or a dict of arrays; the
      first 3 decisions are not timed.

  Returns:
    In milliseconds: `p50` and `p95` of wall-clock time, and `cpu`, the mean processor time over all
    threads, which depends less on the load of the machine.
  """
  act = tf.function(agent.act, autograph=False)
  state, spent = agent.initial_state(1), []
  num_steps = len(tf.nest.flatten(observations)[0])
  for step in range(num_steps):
    observation = tf.nest.map_structure(lambda x, t=step: tf.constant(x[t : t + 1]), observations)
    if step == _WARM_UP:
      cpu = time.process_time()
    started = time.perf_counter()
    action, state = act(observation, state, tf.constant([[1, step]]))
    action.numpy()
    spent.append(1000 * (time.perf_counter() - started))
  cpu = 1000 * (time.process_time() - cpu) / (num_steps - _WARM_UP)
  p50, p95 = np.percentile(spent[_WARM_UP:], [50, 95])
  return {"p50": float(p50), "p95": float(p95), "cpu": float(cpu)}


def to_markdown(rows: Mapping[str, Mapping[str, Any]]) -> str:
  """Formats rows as a table.

  Args:
    rows: name to the values that `Table.measure` stores.

  Returns:
    The table in Markdown. Its last column is the mean difference from the controller's returns on
    equal seeds, `±` its standard error.
  """
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
