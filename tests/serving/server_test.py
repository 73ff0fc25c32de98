"""`python -m serving.server`: its flags, its start, and its end."""

import os
import re
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from absl import flags

from serving.client import PlannerClient

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
ENV = {**os.environ, "PYTHONPATH": ROOT, "TF_CPP_MIN_LOG_LEVEL": "3"}


def run(*flags):
  return subprocess.run(
    [sys.executable, "-m", "serving.server", *flags],
    capture_output=True,
    text=True,
    env=ENV,
    timeout=120,
  )


@pytest.fixture
def process(base, tmp_path):
  """The server as a process that serves two models from a configuration file, and its address."""
  config = tmp_path / "models.config"
  config.write_text(
    f"""model_config_list {{
      config {{ name: "triv" base_path: "{base}" model_platform: "tensorflow" }}
      config {{ name: "other" base_path: "{base}" model_platform: "tensorflow" }}
    }}"""
  )
  process = subprocess.Popen(
    [sys.executable, "-m", "serving.server", "--port=0", f"--model_config_file={config}"],
    stdout=subprocess.PIPE,
    text=True,
    env=ENV,
  )
  line = process.stdout.readline()
  (target,) = re.findall(r"^Running gRPC ModelServer at (127\.0\.0\.1:\d+) \.\.\.$", line.strip())
  yield process, target
  process.kill()
  process.wait()


def test_serves_what_the_file_lists_and_drains_on_sigterm(process):
  process, target = process
  for model in ("triv", "other"):
    with PlannerClient(target, model) as client:
      assert client.predict("echo", {"x": np.array([2.0], np.float32)})["x"] == [2.0]

  answers = []
  with PlannerClient(target, "triv") as client:
    slow = lambda: answers.append(
      client.predict("slow", {"milliseconds": np.array([1500], np.int32)})
    )
    thread = threading.Thread(target=slow)
    thread.start()
    time.sleep(0.5)
    process.send_signal(signal.SIGTERM)
    thread.join(30)
  assert answers and answers[0]["done"] == [1500]
  assert process.wait(30) == 0


def test_help_and_wrong_flags():
  text = run("--help").stdout
  for flag in (
    "port",
    "host",
    "model_name",
    "model_base_path",
    "model_config_file",
    "grpc_max_threads",
  ):
    assert f"--{flag}" in text
  assert "tensorflow_model_server" in text
  answer = run("--model_base_pth=x")
  assert answer.returncode != 0 and "Did you mean: model_base_path" in answer.stderr


def test_without_a_model_it_says_what_to_give():
  answer = run("--port=0")
  assert answer.returncode != 0
  assert "--model_base_path" in answer.stderr


def test_a_broken_model_ends_it_as_it_ends_the_official_server(base):
  os.truncate(base / "1" / "saved_model.pb", 100)
  answer = run("--port=0", "--model_name=m", f"--model_base_path={base}")
  assert answer.returncode == 255
  assert "Failed to start server. Error: UNKNOWN: 1 servable(s) did not become" in answer.stderr


def test_a_wrong_configuration_file_is_named(tmp_path):
  path = tmp_path / "models.config"
  path.write_text("model_config_list { config { nome: 'x' } }")
  answer = run("--port=0", f"--model_config_file={path}")
  assert answer.returncode != 0
  assert f"--model_config_file={path}" in answer.stderr and "nome" in answer.stderr


def test_importing_the_server_object_defines_no_flags():
  import serving.embedded  # noqa: F401

  assert "model_base_path" not in flags.FLAGS
