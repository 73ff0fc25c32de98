"""The finish of a run whose models were never trained, in an environment that takes no time."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tests import fakes
from tests.trainers.untrained import OVERRIDES, make_config, make_run
from wm_tf import config as config_lib
from wm_tf.agent import AgentActor
from wm_tf.runs import finish as finishing
from wm_tf.runs.playing import episode_seeds
from wm_tf.runs.run import Run
from wm_tf.runs.workdir import WorkdirError, read_json
from wm_tf.training.loggers import read_jsonl

pytestmark = pytest.mark.timeout(600)


def _contents(folder: Path) -> dict[str, object]:
  """Every file but for times."""
  found = {}
  for path in sorted(path for path in folder.rglob("*") if path.is_file()):
    name = str(path.relative_to(folder))
    if path.suffix == ".npz":
      with np.load(path) as arrays:
        found[name] = {key: arrays[key].tolist() for key in arrays if key != "contenders"}
    elif path.suffix == ".jsonl":
      found[name] = read_jsonl(path)
    elif "tensorboard" not in name:
      found[name] = read_json(path)
      for row in found[name].get("contenders", ()):
        del row["score"]["seconds"]
  return found


@pytest.mark.slow
def test_ends_the_same_when_killed(launcher, tmp_path):
  flags = ("--override=finish.num_generations=4",)
  whole = make_run(tmp_path / "whole")
  said = launcher.run("trainers.finish", *flags, workdir=whole)
  assert "generation 1: 6/6" in said and "validate mean and best: 4/4" in said

  killed = make_run(tmp_path / "killed")
  for step in (1, 2):  # After the first generation; after the second validation.
    moment = f"write finish/000/checkpoints/.step-{step:08d}.npz.tmp"
    launcher.run("trainers.finish", *flags, workdir=killed, kill_at=moment, expected=-9)
  launcher.run("trainers.finish", "--override=finish.num_generations=3", workdir=killed)
  launcher.run("trainers.finish", *flags, workdir=killed)
  # A search that was to end at 3 validates there too; what it searches is the same.
  contents = [_contents(workdir / "finish/000") for workdir in (whole, killed)]
  last = "checkpoints/step-00000004.npz"
  searched = [{k: v for k, v in c[last].items() if k != "chosen"} for c in contents]
  assert searched[0] == searched[1] and searched[0]["search/step_size"] != [0.1]
  shared = [
    [r for r in c["validations.json"]["contenders"] if r["generation"] != 3] for c in contents
  ]
  assert shared[0] == shared[1] and [row["generation"] for row in shared[0]] == [0, 2, 2, 4, 4]
  rows = [[r for r in c["metrics.jsonl"] if r["step"] != 3] for c in contents]
  for row in rows[0] + rows[1]:
    row.pop("validation/return", None)  # The best so far, also of generation 3.
  assert rows[0] == rows[1] and len(rows[0]) == 1 + 3 + 2
  with Run(whole, config=make_config(), seed=3) as run:
    finishing.Finish(run, 0).run_all()  # It is done.
  again = _contents(whole / "finish/000")
  assert again["validations.json"] == contents[0]["validations.json"]
  assert again[last] == contents[0][last]


@pytest.mark.slow
def test_what_is_kept_is_what_did_best(launcher, tmp_path):
  method = "actor_critic"
  workdir = make_run(tmp_path / "run", method)
  flags = [f"--override=finish.{text}" for text in ("initial_scale=0.5", "num_generations=8")]
  said = launcher.run("trainers.finish", *flags, workdir=workdir)
  rows = json.loads((workdir / "finish/000/validations.json").read_text())["contenders"]
  best = max(rows, key=lambda row: row["score"]["mean"])
  assert rows[0]["contender"] == "start" and best["score"]["mean"] > rows[0]["score"]["mean"]
  assert f"Kept: the {best['contender']} of generation {best['generation']}." in said
  seeds = {tuple(row["score"]["seeds"]) for row in rows}
  assert len(seeds) == 1
  used = {s for step in range(8) for s in episode_seeds("finish", 3, 2, step)}
  assert len(used) == 16
  reported = set(episode_seeds("evaluation", 3, 100))
  chosen_on = set(episode_seeds("validation", 3, 100))  # The iteration.
  assert not used & set(*seeds) and not (used | set(*seeds)) & (reported | chosen_on)

  run = Run(workdir, config=make_config(method), seed=3)
  played = run.evaluate(_actor(run, True), seeds=best["score"]["seeds"])
  assert played["returns"] == pytest.approx(best["score"]["returns"], abs=1e-3)
  again = run.evaluate(_actor(run, False), seeds=best["score"]["seeds"])
  assert again["returns"] == pytest.approx(rows[0]["score"]["returns"], abs=1e-3)

  output = tmp_path / "score.json"
  launcher.run(
    "trainers.evaluate",
    "--preset=debug",
    *(f"--override={text}" for text in (*OVERRIDES, f"controller.method={method}")),
    *("--seed=3", "--finished", "--noin_model", "--episodes=2", f"--output={output}"),
    workdir=workdir,
  )
  assert list(json.loads(output.read_text())) == ["finished_controller_in_environment"]


def _actor(run: Run, finished: bool) -> AgentActor:
  return AgentActor(run.agent("controller", 0, finished))


def test_another_search_or_controller_is_refused(tmp_path):
  workdir = make_run(tmp_path / "run")
  with Run(workdir, config=make_config(), seed=3) as run:
    with pytest.raises(WorkdirError, match=r"finish/000/controller\.npz does not exist"):
      run.agent("controller", 0, finished=True)
    finishing.Finish(run, 0)
    with pytest.raises(WorkdirError, match=r"controller/001/controller\.npz does not exist"):
      finishing.Finish(run, 1)
  other = config_lib.override(make_config(), ["finish.num_seeds=7"])
  with (
    Run(workdir, config=other, seed=3) as run,  # The run itself is the same one.
    pytest.raises(WorkdirError, match="a search with num_seeds = 2, and now it is 7"),
  ):
    finishing.Finish(run, 0)
  with Run(workdir, config=make_config(), seed=3) as run:
    path = run.path("controller", 0) / "controller.npz"
    path.write_bytes(path.read_bytes() + b" ")
    with pytest.raises(WorkdirError, match="a search with controller ="):
      finishing.Finish(run, 0)
  described = json.loads((workdir / "run.json").read_text())
  del described["config"]["finish"]  # As a run of an older version is.
  del described["sha256"]
  (workdir / "run.json").write_text(json.dumps(described))
  with Run(workdir, config=make_config(), seed=3) as run:
    assert run.best_iteration() == 0
  changed = config_lib.override(make_config(), ["planner.horizon=7"])
  with pytest.raises(WorkdirError, match=r"planner\.horizon = 4, and now it is 7"):
    Run(workdir, config=changed, seed=3).__enter__()


def test_only_the_finish_may_be_overridden(launcher, tmp_path):
  workdir = make_run(tmp_path / "run")
  said = launcher.run(
    "trainers.finish", "--override=planner.horizon=7", workdir=workdir, expected=1
  )
  assert "holds a run of another configuration" in said and "Traceback" not in said
  assert fakes.TargetEnv.TARGET.shape == (2,) and not (workdir / "finish").exists()
