"""The parts of an export: the state by name, version folders."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import NamedTuple

import pytest
import tensorflow as tf

from serving.errors import ServingError
from serving.model import Servable
from wm_tf import export
from wm_tf.export import writing
from wm_tf.files import DamagedFileError


class _Inner(NamedTuple):
  mean: tf.Tensor
  parts: tuple


def test_state_names_and_round_trip():

  def one(value):
    return tf.constant([value])

  state = {"b": _Inner(one(1.0), (one(2.0), one(3))), "a": one(True), "c": ()}
  flat = export.flatten_state(state, "s")
  assert list(flat) == ["s_a", "s_b_mean", "s_b_parts_0", "s_b_parts_1"]
  back = export.unflatten_state(state, flat, "s")
  tf.nest.assert_same_structure(state, back)
  assert [x.numpy()[0] for x in tf.nest.flatten(back)] == [True, 1.0, 2.0, 3]


def test_versions(exports, tmp_path, monkeypatch):
  agent, base = exports.agents["controller"], tmp_path / "controller"
  (base / ".8.part").mkdir(parents=True)  # What a killed export leaves behind.
  (base / ".8.part" / "rest").touch()
  assert export.export_agent(agent, base, version=7).name == "7"
  assert export.export_agent(agent, base).name == "8"
  assert sorted(p.name for p in base.iterdir()) == ["7", "8"]
  assert not (base / "8" / "rest").exists()
  with pytest.raises(FileExistsError, match="controller/8 exists"):
    export.export_agent(agent, base, version=8)

  def fail(*args, **options):
    raise OSError("disk full")

  # The warmup requests come after the graph: a failure there must leave no version either.
  monkeypatch.setattr(writing, "write_warmup", fail)
  with pytest.raises(OSError, match="disk full"):
    export.export_agent(agent, base)
  assert export.saved_versions(base) == [7, 8]


def test_the_home_directory_is_expanded(tmp_path, monkeypatch):
  monkeypatch.setenv("HOME", str(tmp_path / "home"))
  monkeypatch.chdir(tmp_path)

  def double(x):
    return {"y": 2.0 * x}

  signature = writing.Signature(double, {"x": tf.TensorSpec([None], tf.float32, "x")})
  final = writing.write_version("~/model", None, {"double": signature}, "double", None)
  assert final == tmp_path / "home" / "model" / "1" and final.is_dir()
  assert export.saved_versions("~/model") == [1]
  assert not (tmp_path / "~").exists()


def test_what_is_no_exported_agent_is_named(exports, tmp_path):
  with pytest.raises(FileNotFoundError, match="holds no SavedModel"):
    export.load_agent(tmp_path)
  with pytest.raises(ValueError, match="no signature 'act'"):
    export.load_agent(exports.path / "world_model")


def test_an_export_that_was_changed_is_refused_by_name(exports, tmp_path):
  """A constant of the graph may change, and TensorFlow loads it all the same."""
  path = Path(shutil.copytree(exports.path / "controller" / "1", tmp_path / "controller" / "1"))
  Servable(str(path)).close()
  sound = (path / "saved_model.pb").read_bytes()
  graph = bytearray(sound)
  graph[len(graph) // 2] ^= 1
  (path / "saved_model.pb").write_bytes(graph)
  with pytest.raises(DamagedFileError, match=r"saved_model\.pb is damaged"):
    export.load_agent(path)
  with pytest.raises(ServingError, match=r"DATA_LOSS: .*saved_model\.pb does not have"):
    Servable(str(path))
  (path / "saved_model.pb").write_bytes(sound)
  (path / "SHA256SUMS").unlink()  # As an export of someone else's, which brings none.
  export.load_agent(path)
  Servable(str(path)).close()
