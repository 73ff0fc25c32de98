"""The family of jointly trained models."""

import json

import pytest

from tests.worlds import assert_same
from wm_tf import config as config_lib
from wm_tf.models.rssm import RSSM
from wm_tf.runs.folder import Description, read_description
from wm_tf.runs.joint import Joint
from wm_tf.runs.run import Run
from wm_tf.runs.workdir import WorkdirError
from wm_tf.training import checkpoints


def _run(folder, **options) -> Run:
  return Run(folder, environment="gym:CartPole-v1", preset="debug", **options)


def test_the_preset_dreamer():
  config = config_lib.make_config("dreamer", environment="gym:Pendulum-v1")
  assert config.family == "rssm" and config.controller.method == "actor_critic"
  assert config_lib.from_dict(json.loads(json.dumps(config_lib.to_dict(config)))) == config


def test_a_run_from_before_this_family_is_read(tmp_path):
  config = config_lib.make_config("debug")
  values = json.loads(json.dumps(Description(config, 3).to_dict()))
  del values["config"]["rssm"], values["config"]["rssm_fit"]
  (tmp_path / "run.json").write_text(json.dumps(values))
  found = read_description(tmp_path / "run.json")
  assert found.seed == 3 and found.config.vae == config.vae
  # So that the command of that run still describes it.
  assert found == (config, 3)


def test_the_model_fits_the_environment_and_its_weights_are_loaded(tmp_path):
  run = _run(tmp_path / "run", overrides=["family=rssm"])
  assert isinstance(run.family, Joint) and run.family.batch_kinds() == {"rssm": 16}
  model = run.family.new_model()
  assert isinstance(model, RSSM) and model.num_choices == (2,)
  with pytest.raises(WorkdirError, match=r"rssm/000/weights.npz .*run trainers.iterate first"):
    run.family.load_model(model, 0)
  checkpoints.save_weights(model, run.family.model_weights(0))
  loaded = run.world_model(0)
  assert_same([x.value for x in loaded.weights], [x.value for x in model.weights], rtol=0, atol=0)


def test_sequences_are_the_rollouts_themselves(tmp_path):
  run = _run(tmp_path / "run", overrides=["family=rssm"])
  folder = run.path("data", 0)
  assert run.family.sequences(folder, 0) == folder


def test_another_family_has_other_fits(tmp_path):
  run = _run(tmp_path / "run", overrides=["family=rssm"])
  with pytest.raises(config_lib.ConfigError, match=r"family=rssm has no fit 'vae'; .* are rssm"):
    run.train_fit("vae", 0)
  with pytest.raises(config_lib.ConfigError, match="has no fit 'rssm'; its fits are vae, dynamics"):
    _run(tmp_path / "other").train_fit("rssm", 0)
