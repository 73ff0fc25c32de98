"""The quickstart at debug size on every kind of environment: from data to a served agent."""

from __future__ import annotations

import json

import numpy as np
import pytest

pytestmark = pytest.mark.timeout(600)  # A machine that is busy with other things needs its time.

_SHORT = ("--override=environment_options.max_steps=60",)
_ENVIRONMENTS = {
  "gym:Pendulum-v1": _SHORT,
  "gym:CartPole-v1": (),
  "gym:MountainCarContinuous-v0": _SHORT,
  "gym:LunarLander-v3": (),
  "gym:LunarLanderContinuous-v3": (),
  "gym:BipedalWalker-v3": _SHORT,
  "gym:CarRacing-v3": _SHORT,
  "gym:ALE/Pong-v5": _SHORT,
  "tests.envs.toys:DictEnv": (),
  "tests.envs.toys:MultiDiscreteEnv": (),
}


@pytest.mark.parametrize("environment", _ENVIRONMENTS)
def test_from_data_to_an_evaluated_served_agent(launcher, tmp_path, environment):
  if "ALE/" in environment:
    pytest.importorskip("ale_py")
  flags = (f"--environment={environment}", "--preset=debug", *_ENVIRONMENTS[environment])
  output = launcher.run("trainers.quickstart", *flags, workdir=tmp_path / "run")
  results = json.loads((tmp_path / "run/results.json").read_text())
  for name in ("random", "controller_in_model", "controller_in_environment"):
    assert results[name]["n"] == 2 and np.isfinite(results[name]["returns"]).all()
  assert results["planner_in_environment"]["n"] == 1
  assert "heuristic" not in results and "heuristic" not in results["data"]["by_policy"]
  page = (tmp_path / "run/report.html").read_text()
  assert results["environment"] in page and "CarRacing-v2" not in page
  assert "served planner" in output
