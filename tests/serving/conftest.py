"""One small model, written once, and one server for the tests that only call it.

The conformance tests can be pointed at another server, which serves the model that
`python -m tests.serving.models DIR` writes, under the name `triv`:

  CONFORMANCE_TARGET=host:port   its gRPC
  CONFORMANCE_REST=host:port     its REST, with metrics at the official path
  CONFORMANCE_BASE=DIR/triv      the model's base path, as both the server and the tests see it;
                                 without it, tests that change what is served are skipped
"""

import concurrent.futures
import os
import shutil

import grpc
import pytest
from tensorflow_serving.apis import model_service_pb2_grpc, prediction_service_pb2_grpc

from serving import metrics
from serving.embedded import EmbeddedServer
from tests.serving import calls, deploy_agent, models


@pytest.fixture(scope="session")
def triv(tmp_path_factory):
  """A version folder to copy from."""
  path = tmp_path_factory.mktemp("triv") / "1"
  models.write_triv(str(path))
  return path


@pytest.fixture(scope="session")
def triv2(tmp_path_factory):
  """A second version, whose `echo` doubles."""
  path = tmp_path_factory.mktemp("triv2") / "2"
  models.write_triv(str(path), scale=2.0)
  return path


@pytest.fixture(scope="session")
def embedded(triv, tmp_path_factory):
  """Our own server, with everything that the contract asks for switched on."""
  if os.environ.get("CONFORMANCE_TARGET"):
    yield None
    return
  base = tmp_path_factory.mktemp("embedded") / "triv"
  shutil.copytree(triv, base / "1")
  with EmbeddedServer(
    poll_seconds=0.05, rest_port=0, prometheus_path=metrics.PATH, max_threads=8
  ) as server:
    target = server.start({"triv": str(base)})
    yield target, server.rest_target, base


@pytest.fixture(scope="session")
def target(embedded):
  """The gRPC address of a server that serves `triv`: our own, or CONFORMANCE_TARGET."""
  return embedded[0] if embedded else os.environ["CONFORMANCE_TARGET"]


@pytest.fixture(scope="session")
def rest(embedded):
  """The REST address of that server."""
  address = embedded[1] if embedded else os.environ.get("CONFORMANCE_REST")
  if not address:
    pytest.skip("no CONFORMANCE_REST=host:port")
  return address


@pytest.fixture
def served(embedded, stubs, triv):
  """The base path that it serves, for tests that change it; afterwards it is as before."""
  base = embedded[2] if embedded else os.environ.get("CONFORMANCE_BASE")
  if not base:
    pytest.skip("no CONFORMANCE_BASE=DIR/triv that the server and the tests share")
  base = type(triv)(base)
  yield base
  for path in base.iterdir():
    if path.name != "1":
      shutil.rmtree(path)
  stubs.model.HandleReloadConfigRequest(calls.reload_request(triv=base), timeout=60)
  calls.wait_until(lambda: (1, "AVAILABLE") in calls.states(stubs))
  calls.wait_until(lambda: calls.echo(stubs) == (1, 1.0))


@pytest.fixture
def base(triv, tmp_path):
  """A base path of the test's own, with version 1."""
  shutil.copytree(triv, tmp_path / "base" / "1")
  return tmp_path / "base"


class Stubs:
  """The official stubs on one channel."""

  def __init__(self, target, credentials=None):
    if credentials is None:
      self.channel = grpc.insecure_channel(target)
    else:
      self.channel = grpc.secure_channel(target, credentials)
    self.prediction = prediction_service_pb2_grpc.PredictionServiceStub(self.channel)
    self.model = model_service_pb2_grpc.ModelServiceStub(self.channel)


@pytest.fixture
def stubs_for():
  """Makes `Stubs` for a target and closes them afterwards."""
  made = []

  def make(target, credentials=None):
    made.append(Stubs(target, credentials))
    return made[-1]

  yield make
  for stubs in made:
    stubs.channel.close()


@pytest.fixture
def stubs(target, stubs_for):
  return stubs_for(target)


@pytest.fixture
def failing():
  """`start(*codes)`: a server that fails the first calls; its `calls.Failing`, and its address."""
  servers = []

  def start(*codes):
    handler = calls.Failing(*codes)
    server = grpc.server(concurrent.futures.ThreadPoolExecutor(2), handlers=[handler])
    servers.append(server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    return handler, f"127.0.0.1:{port}"

  yield start
  for server in servers:
    server.stop(0).wait()


@pytest.fixture(scope="session")
def versions(tmp_path_factory):
  """The base path of `deploy_agent.write_versions`; not to be changed."""
  base = tmp_path_factory.mktemp("models") / "planner"
  deploy_agent.write_versions(base)
  return base
