"""TLS and mTLS, health, and what a client cannot make endless."""

import gzip
import json
import shutil
import socket
import subprocess
import time
import zlib

import grpc
import numpy as np
import pytest
from google.protobuf import text_format
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tensorflow.core.framework.tensor_pb2 import TensorProto

from serving import config, rest_server
from serving.embedded import EmbeddedServer
from serving.rest import MAX_BODY_BYTES
from tests.naming import raises_naming
from tests.serving.calls import Code, echo, expect, flood, http_call, in_threads, request_of

PREDICT = "/v1/models/triv:predict"
ECHO = {"signature_name": "echo", "instances": [1.0]}


def _openssl(*arguments):
  subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True)


@pytest.fixture(scope="module")
def pem(tmp_path_factory):
  """An authority, and a key and certificate that it signed for a server and for a client."""
  if not shutil.which("openssl"):
    pytest.skip("no openssl to make certificates with")
  folder = tmp_path_factory.mktemp("pem")
  ca_key, ca = folder / "ca.key", folder / "ca.crt"
  new_key = ("-newkey", "rsa:2048", "-nodes")
  _openssl(
    *("req", "-x509", *new_key, "-keyout", ca_key, "-out", ca, "-days", 2, "-subj", "/CN=ca")
  )
  for name in ("server", "client"):
    key, request = folder / f"{name}.key", folder / f"{name}.csr"
    _openssl("req", *new_key, "-keyout", key, "-out", request, "-subj", "/CN=localhost")
    (folder / "names").write_text("subjectAltName=DNS:localhost,IP:127.0.0.1")
    _openssl(
      *("x509", "-req", "-in", request, "-CA", ca, "-CAkey", ca_key, "-CAcreateserial"),
      *("-days", 2, "-out", folder / f"{name}.crt", "-extfile", folder / "names"),
    )
  return {path.name: path.read_bytes() for path in folder.iterdir()}


def _ssl_file(tmp_path, pem, verify):
  message = config.SSLConfig(
    server_key=pem["server.key"].decode(),
    server_cert=pem["server.crt"].decode(),
    custom_ca=pem["ca.crt"].decode() if verify else "",
    client_verify=verify,
  )
  path = tmp_path / "ssl.config"
  path.write_text(text_format.MessageToString(message))
  return path


def test_tls(pem, base, tmp_path, stubs_for):
  credentials = config.server_credentials(_ssl_file(tmp_path, pem, verify=False))
  with EmbeddedServer(credentials=credentials) as server:
    target = server.start({"triv": base})
    trusting = stubs_for(target, grpc.ssl_channel_credentials(pem["ca.crt"]))
    assert echo(trusting) == (1, 1.0)
    expect(stubs_for(target).prediction.Predict, request_of({}), Code.UNAVAILABLE)
    doubting = stubs_for(target, grpc.ssl_channel_credentials())
    expect(doubting.prediction.Predict, request_of({}), Code.UNAVAILABLE)


def test_mutual_tls(pem, base, tmp_path, stubs_for):
  credentials = config.server_credentials(_ssl_file(tmp_path, pem, verify=True))
  with EmbeddedServer(credentials=credentials) as server:
    target = server.start({"triv": base})
    known = grpc.ssl_channel_credentials(pem["ca.crt"], pem["client.key"], pem["client.crt"])
    assert echo(stubs_for(target, known)) == (1, 1.0)
    unknown = stubs_for(target, grpc.ssl_channel_credentials(pem["ca.crt"]))
    expect(unknown.prediction.Predict, request_of({}), Code.UNAVAILABLE)


@pytest.mark.parametrize(
  "text, complaint",
  [
    ("", "server_key and server_cert"),
    ('server_key: "/etc/key.pem" server_cert: "/etc/cert.pem"', "not a file name"),
    ('server_key: "-----BEGIN" server_cert: "-----BEGIN" client_verify: true', "custom_ca"),
    ("server_kee: 3", "server_kee"),
  ],
)
def test_a_wrong_ssl_file_is_named(tmp_path, text, complaint):
  path = tmp_path / "ssl.config"
  path.write_text(text)
  with raises_naming(path, config.ConfigError, complaint):
    config.server_credentials(path)


def test_health(base, stubs_for):
  server = EmbeddedServer(health=True)
  with server:
    stub = health_pb2_grpc.HealthStub(stubs_for(server.start({"triv": base})).channel)
    for name in ("", "PredictionService", "ModelService"):
      answer = stub.Check(health_pb2.HealthCheckRequest(service=name), timeout=20)
      assert answer.status == health_pb2.HealthCheckResponse.SERVING
    expect(stub.Check, health_pb2.HealthCheckRequest(service="nope"), Code.NOT_FOUND)
    # A watcher holds no thread that calls need, and hears of the end.
    watched = stub.Watch(health_pb2.HealthCheckRequest())
    assert next(watched).status == health_pb2.HealthCheckResponse.SERVING
    server.stop(grace=0.5)
    assert next(watched).status == health_pb2.HealthCheckResponse.NOT_SERVING


def test_a_tensor_of_terabytes_in_a_few_bytes(stubs):
  proto = TensorProto(dtype=1, float_val=[1.0])
  for size in (2**20, 2**20, 2**10):
    proto.tensor_shape.dim.add().size = size
  expect(
    stubs.prediction.Predict,
    request_of({"x": proto}, "echo"),
    Code.INVALID_ARGUMENT,
    "tensor parsing error: x",
  )


def test_errors_that_quote_bytes_that_are_no_text(stubs):
  request = request_of({"inputs": np.array([b"\xb9" * 9], object)}, "classify")
  expect(stubs.prediction.Predict, request, Code.INVALID_ARGUMENT)


def test_gzip_over_grpc(stubs):
  response = stubs.prediction.Predict(
    request_of({"x": [1.5] * 1000}, "echo"), compression=grpc.Compression.Gzip
  )
  assert list(response.outputs["x"].float_val) == [1.5] * 1000


def test_a_compressed_bomb_over_grpc(target):
  # 272 MB of zeros: more than a message may hold once it is unpacked.
  packer = zlib.compressobj(1, wbits=31)
  block = bytes(1 << 24)
  bomb = b"".join(packer.compress(block) for _ in range(17)) + packer.flush()
  with grpc.insecure_channel(target, [("grpc.max_send_message_length", -1)]) as channel:
    call = channel.unary_unary("/tensorflow.serving.PredictionService/Predict")
    expect(call, bomb, Code.RESOURCE_EXHAUSTED, timeout=120)
    expect(call, bomb[:1000], Code.INVALID_ARGUMENT, "The request is not gzip: it is truncated")


def test_a_compressed_bomb_over_rest(rest):
  body = gzip.compress(bytes(MAX_BODY_BYTES + 1))
  answer = http_call(rest, "POST", PREDICT, body, [("Content-Encoding", "gzip")])
  assert answer.status == 413, answer.text
  assert "has more than" in answer.error
  for damaged in (body[:-9], b"\x1f\x8bnonsense"):
    answer = http_call(rest, "POST", PREDICT, damaged, [("Content-Encoding", "gzip")])
    assert answer.status in (400, 413)
  answer = http_call(rest, "POST", PREDICT, b"x", [("Content-Encoding", "br")])
  assert answer.status == 400


def test_bodies_and_headers_end_somewhere(rest):
  answer = http_call(rest, "POST", PREDICT, b"", [("Content-Length", str(MAX_BODY_BYTES * 9))])
  assert answer.status == 413 and "error" in answer.json
  answer = http_call(rest, "GET", "/v1/models/triv", None, [("X-Long", "x" * (1 << 17))])
  assert answer.status == 431 and "error" in answer.json
  assert http_call(rest, "POST", PREDICT, "[" * 200_000).status == 400
  assert http_call(rest, "POST", PREDICT, '{"instances": [' + "9" * 10_000).status == 400


def _raw(target, data):
  """The first line of the answer to bytes as they are."""
  host, port = target.split(":")
  with socket.create_connection((host, int(port)), timeout=20) as connection:
    connection.sendall(data)
    return connection.recv(1000).split(b"\r\n")[0].decode()


def test_http_that_is_none(rest):
  assert " 400 " in _raw(rest, b"nonsense\r\n\r\n")
  assert " 400 " in _raw(rest, b"POST / HTTP/1.1\r\nContent-Length: -5\r\n\r\n")
  assert " 501 " in _raw(rest, b"POST / HTTP/1.1\r\nTransfer-Encoding: bogus\r\n\r\n")
  # Not a file is reached, whatever the path.
  for path in ("/../../../etc/passwd", "/v1/models/../../etc/passwd", "//etc/passwd", "/%2e%2e/"):
    line = _raw(rest, f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    assert " 400 " in line or " 404 " in line, line


def test_idle_connections_make_room(rest, target, stubs_for):
  host, port = rest.split(":")
  idle = [socket.create_connection((host, int(port))) for _ in range(400)]
  try:
    # Some are in the middle of a request that they never end.
    for connection in idle[::4]:
      try:
        connection.sendall(b"POST /v1/models/triv:predict HTTP/1.1\r\nContent-Le")
      except OSError:
        continue  # Closed already, to make room.
    in_threads(lambda i: _must_answer(rest), 4)
  finally:
    for connection in idle:
      connection.close()
  grpc_host, grpc_port = target.split(":")
  idle = [socket.create_connection((grpc_host, int(grpc_port))) for _ in range(400)]
  try:
    assert echo(stubs_for(target)) == (1, 1.0)
  finally:
    for connection in idle:
      connection.close()


def test_grpc_connections_that_say_nothing_are_closed(base, stubs_for):
  limits = (("grpc.max_allowed_incoming_connections", 8), ("grpc.server_handshake_timeout_ms", 500))
  with EmbeddedServer(channel_arguments=limits) as server:
    target = server.start({"triv": base})
    host, port = target.split(":")
    silent = [socket.create_connection((host, int(port))) for _ in range(20)]
    try:
      request = request_of({"x": [1.0]}, "echo")
      stubs_for(target).prediction.Predict(request, timeout=60, wait_for_ready=True)
    finally:
      for connection in silent:
        connection.close()


def _must_answer(rest):
  assert http_call(rest, "POST", PREDICT, ECHO).json == {"predictions": [1.0]}


def test_a_request_that_trickles_is_cut_off(base, monkeypatch):
  monkeypatch.setattr(rest_server, "_REQUEST_SECONDS", 0.5)
  with EmbeddedServer(rest_port=0) as server:
    server.start({"triv": base})
    server._rest._server.adj.cleanup_interval = 0.2
    host, port = server.rest_target.split(":")
    with socket.create_connection((host, int(port)), timeout=20) as connection:
      connection.sendall(b"POST /v1/models/triv:predict HTTP/1.1\r\n")
      end = time.monotonic() + 20
      with pytest.raises(OSError):
        while time.monotonic() < end:
          connection.sendall(b"X: y\r\n")
          time.sleep(0.1)


def test_rest_calls_that_take_too_long_get_504(base):
  with EmbeddedServer(rest_port=0, rest_timeout=0.3, rest_threads=2) as server:
    server.start({"triv": base})
    body = {"signature_name": "slow", "instances": [1500]}
    answer = http_call(server.rest_target, "POST", PREDICT, body)
    assert answer.status == 504
    assert http_call(server.rest_target, "GET", "/v1/models/triv").status == 200


def test_rest_drains(base):
  server = EmbeddedServer(rest_port=0)
  with server:
    server.start({"triv": base})
    target, answers = server.rest_target, []
    body = {"signature_name": "slow", "instances": [1500]}

    def client(i):
      if i == 0:
        answers.append(http_call(target, "POST", PREDICT, body))
      else:
        time.sleep(0.5)
        server.stop(20)

    in_threads(client, 2)
  assert answers[0].status == 200 and answers[0].headers["connection"] == "close"
  with pytest.raises(OSError):
    http_call(target, "GET", "/v1/models/triv")


def test_cors(base):
  with EmbeddedServer(rest_port=0, rest_cors=True) as server:
    server.start({"triv": base})
    headers = [("Origin", "https://example.org")]
    answer = http_call(server.rest_target, "OPTIONS", PREDICT, None, headers)
    assert answer.status == 200
    assert answer.headers["access-control-allow-origin"] == "*"
    assert http_call(server.rest_target, "OPTIONS", PREDICT).status == 400


def test_metrics_do_not_grow_with_what_clients_make_up(base, stubs_for):
  with EmbeddedServer(rest_port=0) as server:
    stubs = stubs_for(server.start({"triv": base}))
    size = len(server.metrics.page())
    for i in range(50):
      expect(stubs.prediction.Predict, request_of({}, name=f"made_up_{i}"), Code.NOT_FOUND)
      assert http_call(server.rest_target, "GET", f"/v1/models/made_up_{i}").status == 404
    assert "made_up" not in server.metrics.page()
    assert len(server.metrics.page()) < size + 500


def test_floods_are_refused_and_the_server_goes_on(target, stubs_for):
  stubs = stubs_for(target)
  codes = {code for code, _ in flood(stubs, 300, 20)}
  assert codes <= {Code.OK, Code.RESOURCE_EXHAUSTED}
  assert echo(stubs) == (1, 1.0)


def test_large_replies_and_requests_are_whole(rest):
  frames = np.full((8, 64, 64, 3), 7, np.uint8)
  body = json.dumps({"signature_name": "image", "instances": frames.tolist()})
  answer = http_call(rest, "POST", PREDICT, body)
  assert answer.json == {"predictions": [[7.0, 7.0, 7.0]] * 8}
