"""`python -m serving.server`: its flags, its start, and its end."""

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from absl import flags

from serving.client import PlannerClient
from tests.serving import calls

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
ENV = {**os.environ, "PYTHONPATH": ROOT, "TF_CPP_MIN_LOG_LEVEL": "3"}


def run(*flags, **options):
  return subprocess.run(
    [sys.executable, "-m", "serving.server", *flags],
    capture_output=True,
    text=True,
    env=ENV,
    timeout=120,
    **options,
  )


def write_config(path, base, *names):
  configs = [
    f'config {{ name: "{n}" base_path: "{base}" model_platform: "tensorflow" }}' for n in names
  ]
  path.with_suffix(".part").write_text("model_config_list { " + " ".join(configs) + " }")
  os.rename(path.with_suffix(".part"), path)


@pytest.fixture
def process(base, tmp_path):
  """The server as a process that serves two models from a configuration file, and its address."""
  config, monitoring = tmp_path / "models.config", tmp_path / "monitoring.config"
  write_config(config, base, "triv", "other")
  monitoring.write_text("prometheus_config { enable: true }")
  with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    rest_port = free.getsockname()[1]
  process = subprocess.Popen(
    [
      *(sys.executable, "-m", "serving.server", "--port=0", f"--model_config_file={config}"),
      *("--model_config_file_poll_wait_seconds=0.2", f"--monitoring_config_file={monitoring}"),
      *(f"--rest_api_port={rest_port}", "--enable_batching=true", "--num_load_threads=2"),
    ],
    stdout=subprocess.PIPE,
    text=True,
    env=ENV,
  )
  line = process.stdout.readline()
  (target,) = re.findall(r"^Running gRPC ModelServer at (127\.0\.0\.1:\d+) \.\.\.$", line.strip())
  line = process.stdout.readline()
  assert line == f"Exporting HTTP/REST API at:127.0.0.1:{rest_port} ...\n"
  yield process, target
  process.kill()
  process.wait()


def test_serves_what_the_file_lists_and_drains_on_sigterm(process, base, tmp_path):
  process, target = process
  for model in ("triv", "other"):
    with PlannerClient(target, model) as client:
      assert client.predict("echo", {"x": np.array([2.0], np.float32)})["x"] == [2.0]

  (rest,) = re.findall("--rest_api_port=(.*)", "\n".join(process.args))
  page = calls.http_call(f"127.0.0.1:{rest}", "GET", "/monitoring/prometheus/metrics").text
  assert ':tensorflow:serving:request_count{model_name="other",status="OK"} 1' in page

  # A damaged file changes nothing; a good one is taken on.
  (tmp_path / "models.config").write_text("model_config_list {")
  time.sleep(0.5)
  write_config(tmp_path / "models.config", base, "triv", "third")
  path = "/v1/models/{}/versions/1"

  def state(model):
    return calls.http_call(f"127.0.0.1:{rest}", "GET", path.format(model)).text

  calls.wait_until(lambda: "AVAILABLE" in state("third") and "END" in state("other"), 60)

  answers = []
  with PlannerClient(target, "triv") as client:

    def slow():
      answers.append(client.predict("slow", {"milliseconds": np.array([1500], np.int32)}))

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


_CASES = {
  "--port=1 --rest_api_port=1": "--rest_api_port must differ from --port",
  "--batching_parameters_file=x": "--batching_parameters_file requires --enable_batching",
  "--monitoring_config_file=x": "--monitoring_config_file requires --rest_api_port",
  "--ssl_config_file=/nowhere": "--ssl_config_file=/nowhere",
  "--grpc_channel_arguments=a": "'a' is not of the form name=value",
  "--use_alts_credentials": "--use_alts_credentials is not supported by this server",
  "--tensorflow_session_parallelism=1 --tensorflow_intra_op_parallelism=1"
  " --tensorflow_inter_op_parallelism=1": "Set --tensorflow_session_parallelism, or",
  "--tensorflow_session_parallelism=3": "'session_config': intra_op_parallelism_threads: 3",
  "--grpc_channel_arguments=grpc.max_connection_age_ms=2000,a=b": "(('grpc.max_connection_age_ms',"
  " 2000), ('a', 'b'))",
  "--enable_model_warmup=false": "'warmup_iterations': 0",
  "--rest_api_timeout_in_ms=1500 --rest_api_port=8501": "'rest_timeout': 1.5",
  "--flush_filesystem_caches=false --load_retry_interval_micros=5": "'host': '127.0.0.1'",
}
_PRINT_OPTIONS = """
import sys
from absl import flags as absl_flags
from serving import flags
for case in sys.argv[1:]:
  absl_flags.FLAGS(["server", *case.split()])
  try:
    print(str(flags.options()).replace("\\n", " "))
  except flags.FlagError as error:
    print(error)
  absl_flags.FLAGS.unparse_flags()
  for name in absl_flags.FLAGS:
    absl_flags.FLAGS[name].unparse()
"""


def test_what_flags_make_of_the_options(tmp_path):
  session = tmp_path / "session.txt"
  session.write_text("allow_soft_placement: true intra_op_parallelism_threads: 5")
  cases = _CASES | {
    f"--tensorflow_session_config_file={session}": "intra_op_parallelism_threads: 5",
  }
  command = [sys.executable, "-c", _PRINT_OPTIONS, *cases]
  answer = subprocess.run(command, capture_output=True, text=True, env=ENV, timeout=120)
  assert answer.returncode == 0, answer.stderr
  for (case, expected), line in zip(cases.items(), answer.stdout.splitlines(), strict=True):
    assert expected in line, case


def test_every_flag_of_the_official_server_is_taken():
  text = run("--helpfull").stdout
  official = """port grpc_socket_path rest_api_port rest_api_num_threads rest_api_timeout_in_ms
    rest_api_enable_cors_support enable_batching allow_version_labels_for_unavailable_models
    batching_parameters_file enable_per_model_batching_parameters model_config_file
    model_config_file_poll_wait_seconds model_name model_base_path num_load_threads
    num_unload_threads max_num_load_retries load_retry_interval_micros
    file_system_poll_wait_seconds flush_filesystem_caches tensorflow_session_parallelism
    tensorflow_session_config_file tensorflow_intra_op_parallelism
    tensorflow_inter_op_parallelism use_alts_credentials ssl_config_file platform_config_file
    per_process_gpu_memory_fraction saved_model_tags grpc_channel_arguments grpc_max_threads
    enable_model_warmup num_request_iterations_for_warmup version monitoring_config_file
    remove_unused_fields_from_bundle_metagraph prefer_tflite_model num_tflite_pools
    num_tflite_interpreters_per_pool enable_signature_method_name_check
    xla_cpu_compilation_enabled xla_gpu_compilation_enabled enable_profiler
    thread_pool_factory_config_file mixed_precision skip_initialize_tpu
    enable_grpc_healthcheck_service enable_serialization_as_tensor_content"""
  missing = [name for name in official.split() if not re.search(rf"--(\[no\])?{name}\b", text)]
  assert not missing


def test_without_a_model_it_says_what_to_give():
  answer = run("--port=0")
  assert answer.returncode != 0
  assert "--model_base_path" in answer.stderr


def test_a_broken_model_ends_it_as_it_ends_the_official_server(base):
  os.truncate(base / "1" / "saved_model.pb", 100)
  flags = "--port=0", "--model_name=m", f"--model_base_path={base}", "--host=0.0.0.0"
  answer = run(*flags)
  assert answer.returncode == 255
  assert "anyone who can reach this address can call the server" in answer.stderr
  assert "Failed to start server. Error: UNKNOWN: 1 servable(s) did not become" in answer.stderr


def test_it_ends_with_its_standard_input_also_before_it_serves(base):
  flags = "--port=0", "--model_name=m", f"--model_base_path={base}", "--exit_with_stdin"
  answer = run(*flags, stdin=subprocess.DEVNULL)
  assert answer.returncode == 0
  assert "Running" not in answer.stdout


def test_a_wrong_configuration_file_is_named(tmp_path):
  path = tmp_path / "models.config"
  path.write_text("model_config_list { config { nome: 'x' } }")
  answer = run("--port=0", f"--model_config_file={path}")
  assert answer.returncode != 0
  assert f"--model_config_file={path}" in answer.stderr and "nome" in answer.stderr


def test_importing_the_server_object_defines_no_flags():
  import serving.embedded  # noqa: F401

  assert "model_base_path" not in flags.FLAGS
