"""One small model, written once, and one server for the tests that only call it."""

import os
import shutil

import grpc
import pytest
from tensorflow_serving.apis import model_service_pb2_grpc, prediction_service_pb2_grpc

from serving.embedded import EmbeddedServer
from tests.serving import models


@pytest.fixture(scope="session")
def triv(tmp_path_factory):
  """A version folder to copy from."""
  path = tmp_path_factory.mktemp("triv") / "1"
  models.write_triv(str(path))
  return path


@pytest.fixture(scope="session")
def target(triv):
  """The address of a server that serves `triv`: our own, or CONFORMANCE_TARGET."""
  if address := os.environ.get("CONFORMANCE_TARGET"):
    yield address
    return
  with EmbeddedServer() as server:
    yield server.start({"triv": str(triv.parent)})


@pytest.fixture
def base(triv, tmp_path):
  """A base path of the test's own, with version 1."""
  shutil.copytree(triv, tmp_path / "base" / "1")
  return tmp_path / "base"


class Stubs:
  """The official stubs on one channel."""

  def __init__(self, target):
    self.channel = grpc.insecure_channel(target)
    self.prediction = prediction_service_pb2_grpc.PredictionServiceStub(self.channel)
    self.model = model_service_pb2_grpc.ModelServiceStub(self.channel)


@pytest.fixture
def stubs_for():
  """Makes `Stubs` for a target and closes them afterwards."""
  made = []

  def make(target):
    made.append(Stubs(target))
    return made[-1]

  yield make
  for stubs in made:
    stubs.channel.close()


@pytest.fixture
def stubs(target, stubs_for):
  return stubs_for(target)
