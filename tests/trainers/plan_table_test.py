"""The planner's table on a run whose models were never trained."""

from __future__ import annotations

import json
from xml.etree import ElementTree

import numpy as np
import pytest
import tensorflow as tf

from tests.trainers.untrained import make_config, make_run
from wm_tf.core import AgentState
from wm_tf.runs import planner_table
from wm_tf.runs.playing import episode_seeds
from wm_tf.runs.run import Run

pytestmark = pytest.mark.timeout(600)


@pytest.mark.slow
def test_rows_are_measured_once(launcher, tmp_path):
  workdir = make_run(tmp_path / "run", "actor_critic")

  def files():
    return {p: p.read_bytes() for p in workdir.rglob("*") if p.is_file()}

  before, output = files(), tmp_path / "out"
  flags = ("--episodes=2", "--decisions=4", f"--output={output}")

  def read():
    return json.loads((output / "planner_table.json").read_text())

  launcher.run("trainers.plan_table", *flags, "--rows=controller,particles_1", workdir=workdir)
  first = read()["rows"]
  said = launcher.run(
    "trainers.plan_table", *flags, "--rows=controller,gaussian,horizon_6", workdir=workdir
  )
  assert "controller: measured before." in said and files() == before
  table = read()["rows"]
  assert list(table) == ["controller", "particles_1", "horizon_6", "gaussian"]
  assert {name: table[name] for name in first} == first
  settings = {name: row["settings"] for name, row in table.items()}
  assert settings["controller"] == {} and settings["particles_1"]["num_particles"] == 1
  assert settings["horizon_6"] == {**settings["particles_1"], "horizon": 6}
  assert settings["gaussian"]["num_candidates"] == 64 and not settings["gaussian"]["proposal"]
  for row in table.values():
    assert row["in_environment"]["seeds"] == episode_seeds("validation", 0, 2, 4)
    assert 0 < row["milliseconds"]["p50"] <= row["milliseconds"]["p95"]
  returns = [row["in_environment"]["returns"] for row in table.values()]
  assert returns[0] != returns[3]
  markdown = (output / "planner_table.md").read_text()
  assert markdown in said and len({line.count("|") for line in markdown.splitlines()}) == 1
  words = "".join(ElementTree.parse(output / "planner_table.svg").getroot().itertext())
  assert all(name.replace("_", " ") in words for name in table)

  run = Run(workdir, config=make_config("actor_critic"), seed=3)
  kept = [planner_table.Table(run, output, 2, False, seed).rows for seed in (0, 1)]
  assert kept == [table, {}]  # On other tracks nothing of what was measured counts.


class _Noting:
  """An agent that notes what it sees."""

  def __init__(self):
    self.frames: list[int] = []

  def initial_state(self, batch_size):
    return AgentState((), np.zeros([batch_size, 2], np.float32), np.ones([batch_size], bool), ())

  def act(self, observation, state, seed):
    def note(frame):
      self.frames.append(int(frame.numpy()[0, 0, 0, 0]))
      return np.float32(0.0)

    zero = tf.py_function(note, tf.nest.flatten(observation)[:1], tf.float32)
    return tf.zeros([1, 2]) + zero, state


@pytest.mark.parametrize("mixed", [False, True])
def test_every_observation_is_decided_on(mixed):
  agent = _Noting()
  frames = np.arange(5, dtype=np.uint8).reshape(5, 1, 1, 1) * np.ones([1, 64, 64, 3], np.uint8)
  observations = {"image": frames, "vector": np.zeros([5, 2], np.float32)} if mixed else frames
  timing = planner_table.milliseconds(agent, observations)
  assert agent.frames == [0, 1, 2, 3, 4]
  assert 0 < timing["p50"] <= timing["p95"] < 1000 and timing["cpu"] >= 0
