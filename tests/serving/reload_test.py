"""Versions that appear, disappear or are broken: the old one keeps serving; the status says why."""

import contextlib
import os
import shutil
import threading
import time

import grpc
import pytest
import tensorflow as tf
from google.protobuf import text_format
from tensorflow.core.protobuf import saved_model_pb2
from tensorflow_serving.config import model_server_config_pb2

from serving.embedded import EmbeddedServer
from tests.serving import calls, models
from tests.serving.calls import add_version, wait_until

POLL = 0.05


@pytest.fixture
def server():
  with EmbeddedServer(poll_seconds=POLL) as server:
    yield server


def echo(stubs, version=None):
  """(version, answer) of the model's `echo` for 1.0."""
  return calls.echo(stubs, "m", version=version)


def statuses(stubs):
  return calls.statuses(stubs, "m")


def states(stubs):
  return calls.states(stubs, "m")


def test_hot_reload_fails_no_call(server, base, triv2, stubs_for):
  stubs = stubs_for(server.start({"m": base}))
  answers, errors, over = [], [], threading.Event()

  def client():
    while not over.is_set():
      try:
        answers.append(echo(stubs))
      except grpc.RpcError as error:
        errors.append(error)

  threads = [threading.Thread(target=client) for _ in range(3)]
  for thread in threads:
    thread.start()
  wait_until(lambda: answers)
  add_version(base, triv2, 2)
  wait_until(lambda: (1, "END") in states(stubs))
  wait_until(lambda: answers[-1] == (2, 2.0))
  over.set()
  for thread in threads:
    thread.join()
  assert not errors
  # Every answer is that of the version that it names.
  assert set(answers) == {(1, 1.0), (2, 2.0)}
  assert statuses(stubs) == [(2, "AVAILABLE", ""), (1, "END", "")]
  with pytest.raises(grpc.RpcError) as caught:
    echo(stubs, version=1)
  assert caught.value.details() == "Servable not found for request: Specific(m, 1)"


class Held(tf.Module):
  """Its call begins and ends by files, and not by a clock that a busy machine outruns."""

  @tf.function(input_signature=[tf.TensorSpec([], tf.string, "folder")])
  def hold(self, folder):
    """Writes the file `begun`, and runs until there is a file `over`."""

    def holds(rounds):
      # That the name depends on the round keeps TensorFlow from looking once for all rounds.
      name = tf.where(rounds < 0, "", folder + "/over")
      return tf.size(tf.io.matching_files(name)) == 0

    with tf.control_dependencies([tf.io.write_file(folder + "/begun", "")]):
      rounds = tf.zeros([], tf.int64)
    return {"rounds": tf.while_loop(holds, lambda rounds: (rounds + 1,), (rounds,))[0]}


def test_a_call_in_flight_keeps_its_version_alive(server, tmp_path, triv2, stubs_for):
  base, over = tmp_path / "base", tmp_path / "over"
  model = Held()
  tf.saved_model.save(model, str(base / "1"), {"hold": model.hold})
  stubs = stubs_for(server.start({"m": base}))
  call = stubs.prediction.Predict.future(
    calls.request_of({"folder": str(tmp_path)}, "hold", "m"), timeout=120
  )
  try:
    wait_until((tmp_path / "begun").exists)
    add_version(base, triv2, 2)
    wait_until(lambda: (1, "UNLOADING") in states(stubs))
    assert echo(stubs) == (2, 2.0)
    assert not call.done()
  finally:
    over.touch()  # Also after a failure: the call would never end.
  assert call.result().model_spec.version.value == 1
  wait_until(lambda: (1, "END") in states(stubs))


def test_removing_the_new_version_brings_the_old_one_back(server, base, triv2, stubs_for):
  stubs = stubs_for(server.start({"m": base}))
  add_version(base, triv2, 2)
  wait_until(lambda: states(stubs) == [(2, "AVAILABLE"), (1, "END")])
  shutil.rmtree(base / "2")
  wait_until(lambda: states(stubs) == [(2, "END"), (1, "AVAILABLE")])
  assert echo(stubs) == (1, 1.0)


def _empty(path):
  path.mkdir()


def _without_variables(path):
  shutil.rmtree(path / "variables")


def _truncated_graph(path):
  data = (path / "saved_model.pb").read_bytes()
  (path / "saved_model.pb").write_bytes(data[: len(data) // 2])


def _truncated_variables(path):
  os.truncate(path / "variables" / "variables.data-00000-of-00001", 3)


def _failing_warmup(path):
  models.write_triv(str(path), warmup={"nonsense": tf.zeros([1])})


def _garbled_warmup(path):
  (path / "assets.extra" / "tf_serving_warmup_requests").write_bytes(b"garbage" * 9)


def _edit(path, change):
  saved = saved_model_pb2.SavedModel.FromString((path / "saved_model.pb").read_bytes())
  change(saved.meta_graphs[0])
  (path / "saved_model.pb").write_bytes(saved.SerializeToString())


def _newer_format(path):
  """As a TensorFlow would write it whose graphs this one can no longer read."""

  def change(meta_graph):
    meta_graph.graph_def.versions.min_consumer = 10**6
    meta_graph.meta_info_def.tensorflow_version = "9.7.1"

  _edit(path, change)


def _newer_op(path):
  """As a newer TensorFlow would write it whose model has an op that this one lacks."""

  def change(meta_graph):
    meta_graph.graph_def.node.add(name="new", op="OpOfTheFuture")
    meta_graph.meta_info_def.stripped_op_list.op.add(name="OpOfTheFuture")
    meta_graph.meta_info_def.tensorflow_version = "9.7.1"

  _edit(path, change)


def _without_the_tag(path):
  def change(meta_graph):
    meta_graph.meta_info_def.tags[:] = ["train"]

  _edit(path, change)


def _file_instead_of_graph(path):
  (path / "saved_model.pb").unlink()
  (path / "saved_model.pb").mkdir()


BROKEN = {
  "newer format": (_newer_format, True, "written by TensorFlow 9.7.1, and this server runs 2."),
  "newer op": (_newer_op, True, "written by TensorFlow 9.7.1, and this server runs 2."),
  "other tags": (_without_the_tag, True, "serve"),
  "a folder where a file should be": (_file_instead_of_graph, True, "saved_model.pb"),
  "empty": (_empty, False, "does not exist"),
  "no variables yet": (_without_variables, True, "not a valid checkpoint"),
  "truncated graph": (_truncated_graph, True, "saved_model.pb"),
  "truncated variables": (_truncated_variables, True, "Read less bytes than requested"),
  "failing warmup": (_failing_warmup, False, "input size does not match signature"),
  "garbled warmup": (_garbled_warmup, True, "corrupted record"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_version_leaves_the_old_one_serving(server, base, triv2, stubs_for, kind):
  damage, copy_first, reason = BROKEN[kind]
  stubs = stubs_for(server.start({"m": base}))
  part = base / ".part"
  if copy_first:
    shutil.copytree(triv2, part)
  damage(part)
  os.rename(part, base / "2")
  wait_until(lambda: (2, "END") in states(stubs))
  assert reason in statuses(stubs)[0][2]
  assert states(stubs) == [(2, "END"), (1, "AVAILABLE")]
  assert echo(stubs) == (1, 1.0)
  # A whole version after it is taken as if nothing had been.
  add_version(base, triv2, 3)
  wait_until(lambda: states(stubs) == [(3, "AVAILABLE"), (2, "END"), (1, "END")])


def test_a_version_folder_that_is_written_slowly_is_taken_when_whole(
  server, base, triv2, stubs_for
):
  stubs = stubs_for(server.start({"m": base}))
  files = sorted(path for path in triv2.rglob("*") if path.is_file())
  # The graph first and the variables last: the order in which copying does most harm.
  assert files[-1].parent.name == "variables"
  for source in files:
    destination = base / "2" / source.relative_to(triv2)
    destination.parent.mkdir(parents=True, exist_ok=True)
    data = source.read_bytes()
    with open(destination, "wb") as file:
      for piece in (data[: len(data) // 2], data[len(data) // 2 :]):
        assert echo(stubs) == (1, 1.0)
        file.write(piece)
        file.flush()
        time.sleep(3 * POLL)
  wait_until(lambda: states(stubs) == [(2, "AVAILABLE"), (1, "END")])
  assert echo(stubs) == (2, 2.0)


def test_what_served_serves_on_when_its_files_go(server, base, triv2, stubs_for):
  stubs = stubs_for(server.start({"m": base}))
  shutil.rmtree(base / "1")
  wait_until(lambda: "No versions of servable m found" in statuses(stubs)[0][2])
  assert states(stubs) == [(1, "AVAILABLE")]
  assert echo(stubs) == (1, 1.0)
  base.rmdir()
  wait_until(lambda: "Could not find base path" in statuses(stubs)[0][2])
  assert echo(stubs) == (1, 1.0)
  base.mkdir()
  add_version(base, triv2, 2)
  wait_until(lambda: statuses(stubs) == [(2, "AVAILABLE", ""), (1, "END", "")])
  assert echo(stubs) == (2, 2.0)


def test_a_version_that_the_policy_names_and_that_is_missing(server, base, triv2, stubs_for):
  config = text_format.Parse(
    f"""model_config_list {{ config {{ name: "m" base_path: "{base}" model_platform: "tensorflow"
    model_version_policy {{ specific {{ versions: 1 versions: 7 }} }} }} }}""",
    model_server_config_pb2.ModelServerConfig(),
  )
  stubs = stubs_for(server.start(config))
  (seven, state, reason), one = statuses(stubs)
  assert (seven, state) == (7, "END") and "which the version policy names, was not found" in reason
  assert one == (1, "AVAILABLE", "")
  # Nor does asking for it alone, by mistake, end what serves.
  del config.model_config_list.config[0].model_version_policy.specific.versions[0]
  server.reload(config)
  assert echo(stubs) == (1, 1.0)
  add_version(base, triv2, 7)
  wait_until(lambda: states(stubs) == [(7, "AVAILABLE"), (1, "END")])


def test_folders_whose_names_are_no_versions(server, base, triv2, stubs_for):
  for name in ("99999999999999999999", "-3", "2.tmp", "\u0662", "notes"):
    shutil.copytree(triv2, base / name)
  (base / "5").write_text("a file")
  stubs = stubs_for(server.start({"m": base}))
  assert states(stubs) == [(1, "AVAILABLE")]


def test_a_reload_to_a_model_that_is_broken_or_missing_says_so(server, base, tmp_path, stubs_for):
  stubs = stubs_for(server.start({"m": base}))
  broken, missing = tmp_path / "broken", tmp_path / "missing"
  shutil.copytree(base, broken)
  _truncated_graph(broken / "1")
  for name, path, reason in (
    ("broken", broken, "{name: broken version: 1} due to error: "),
    ("missing", missing, "{name: missing} due to error: NOT_FOUND: Could not find base path"),
  ):
    message = calls.expect(
      stubs.model.HandleReloadConfigRequest,
      calls.reload_request(m=base, **{name: path}),
      grpc.StatusCode.UNKNOWN,
      timeout=60,
    )
    assert message.startswith("1 model(s) did not become available: {{" + reason)
    assert echo(stubs) == (1, 1.0)
  # It stays in the list, and is served as soon as it can be.
  shutil.copytree(base, missing)
  wait_until(lambda: _states_if_any(stubs, "missing") == [(1, "AVAILABLE")])


def _states_if_any(stubs, name):
  with contextlib.suppress(grpc.RpcError):
    return calls.states(stubs, name)


def test_memory_of_old_versions_is_freed(server, tmp_path, triv, stubs_for):
  base = tmp_path / "base"
  shutil.copytree(triv, base / "1")
  stubs = stubs_for(server.start({"m": base}))

  def graphs():
    return sum(isinstance(x, tf.Graph) for x in _live_objects())

  before = graphs()
  for number in range(2, 7):
    add_version(base, triv, number)
    wait_until(lambda n=number: states(stubs)[:2] == [(n, "AVAILABLE"), (n - 1, "END")])
  wait_until(lambda: graphs() <= before + 1)


def _live_objects():
  import gc

  gc.collect()
  return gc.get_objects()


@pytest.mark.parametrize(
  "policy, expected",
  [
    ("", [(3, "AVAILABLE")]),
    ("latest { num_versions: 2 }", [(3, "AVAILABLE"), (2, "AVAILABLE")]),
    ("all {}", [(3, "AVAILABLE"), (2, "AVAILABLE"), (1, "AVAILABLE")]),
    ("specific { versions: 1 versions: 2 }", [(2, "AVAILABLE"), (1, "AVAILABLE")]),
  ],
)
def test_version_policies(server, base, triv2, stubs_for, policy, expected):
  add_version(base, triv2, 2)
  add_version(base, triv2, 3)
  config = text_format.Parse(
    f"""model_config_list {{ config {{ name: "m" base_path: "{base}" model_platform: "tensorflow"
    model_version_policy {{ {policy} }} }} }}""",
    model_server_config_pb2.ModelServerConfig(),
  )
  stubs = stubs_for(server.start(config))
  assert states(stubs) == expected
  assert echo(stubs)[0] == expected[0][0]
