"""The quickstart at debug size on every kind of environment: from data to a served agent.

`readme_test.py` does the same for gym:Pendulum-v1 and for a maze.
"""

from __future__ import annotations

import concurrent.futures
import importlib.util
import json

import numpy as np
import pytest

pytestmark = pytest.mark.timeout(600)  # A machine that is busy with other things needs its time.

_SHORT = "--override=environment_options.max_steps=60"
_ONCE = "--override=num_iterations=0"  # Without a second iteration.
_ENVIRONMENTS = {
  "gym:CartPole-v1": (_ONCE,),
  "gym:MountainCarContinuous-v0": (_SHORT, _ONCE),
  "gym:LunarLander-v3": (),
  "gym:LunarLanderContinuous-v3": (_ONCE,),
  "gym:BipedalWalker-v3": (_SHORT, _ONCE),
  "gym:CarRacing-v3": (_SHORT, _ONCE),
  "gym:ALE/Pong-v5": (_SHORT, _ONCE),
  "tests.envs.toys:DictEnv": (),
  "tests.envs.toys:MultiDiscreteEnv": (_ONCE,),
}


@pytest.fixture(scope="module")
def runs(request, launcher, tmp_path_factory):
  """By environment, the workdir of a quickstart and the future of what it prints.

  Two run at a time: a run is one core's work for most of its time.
  """
  folder = tmp_path_factory.mktemp("environments")
  with concurrent.futures.ThreadPoolExecutor(2) as pool:
    found = {}
    items = (item for item in request.session.items if item.path == request.path)
    wanted = {item.callspec.params["environment"] for item in items}
    for index, (environment, flags) in enumerate(_ENVIRONMENTS.items()):
      if environment not in wanted:
        continue
      if "ALE/" in environment and importlib.util.find_spec("ale_py") is None:
        continue
      workdir = folder / str(index)
      flags = (f"--environment={environment}", "--preset=debug", *flags)
      printed = pool.submit(launcher.run, "trainers.quickstart", *flags, workdir=workdir)
      found[environment] = workdir, printed
    yield found
    pool.shutdown(cancel_futures=True)


@pytest.mark.parametrize(
  "environment",
  [
    pytest.param(e, marks=[] if e == "gym:CartPole-v1" else pytest.mark.slow) for e in _ENVIRONMENTS
  ],
)
def test_from_data_to_an_evaluated_served_agent(runs, environment):
  if environment not in runs:
    pytest.skip("not installed: ale-py")
  workdir, printed = runs[environment]
  output = printed.result()
  results = json.loads((workdir / "results.json").read_text())
  for name in ("random", "controller_in_model", "controller_in_environment"):
    assert results[name]["n"] == 2 and np.isfinite(results[name]["returns"]).all()
  assert results["planner_in_environment"]["n"] == 1
  assert "heuristic" not in results and "heuristic" not in results["data"]["by_policy"]
  page = (workdir / "report.html").read_text()
  assert results["environment"] in page and "CarRacing-v2" not in page
  assert "served planner" in output
