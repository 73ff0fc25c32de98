"""The client against a server that serves `triv`, and against one that fails on purpose."""

import concurrent.futures
import dataclasses
import shutil
import subprocess
import threading
import time

import grpc
import numpy as np
import pytest

from serving.address import Address, parse_address
from serving.client import TLS, CallError, GrpcActor, PlannerClient, Retry, is_address
from serving.embedded import EmbeddedServer
from tests.serving import calls

FRAME = np.full((8, 8, 3), 100, np.uint8)


@pytest.fixture
def client(target):
  with PlannerClient(target, "triv") as client:
    yield client


def test_the_state_travels(client):
  client.reset(seed=5)
  for step in range(3):
    action = client.act(FRAME)
    # Triv answers (brightness, seed): the episode's seed and the step.
    np.testing.assert_allclose(action, [100, 5, step])
    assert action.shape == (3,)
    assert set(client.extras) == {"agent_action", "value"}
    # The second state tensor sums brightness over the calls.
    np.testing.assert_allclose(client.state["h"], np.full((1, 4), step + 1.0))
    np.testing.assert_allclose(client.state["c"], np.full((1, 4), 100.0 * (step + 1)))
  assert client.version == 1
  client.reset(seed=6)
  np.testing.assert_allclose(client.act(FRAME), [100, 6, 0])


def test_many_environments_in_one_call(client):
  client.reset(batch_size=3, seed=[7, 9, 11])
  frames = np.stack([FRAME, FRAME + 1, FRAME + 2])
  np.testing.assert_allclose(client.act(frames), [[100, 7, 0], [101, 9, 0], [102, 11, 0]])
  client.restart([False, True, False], seed=[1, 2, 3])
  np.testing.assert_allclose(client.act(frames), [[100, 7, 1], [101, 2, 0], [102, 11, 1]])
  np.testing.assert_allclose(client.state["h"][:, 0], [2, 1, 2])


def test_seeds_count_on_from_an_integer(client):
  client.reset(batch_size=2, seed=40)
  np.testing.assert_allclose(client.act(np.stack([FRAME] * 2))[:, 1], [40, 41])


def test_wrong_use_is_named(client):
  with pytest.raises(RuntimeError, match=r"reset\(\) first"):
    client.act(FRAME)
  with pytest.raises(ValueError, match="batch_size is 3"):
    client.reset(3, seed=[1, 2])
  client.reset()
  with pytest.raises(ValueError, match="float64"):
    client.act(FRAME * 1.0)
  with pytest.raises(ValueError, match="2 frames"):
    client.act(np.stack([FRAME] * 2))


def test_output_filter(client):
  seed = np.zeros((1, 2), np.int32)
  inputs = {"frame": FRAME[None], "seed": seed, **client.predict("initial_state", {"seed": seed})}
  assert set(client.predict("act", inputs, output_filter=["value"])) == {"value"}


def test_errors_name_the_call_and_say_what_to_do(target):
  with PlannerClient(target, "nope") as client, pytest.raises(CallError) as caught:
    client.reset()
  assert caught.value.code == grpc.StatusCode.NOT_FOUND
  assert caught.value.message == "Servable not found for request: Latest(nope)"
  for text in ("'initial_state'", "'nope'", target, "Does the server serve"):
    assert text in str(caught.value)


def test_a_pinned_version(target):
  with PlannerClient(target, "triv", version=77) as client, pytest.raises(CallError) as caught:
    client.reset()
  assert caught.value.message == "Servable not found for request: Specific(triv, 77)"


def test_deadline(target):
  with PlannerClient(target, "triv", timeout=0.2) as client:
    start = time.monotonic()
    with pytest.raises(CallError) as caught:
      client.predict("slow", {"milliseconds": np.array([1500], np.int32)})
    assert caught.value.code == grpc.StatusCode.DEADLINE_EXCEEDED
    assert time.monotonic() - start < 1.2


def test_retries_when_the_server_is_away_or_full(failing):
  codes = grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED
  handler, target = failing(*codes, *codes)
  with PlannerClient(target, retry=Retry(first_wait=0.01)) as client:
    assert client.predict("any", {}) == {}
  assert handler.calls == 5


def test_gives_up_after_the_attempts(failing):
  handler, target = failing(*[grpc.StatusCode.UNAVAILABLE] * 9)
  retry = Retry(attempts=3, first_wait=0.01)
  with PlannerClient(target, retry=retry) as client, pytest.raises(CallError) as caught:
    client.predict("any", {})
  assert caught.value.code == grpc.StatusCode.UNAVAILABLE
  assert handler.calls == 3


def test_gives_up_when_the_time_is_up(failing):
  _, target = failing(*[grpc.StatusCode.UNAVAILABLE] * 99)
  retry = Retry(attempts=99, first_wait=0.1)
  start = time.monotonic()
  with PlannerClient(target, retry=retry, timeout=0.5) as client, pytest.raises(CallError):
    client.predict("any", {})
  assert time.monotonic() - start < 2


@pytest.mark.parametrize(
  "code",
  [
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.DEADLINE_EXCEEDED,
  ],
)
def test_other_failures_are_not_retried(failing, code):
  handler, target = failing(code)
  with PlannerClient(target) as client, pytest.raises(CallError, match="on purpose"):
    client.predict("any", {})
  assert handler.calls == 1


def test_waits_double_up_to_a_bound():
  retry = Retry(first_wait=0.1, max_wait=1.0)
  for attempt, longest in enumerate([0.1, 0.2, 0.4, 0.8, 1.0, 1.0]):
    waits = [retry.wait(attempt) for _ in range(50)]
    assert longest / 2 <= min(waits) < max(waits) <= longest


def test_a_server_that_restarts_costs_no_episode(base):
  server = EmbeddedServer()
  target = server.start({"triv": base})
  with PlannerClient(target, "triv", timeout=120.0, retry=Retry(attempts=200)) as client:
    client.reset(seed=1)
    client.act(FRAME)
    server.stop()
    timer = threading.Timer(0.5, server.start, [{"triv": base}, int(target.split(":")[1])])
    timer.start()
    np.testing.assert_allclose(client.act(FRAME), [100, 1, 1])
    timer.join()
  server.stop()


def test_grpc_actor(target):
  actor = GrpcActor(f"grpc://{target}/triv")
  frames = np.full((2, 64, 64, 3), 51, np.uint8)
  actor.begin(2)
  first = actor.act(frames, np.array([True, True]), np.array([3, 4]), [{}, {}])
  np.testing.assert_allclose(first * 255, [[51, 3, 0], [51, 4, 0]], rtol=1e-6)
  second = actor.act(frames, np.array([False, True]), np.array([3, 8]), [{}, {}])
  np.testing.assert_allclose(second * 255, [[51, 3, 1], [51, 8, 0]], rtol=1e-6)


def test_copies_of_an_actor_do_not_share_state(target):
  import copy

  actor = GrpcActor(f"grpc://{target}/triv")
  one, two = copy.copy(actor), copy.copy(actor)
  one.begin(1)
  two.begin(2)

  def act(actor, rows, first):
    frames = np.zeros((rows, 64, 64, 3), np.uint8)
    return actor.act(frames, np.full(rows, first), np.arange(rows))

  for step in range(3):
    np.testing.assert_allclose(act(one, 1, step == 0)[:, 2] * 255, [step], atol=1e-5)
    np.testing.assert_allclose(act(two, 2, step == 0)[:, 2] * 255, [step] * 2, atol=1e-5)


@pytest.mark.parametrize(
  "address",
  [
    *("localhost:1/m", "grpc://localhost:1", "http://a/b", "grpc:///m", "grpcs://a:1/m/versions/x"),
    *("grpc://a:1/m/labels", "grpc://a:1/m/versions/1/2", "grpc://a:1/m?version=1"),
  ],
)
def test_wrong_addresses(address):
  with pytest.raises(ValueError, match="grpc://host:port/model"):
    GrpcActor(address)


def test_addresses():
  assert parse_address("grpc://a:1/m") == Address("a:1", "m")
  assert parse_address("grpcs://a:1/m/versions/12") == Address("a:1", "m", 12, None, True)
  assert parse_address("grpc://a:1/m/labels/canary/") == Address("a:1", "m", None, "canary")
  for text in ("grpc://a:1/m", "grpcs://a:1/m/labels/x", "grpcs://"):
    assert is_address(text)
  for text in ("runs/a/export/planner", "planner", "http://a/b", "grpc"):
    assert not is_address(text)


@pytest.mark.parametrize(
  ("suffix", "message"),
  [
    ("", "Servable not found for request: Latest(nope)"),
    ("/versions/7", "Servable not found for request: Specific(nope, 7)"),
    ("/labels/canary", "Unrecognized servable version label: canary"),
  ],
)
def test_an_address_may_name_a_version_or_a_label(target, suffix, message):
  with pytest.raises(CallError) as caught:
    GrpcActor(f"grpc://{target}/nope{suffix}").begin(1)
  assert caught.value.message == message


def test_a_version_or_a_label_but_not_both(target):
  with pytest.raises(ValueError, match="version=1 and label='stable'"):
    PlannerClient(target, version=1, label="stable")
  with PlannerClient(target, "triv", label="stable") as client, pytest.raises(CallError) as caught:
    client.reset()
  assert caught.value.code == grpc.StatusCode.INVALID_ARGUMENT
  assert "label 'stable'" in str(caught.value)


def test_extras_choose_what_comes_back(target):
  with PlannerClient(target, "triv", extras=["value"]) as client:
    client.reset()
    np.testing.assert_allclose(client.act(FRAME), [100, 0, 0])
    assert set(client.extras) == {"value"}
    np.testing.assert_allclose(client.state["h"], np.ones((1, 4)))


def test_a_call_that_fails_leaves_the_episode_as_it_was(client):
  client.reset(seed=3)
  client.act(FRAME)
  with pytest.raises(CallError, match="DEADLINE_EXCEEDED"):
    client.act(FRAME, timeout=-1)
  np.testing.assert_allclose(client.act(FRAME), [100, 3, 1])
  np.testing.assert_allclose(client.state["h"], np.full((1, 4), 2.0))


def test_a_model_without_spec_is_asked_for_it_once(target, monkeypatch):
  signatures = []
  predict = PlannerClient.predict

  def noted(self, signature, *args, **options):
    signatures.append(signature)
    return predict(self, signature, *args, **options)

  monkeypatch.setattr(PlannerClient, "predict", noted)
  with PlannerClient(target, "triv") as client:
    client.reset()
    for actor in (client, client.fork()):
      actor.reset()
      for _ in range(3):
        actor.act(FRAME)
  assert signatures.count("spec") == 1 and signatures.count("act") == 6


def test_forks_share_the_connection_and_nothing_else(client):
  client.reset(seed=3)
  other = client.fork()
  other.reset(seed=9)
  other.act(FRAME)
  np.testing.assert_allclose(client.act(FRAME), [100, 3, 0])
  np.testing.assert_allclose(other.act(FRAME), [100, 9, 1])


def test_a_message_over_the_limit_is_not_sent_again(failing):
  handler, target = failing(grpc.StatusCode.RESOURCE_EXHAUSTED)
  handler.text = "Received message larger than max (5000000 vs. 4194304)"
  with PlannerClient(target) as client, pytest.raises(CallError, match="larger than max"):
    client.predict("any", {})
  assert handler.calls == 1


def test_all_addresses_of_a_name_take_turns(failing):
  handlers, targets = zip(*[failing() for _ in range(3)], strict=True)
  with PlannerClient("ipv4:" + ",".join(targets)) as client:
    deadline = time.monotonic() + 20
    while not all(handler.calls for handler in handlers):  # They do not all connect at once.
      client.predict("any", {})
      assert time.monotonic() < deadline, [handler.calls for handler in handlers]


# --- TLS --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pems(tmp_path_factory):
  """Two authorities, and certificates that they signed: a server's, and clients'."""
  if shutil.which("openssl") is None:
    pytest.skip("openssl makes the certificates, and is not installed.")
  folder = tmp_path_factory.mktemp("pems")

  def openssl(*arguments):
    subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)

  key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
  for ca in ("ca", "foreign"):
    openssl("req", "-x509", *key, "-keyout", f"{ca}.key", "-out", f"{ca}.pem", "-subj", f"/CN={ca}")
  (folder / "names").write_text("subjectAltName=DNS:planner.test")
  for name, ca in (("server", "ca"), ("client", "ca"), ("stranger", "foreign")):
    openssl("req", *key, "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}")
    openssl(
      *("x509", "-req", "-in", f"{name}.csr", "-CA", f"{ca}.pem", "-CAkey", f"{ca}.key"),
      *("-CAcreateserial", "-out", f"{name}.pem", "-extfile", "names"),
    )
  return folder


def _tls(pems, ca="ca", who="client"):
  return TLS(pems / f"{ca}.pem", pems / f"{who}.key", pems / f"{who}.pem", "planner.test")


def test_mutual_tls(pems):
  server = grpc.server(concurrent.futures.ThreadPoolExecutor(2), handlers=[calls.Failing()])

  def read(name):
    return (pems / name).read_bytes()

  credentials = grpc.ssl_server_credentials(
    [(read("server.key"), read("server.pem"))], read("ca.pem"), require_client_auth=True
  )
  target = f"127.0.0.1:{server.add_secure_port('127.0.0.1:0', credentials)}"
  server.start()
  one = Retry(attempts=1)
  try:
    with PlannerClient(target, credentials=_tls(pems)) as client:
      assert client.predict("any", {}) == {}
    actor = GrpcActor(f"grpcs://{target}/any/versions/1", credentials=_tls(pems))
    assert actor.client.predict("any", {}) == {}
    refused = [
      _tls(pems, ca="foreign"),  # The client does not trust the server,
      _tls(pems, who="stranger"),  # nor the server this client,
      TLS(pems / "ca.pem", server_name="planner.test"),  # nor one without a certificate;
      dataclasses.replace(_tls(pems), server_name="other.test"),  # the name is another one;
      None,  # and plain text is not understood.
    ]
    for tls in refused:
      with PlannerClient(target, credentials=tls, retry=one) as client:
        with pytest.raises(CallError) as caught:
          client.predict("any", {})
        assert caught.value.code == grpc.StatusCode.UNAVAILABLE
        assert "TLS" in str(caught.value)
  finally:
    server.stop(0).wait()


def test_wrong_tls_files_are_named(pems, tmp_path):
  with pytest.raises(FileNotFoundError, match=r"nowhere\.pem"):
    TLS(ca="nowhere.pem").credentials()
  (tmp_path / "text").write_text("hello")
  with pytest.raises(ValueError, match=r"ca file .*text is not in PEM form"):
    TLS(ca=tmp_path / "text").credentials()
  with pytest.raises(ValueError, match="both key and certificate"):
    TLS(key=pems / "client.key").credentials()
