"""A folder is for one run: another configuration, seed, data or model is refused."""

import dataclasses

import pytest

from tests.training.small_run import CONFIG, KillAt, Killed, SmallModel, TinyModel, run
from wm_tf.files import read_json, write_json
from wm_tf.training import checkpoints
from wm_tf.training.loop import RunMismatchError

SHORT = dataclasses.replace(CONFIG, num_epochs=4)


def test_another_run_in_the_folder_is_refused(tmp_path):
  config = dataclasses.replace(SHORT, num_epochs=1)

  def fit_it(**options):
    defaults = {"config": config, "fingerprint": {"data": "a"}, "model": TinyModel()}
    run(tmp_path, **(defaults | options))

  others = {
    "seed = 7, .* 8": {"seed": 8},
    "learning_rate = 0.003, .* 0.1": {"config": dataclasses.replace(config, learning_rate=0.1)},
    "fingerprint/data = 'a', .* 'b'": {"fingerprint": {"data": "b"}},
  }
  with pytest.raises(Killed):
    fit_it(logger=KillAt(tmp_path / "metrics.jsonl", 5))
  for message, options in others.items():
    with pytest.raises(RunMismatchError, match=message):
      fit_it(**options)
  fit_it()  # The refusals have harmed nothing.
  for message, options in others.items():
    with pytest.raises(RunMismatchError, match=message):
      fit_it(**options)


def test_checkpoint_of_another_model_is_refused(tmp_path):
  unfinished, finished = tmp_path / "unfinished", tmp_path / "finished"
  config = dataclasses.replace(SHORT, num_epochs=1)
  with pytest.raises(Killed):
    run(unfinished, config, logger=KillAt(unfinished / "metrics.jsonl", 5))
  run(finished, config)
  mismatch = r"lstm_cell/kernel' is float32\[144, 32\] in the file.*float32\[144, 64\] is expected"
  for folder in (unfinished, finished):
    with pytest.raises(checkpoints.CheckpointMismatchError, match=mismatch):
      run(folder, config, model=SmallModel(units=16))


def test_a_run_from_before_an_option_goes_on_with_its_default(tmp_path):
  uninterrupted = run(tmp_path, SHORT)
  description = read_json(tmp_path / "run.json")
  del description["config"]["precision"]
  write_json(tmp_path / "run.json", description)
  assert run(tmp_path, SHORT) == uninterrupted
  with pytest.raises(RunMismatchError, match="config/precision = 'float32'"):
    run(tmp_path, dataclasses.replace(SHORT, precision="bfloat16"))
