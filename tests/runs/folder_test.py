"""Whose a workdir is, and the time that is spent on it."""

from __future__ import annotations

import dataclasses
import json
import shutil
import time
from pathlib import Path

import pytest

from tests.naming import raises_naming
from tests.trainers.workdirs import read_json
from wm_tf.config import make_config
from wm_tf.runs import folder as run_folder
from wm_tf.runs.folder import Description, RunFolder, read_description
from wm_tf.runs.workdir import WorkdirError

_PRETRAINED = Path(__file__).resolve().parents[2] / "pretrained" / "car_racing" / "run.json"


def test_what_is_written_is_read(tmp_path):
  config = make_config("debug", ["vae.row_weights=((0, 8, 2.0),)"])
  for _ in range(2):
    with RunFolder(tmp_path / "run", config, 3):
      assert read_description(tmp_path / "run" / "run.json") == (config, 3)
  assert read_description(tmp_path / "no" / "run.json") is None


def test_a_run_of_an_older_version_is_the_same_run(tmp_path):
  """What it does not mention is as it is by default."""
  values = json.loads(json.dumps(Description(make_config(), 3).to_dict()))
  del values["config"]["quality_gates"], values["config"]["planner"]
  del values["config"]["evaluate"]["num_episodes"]
  (tmp_path / "run.json").write_text(json.dumps(values))
  with RunFolder(tmp_path, make_config(), 3):
    assert read_json(tmp_path / "run.json") == values
  changed = dataclasses.replace(make_config(), quality_gates=False)
  with pytest.raises(WorkdirError, match="quality_gates = True, and now it is False"):
    RunFolder(tmp_path, changed, 3).__enter__()


def test_how_to_train_controllers_may_be_chosen_until_there_is_one(tmp_path):
  for method in ("es", "actor_critic"):
    config = make_config("debug", [f"controller.method={method}"])
    with RunFolder(tmp_path, config, 0):
      assert read_description(tmp_path / "run.json") == (config, 0)
  (tmp_path / "controller").mkdir()
  with pytest.raises(WorkdirError, match="method = 'actor_critic', and now it is 'es'"):
    RunFolder(tmp_path, make_config("debug", ["controller.method=es"]), 0).__enter__()


def test_the_pretrained_run_is_one(tmp_path):
  shutil.copy(_PRETRAINED, tmp_path)
  config, seed = read_description(_PRETRAINED)
  assert config.preset == "full"
  with RunFolder(tmp_path, config, seed):
    assert (tmp_path / "run.json").read_bytes() == _PRETRAINED.read_bytes()


@pytest.mark.parametrize(
  ("text", "message"),
  [
    ("{", "is damaged"),
    ("[1]", "is damaged"),
    ('{"config": {}}', "is no run.json"),
    ('{"config": [], "seed": 1}', "is no run.json"),
    ('{"config": {"vae": {"betta": 1.0}}, "seed": 1}', "run.json: config.vae: .*did you mean beta"),
  ],
)
def test_what_is_no_description_is_named(tmp_path, text, message):
  path = tmp_path / "run.json"
  path.write_text(text)
  with raises_naming(path, WorkdirError, message):
    read_description(path)


def test_time_is_recorded_as_it_goes_and_added_up(tmp_path, monkeypatch):
  monkeypatch.setattr(run_folder, "_SECONDS_BETWEEN_RECORDS", 0.01)
  with RunFolder(tmp_path, make_config(), 0) as run:
    with run.timing("fit"):  # Killed here, it would have taken this.
      end = time.monotonic() + 30
      while run.seconds().get("fit", 0.0) < 0.05:
        assert time.monotonic() < end
        time.sleep(0.01)
    first = run.seconds()["fit"]
    with pytest.raises(KeyError), run.timing("fit"):
      time.sleep(0.05)
      raise KeyError  # A stage that fails has taken time too.
    assert run.timed(lambda iteration: 2 * iteration, 4) == 8
  assert run.seconds().keys() == {"fit", "<lambda>"}
  assert first + 0.04 <= run.seconds()["fit"] < first + 5


def test_rollouts_without_their_manifest_are_not_passed_over(tmp_path):
  run = RunFolder(tmp_path, make_config(), 0)
  for name in ("000", "000_random"):
    (tmp_path / "data" / name).mkdir(parents=True)
    (tmp_path / "data" / name / "shard-00000.tfrecord").touch()
  (tmp_path / "data/000/manifest.json").touch()
  with pytest.raises(WorkdirError, match=r"data/000_random/manifest\.json is missing"):
    run.data_folders(0)


def test_the_best_of_the_first_iterations(tmp_path):
  run = RunFolder(tmp_path, make_config("debug"), 0)
  for iteration, mean in enumerate((10.0, 40.0, 20.0, 90.0)):
    folder = run.path("controller", iteration)
    folder.mkdir(parents=True)
    validation = {"iteration": iteration, "controller_in_environment": {"mean": mean}}
    (folder / "validation.json").write_text(json.dumps(validation))
  assert [run.best_iteration(last) for last in (0, 2, 3, None)] == [0, 1, 3, 3]
