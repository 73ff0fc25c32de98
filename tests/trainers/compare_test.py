"""A comparison on a small real run: equal time, what it leaves, going on where it was killed."""

from __future__ import annotations

import json

import numpy as np
import pytest

from tests.trainers.workdirs import read_json, snapshot
from wm_tf.export import SavedModelActor
from wm_tf.runs import comparison

pytestmark = pytest.mark.timeout(1200)  # A machine that is busy with other things needs its time.


@pytest.mark.slow
def test_compares_with_equal_time_and_goes_on(launcher, finished, tmp_path):
  pytest.importorskip("tf_agents", reason='not installed: pip install "wm_tf[agents]"')
  before, output = snapshot(finished), tmp_path / "out"
  flags = ("--methods=es,ppo", "--seconds=1", "--turn=0.5", "--episodes=2", f"--output={output}")
  watched = dict(workdir=output)  # Says only where writes are watched.
  command = ("trainers.compare", *flags, f"--workdir={finished}")
  killed = launcher.start(*command, kill_at="rename ppo/result.json", **watched)
  assert killed.wait() < 0, killed.output
  done = (output / "es/result.json").read_bytes()
  steps = json.loads(done)["steps"]
  text = launcher.run(*command, **watched)
  assert "es: done before" in text and "| ppo |" in text
  assert (output / "es/result.json").read_bytes() == done
  assert snapshot(finished) == before, "it may only read"

  found = read_json(output / "compare.json")
  assert (output / "compare.md").read_text() in text
  assert list(found["methods"]) == ["es", "ppo"] and found["settings"]["seconds"] == 1
  assert found["methods"]["es"]["model_steps"] == steps * 8 * 2 * 10
  for name, result in found["methods"].items():
    # The last step may take longer than the time that was left for it.
    assert 1.0 <= result["seconds"] < 5.0 and result["compile_seconds"] > 0
    for score in (result["in_model"], result["in_environment"]):
      assert score["n"] == len(score["returns"]) == 2
      assert score["mean"] == pytest.approx(np.mean(score["returns"]), abs=1e-2)
    export = output / name / "export/controller/1"
    assert SavedModelActor(str(export)).spec["name"] == "car_racing"
    # What acts is ours alone.
    graph = (export / "saved_model.pb").read_bytes()
    assert b"tf_agents" not in graph and b"TFAgents" not in graph
  seeds = [result["in_environment"]["seeds"] for result in found["methods"].values()]
  assert seeds[0] == seeds[1]
  names = sorted((output / "ppo").iterdir())
  assert [path.name for path in names] == ["controller.npz", "export", "result.json"]

  refused = launcher.run(*command[:2], "--seconds=2", *command[3:], expected=1, **watched)
  assert "holds a comparison with seconds = 1.0, and now it is 2.0" in refused


def test_the_table_has_the_gap():
  def score(mean):
    return {"mean": mean, "std": 10.0, "n": 20}

  result = {
    "in_model": score(500.0),
    "in_environment": score(420.4),
    "model_steps": 1_234_567,
    "seconds": 600.2,
    "cpu_seconds": 900.0,
    "compile_seconds": 12.3,
  }
  line = comparison.to_text({"ppo": result}).splitlines()[-1]
  assert line == "| ppo | 500 ± 10 | 420 ± 10 | 80 | 20 | 1.23 M | 600 | 900 | 12 s |"
