"""The table of trained agents, and the optimum of Pendulum."""

import subprocess
import sys

import gymnasium as gym
import numpy as np
import pytest

from benchmarks import _optimum, learning, quickstart_seeds
from benchmarks._runs import ROOT
from wm_tf.files import write_json

_ROW = {"seed": 0, "steps": 3008, "frames": 6016, "std": 4.0, "n": 20, "minutes": 2.4}


def test_the_table_has_every_run_and_the_spread_over_seeds():
  rows = [
    {**_ROW, "environment": "gym:A-v0", "mean": 100.0, "cpu_minutes": 3.6},
    {**_ROW, "environment": "gym:A-v0", "mean": 200.0, "cpu_minutes": None, "seed": 1},
    {**_ROW, "environment": "B", "mean": -1.0, "cpu_minutes": 1.0, "optimum": [-2.0, 1.0]},
  ]
  lines = learning.table(rows).splitlines()
  assert len({line.count("|") for line in lines}) == 1
  assert lines[2] == "| gym:A-v0 | 0 | 3,008 | 6,016 | 100 ± 4 | 20 | 2 | 4 |"
  assert lines[3].endswith("| 2 | resumed |")
  assert lines[4] == "| **gym:A-v0** | 2 seeds | | | **150 ± 50** over seeds | | | |"
  assert "-1 ± 4 (optimum -0)" in lines[5]


def test_the_table_of_quickstarts_compares_in_pairs():
  """The planner gets 20 more on each track of the first run, and 10 less in the second's mean."""
  row = {"in_the_model": 150.0, "minutes": 18.2, "cpu_minutes": 31.0}
  rows = [
    {**row, "seed": 0, "controller": [100.0, 500.0], "planner": [120.0, 520.0]},
    {**row, "seed": 1, "controller": [200.0, 400.0], "planner": [210.0, 370.0], "minutes": None},
  ]
  lines = quickstart_seeds.table(rows).splitlines()
  assert len({line.count("|") for line in lines}) == 1
  assert lines[2] == "| 0 | 300 ± 283 | 320 ± 283 | +20 ± 0 | 2 | 150 | 18 | 31 |"
  assert "| -10 ± 20 |" in lines[3] and "| resumed |" in lines[3]
  assert lines[4].startswith("| **2 seeds** | **300 ± 0** | **305 ± 21** | +5 ± 15 |")


@pytest.mark.parametrize(
  ("module", "flags"),
  [("learning", ["--environments=gym:CartPole-v1"]), ("quickstart_seeds", [])],
)
def test_rows_of_another_commit_are_refused(tmp_path, module, flags):
  write_json(tmp_path / "results.json", {"commit": "0000000", "rows": []})
  command = [sys.executable, "-m", f"benchmarks.{module}", f"--output={tmp_path}", *flags]
  done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
  assert done.returncode == 1 and "is of commit 0000000, and this is" in done.stderr


def test_the_dynamics_of_the_optimum_are_those_of_the_environment():
  env = gym.make("Pendulum-v1")
  env.reset(seed=0)
  rng = np.random.default_rng(0)
  for _ in range(50):
    torque = rng.uniform(-2.0, 2.0)
    angle, speed = env.unwrapped.state
    cost, next_angle, next_speed = _optimum._dynamics(_optimum._wrapped(angle), speed, torque)
    _, reward, *_ = env.step(np.array([torque]))
    angle, speed = env.unwrapped.state
    np.testing.assert_allclose(
      [-cost, next_angle, next_speed], [reward, _optimum._wrapped(angle), speed], atol=1e-5
    )


@pytest.mark.slow
def test_the_optimum_is_better_than_any_other_policy():
  """Than swinging up by energy and holding: a good policy by hand."""
  seeds = range(6)
  best, env, found = _optimum.pendulum_returns(seeds), gym.make("Pendulum-v1"), []
  for seed in seeds:
    env.reset(seed=seed)
    total = 0.0
    for _ in range(200):
      angle, speed = env.unwrapped.state
      angle = _optimum._wrapped(angle)
      energy = speed**2 / 2 - 15.0 * (1.0 - np.cos(angle))
      torque = -10.0 * angle - 2.0 * speed if abs(angle) < 0.5 else -np.sign(energy * speed) * 2.0
      total += env.step(np.array([np.clip(torque, -2.0, 2.0)]))[1]
    found.append(total)
  assert np.mean(found) > -400.0  # It does swing up.
  assert np.all(np.asarray(best) >= np.asarray(found) - 2.0)
