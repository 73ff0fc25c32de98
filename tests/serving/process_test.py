"""A server in a process of its own serves while the block runs, and says why it does not start."""

import numpy as np
import pytest

from serving import process
from serving.client import PlannerClient
from tests.serving import calls


def test_serves_grpc_and_rest_until_the_block_ends(triv, tmp_path):
  flags = ("--model_name=triv", f"--model_base_path={triv.parent}")
  with process.serve(*flags, rest=True, log=tmp_path / "log") as server:
    with PlannerClient(server.target, "triv") as client:
      assert client.predict("echo", {"x": np.array([2.0], np.float32)})["x"] == [2.0]
    assert "AVAILABLE" in calls.http_call(server.rest_target, "GET", "/v1/models/triv").text
    assert server.process.poll() is None
  assert server.process.returncode == 0
  assert "Draining" in (tmp_path / "log").read_text()


def test_what_does_not_start_says_why():
  why = r"(?s)serving\.server did not start; its output: .*nonsense"
  with pytest.raises(RuntimeError, match=why), process.serve("--nonsense"):
    raise AssertionError("It serves.")
